"""What scale-space sampling loses by construction: the exact errors that docs/gaussian_error.* show.

python -m launch.studies.gaussian_error --out docs

Data with the spectrum of natural images (power ~ k^-2, standard deviation 0.5), the exact denoiser, linear betas, a call at
each of 1000 timesteps, for processes that differ in image size, levels, operator, SNR policy and resolution schedule. Takes
a few minutes and trains nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from absl import flags
from tqdm import tqdm

from ssd_jax.analysis.cost import plan_cost
from ssd_jax.analysis.error import GaussianError, gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.files.json_file import json_text
from ssd_jax.files.paths import check_writable, to_path, write_atomically
from ssd_jax.process.config import make_process
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.plan import plan_steps

from ..common import report
from ..common.command import run
from ..common.figures import Figure
from . import published

OUT = flags.DEFINE_string("out", "docs", "Folder for gaussian_error.json, .md and .png.")
SIZES = flags.DEFINE_multi_integer("size", [64, 256], "Image sizes.")
NUM_TIMESTEPS = flags.DEFINE_integer(
    "num_timesteps", 1000, "Timesteps of the process, each of them a network call.", lower_bound=20
)

GAMMAS = (0.5, 0.7, 1.0, 2.0)


@dataclass(frozen=True)
class MeasuredProcess:
    """One process and its errors.

    Attributes:
        process: its config.
        relative_flops: of ancestral sampling, over those of the same network always at full size.
        ancestral, ddim: `GaussianError.as_dict` of either sampler.
    """

    process: ProcessConfig
    relative_flops: float
    ancestral: dict
    ddim: dict


def main() -> None:
    check_writable(to_path(OUT.value))
    measured = [measure(config) for config in tqdm(configs(SIZES.value, NUM_TIMESTEPS.value), desc="processes")]
    lines = ",\n".join(json_text(asdict(each)) for each in measured)
    files = {"json": f"[\n{lines}\n]\n", "md": markdown(measured)}
    for suffix, content in files.items():
        write_atomically(to_path(OUT.value) / f"gaussian_error.{suffix}", lambda file, c=content: file.write(c.encode()))
    figure = draw(measured, SIZES.value)
    write_atomically(to_path(OUT.value) / "gaussian_error.png", lambda file: figure.savefig(file, format="png", dpi=120))
    print(files["md"])


def configs(sizes: Sequence[int], num_timesteps: int) -> list[ProcessConfig]:
    """All processes of the table."""
    chosen = []
    for size in sizes:
        plain = replace(published.process(size, num_timesteps), snr_policy="preserve")
        chosen.append(replace(plain, num_levels=1))
        for policy in ("published", "preserve"):
            deep = replace(plain, snr_policy=policy)
            chosen += [replace(deep, num_levels=2), deep]
            if size < 256:
                chosen += [replace(deep, operator=operator) for operator in ("box", "bilinear")]
            chosen += [replace(deep, gamma=gamma) for gamma in GAMMAS[1:]]
            chosen.append(replace(deep, resolution_schedule="information"))
    return chosen


def measure(config: ProcessConfig) -> MeasuredProcess:
    """The errors and the cost of one process."""
    process = make_process(config)
    plans = {solver: plan_steps(process, solver=solver, num_steps=config.num_timesteps) for solver in ("ancestral", "ddim")}
    spectrum = natural_spectrum(process.shape)
    errors: dict[str, GaussianError] = {solver: gaussian_error(plan, spectrum) for solver, plan in plans.items()}
    flops = plan_cost(plans["ancestral"], published.network(config.shape[0])).relative_flops
    return MeasuredProcess(config, flops, *(error.as_dict() for error in errors.values()))


def markdown(measured: Sequence[MeasuredProcess]) -> str:
    """The page."""
    return f"""# What scale-space sampling loses by construction

Exact, from `python -m launch.studies.gaussian_error`; nothing is trained or drawn. Gaussian data with a natural image's
spectrum (power ~ k^-2, standard deviation 0.5), the exact denoiser, linear betas, a call at every timestep. Errors are
relative, W2^2(N(0, P), N(0, S)) / tr S of the drawn covariance P and the data's S; "low frequencies" is the mean of
P_kk / S_kk up to 4 cycles per side; FLOPs are those of sampling over the same network's at full size throughout.

{report.markdown([table_row(each) for each in measured])}

![Variance drawn over variance of the data, by frequency](gaussian_error.png)
"""


def table_row(measured: MeasuredProcess) -> report.Row:
    """A process as a row of the table; "-" for what one of a single level does not have."""
    process = measured.process
    gamma = f" {process.gamma}" if process.resolution_schedule == "convex_decay" else ""
    schedule = process.resolution_schedule + gamma
    changes = {"operator": process.operator, "resolution schedule": schedule, "policy": process.snr_policy}
    return {
        "image": process.shape[0],
        "levels": process.num_levels,
        **(dict.fromkeys(changes) if process.num_levels == 1 else changes),
        "FLOPs": measured.relative_flops,
        "ancestral": measured.ancestral["relative_error"],
        "ancestral, low frequencies": measured.ancestral["low_frequency_ratio"],
        "DDIM": measured.ddim["relative_error"],
        "DDIM, low frequencies": measured.ddim["low_frequency_ratio"],
    }


def is_plain(config: ProcessConfig) -> bool:
    """Whether a process differs from the first of the table in levels and policy only."""
    return (config.operator, config.resolution_schedule, config.gamma) == ("ideal", "convex_decay", GAMMAS[0])


def draw(measured: Sequence[MeasuredProcess], sizes: Sequence[int]) -> Figure:
    """Per-frequency variance ratios of ancestral sampling: one level, published, preserve."""
    figure = Figure(figsize=(5.5 * len(sizes), 3.8), layout="constrained")
    for size, axes in zip(sizes, figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], strict=True):
        drawn = [each for each in measured if each.process.shape[0] == size and is_plain(each.process)]
        depth = max(each.process.num_levels for each in drawn)
        for each in drawn:
            levels, ratios = each.process.num_levels, each.ancestral["variance_ratios"][1:]
            if levels in (1, depth):
                name, style = ("one level", "--") if levels == 1 else (f"{levels} levels, {each.process.snr_policy}", "-")
                axes.semilogx(range(1, len(ratios) + 1), ratios, style, label=name)
        axes.axhline(1, color="gray", linewidth=0.8)
        axes.set(title=f"{size} px, ancestral", xlabel="cycles per side", ylabel="variance drawn / variance of the data")
        axes.legend()
    return figure


if __name__ == "__main__":
    run(main)
