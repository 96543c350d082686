"""What levels save on clips, and what they lose by construction, beside images of the same side.

python -m launch.studies.video --out docs

Gaussian data with the spectrum of natural images (power ~ k^-2) and of natural video (power ~ 1 / (k^2 + c w^2), k in
cycles per side, w in cycles per clip), the exact denoiser, an ideal low-pass, linear betas. Levels halve the frames' sides,
or these and the number of frames. Writes video.md and video.json; trains nothing.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
from absl import flags
from tqdm import tqdm

from ssd_jax.analysis.cost import plan_cost
from ssd_jax.analysis.error import gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.files.json_file import json_text
from ssd_jax.files.paths import check_writable, to_path, write_atomically
from ssd_jax.process.config import make_process, with_levels
from ssd_jax.process.schedules import information_levels
from ssd_jax.process.spectrum import natural_spectrum, spatiotemporal_spectrum
from ssd_jax.sampling.plan import plan_steps

from ..common import report
from ..common.command import run
from . import published

OUT = flags.DEFINE_string("out", "docs", "Folder for video.json and video.md.")
SIZES = flags.DEFINE_multi_integer("size", [64, 256], "Sides of images and frames.")
FRAMES = flags.DEFINE_integer("frames", 16, "Of a clip, a power of 2.", lower_bound=2)
TIME_WEIGHTS = flags.DEFINE_multi_float("time_weight", [1.0, 16.0], "c of the spectrum of video.")
NUM_TIMESTEPS = flags.DEFINE_integer(
    "num_timesteps", 250, "Timesteps of the process, each of them a network call.", lower_bound=20
)

SOLVERS = ("ancestral", "ddim")
TOLERANCE = 1e-3  # nats per pixel that a level may lose, where the spectrum says when levels begin


@dataclass(frozen=True)
class Measured:
    """One process on data of one spectrum.

    Attributes:
        process: its config.
        halved: which axes its levels halve.
        time_weight: c of the spectrum; None for that of images.
        schedule: of the resolution.
        relative_flops: of ancestral sampling, over those of the same network always at full size.
        errors: `GaussianError.relative_error` of every solver.
    """

    process: ProcessConfig
    halved: str
    time_weight: float | None
    schedule: str
    relative_flops: float
    errors: dict[str, float]


def main() -> None:
    out = to_path(OUT.value)
    check_writable(out)
    measured = [measure(*each) for each in tqdm(cases(), desc="processes")]
    lines = ",\n".join(json_text(asdict(each)) for each in measured)
    for suffix, content in {"json": f"[\n{lines}\n]\n", "md": markdown(measured)}.items():
        write_atomically(out / f"video.{suffix}", lambda file, c=content: file.write(c.encode()))
    print(markdown(measured))


def cases() -> list[tuple[ProcessConfig, str, float | None, str]]:
    """Every process with what its levels halve, c, and its schedule."""
    found: list[tuple[ProcessConfig, str, float | None, str]] = []
    frames = FRAMES.value
    # Frames are halved as long as there are any, as sides are.
    ways = {"space": ((1, 2, 2),), "space and time": ((2, 2, 2),) * (frames.bit_length() - 1) + ((1, 2, 2),)}
    for size in SIZES.value:
        image = replace(published.process(size, NUM_TIMESTEPS.value), snr_policy="preserve")
        for weight in (None, *TIME_WEIGHTS.value):
            process = image if weight is None else replace(image, shape=(frames, size, size), factors=ways["space"])
            found.append((replace(process, num_levels=1), "nothing", weight, "-"))
            for halved, factors in ways.items():
                if weight is not None or halved == "space":
                    each = process if weight is None else replace(process, factors=factors)
                    found += [(each, halved, weight, schedule) for schedule in ("convex_decay 0.5", "information")]
    return found


def measure(config: ProcessConfig, halved: str, time_weight: float | None, schedule: str) -> Measured:
    """The cost and the errors of one process on data of one spectrum."""
    images = time_weight is None
    spectrum = natural_spectrum(config.shape) if images else spatiotemporal_spectrum(config.shape, time_weight=time_weight)
    if schedule == "information":
        config = by_information(config, spectrum)
    process = make_process(config)
    plans = {solver: plan_steps(process, solver=solver, num_steps=config.num_timesteps) for solver in SOLVERS}
    errors = {solver: gaussian_error(plan, spectrum).relative_error for solver, plan in plans.items()}
    network = replace(published.network(config.shape[-1]), factorised=not images, factors=config.factors)
    flops = plan_cost(plans["ancestral"], network).relative_flops
    return Measured(config, halved, time_weight, schedule, flops, errors)


def by_information(config: ProcessConfig, spectrum: np.ndarray) -> ProcessConfig:
    """The config with levels that begin where they lose no more than TOLERANCE of what the spectrum has."""
    whole = make_process(replace(config, num_levels=1))
    return with_levels(config, information_levels(whole.log_snr, spectrum, config.level_shapes, TOLERANCE))


def markdown(measured: list[Measured]) -> str:
    """The page's tables."""
    return f"""# What levels save on clips

Exact, from `python -m launch.studies.video`; nothing is trained or drawn. Gaussian data with the spectrum of natural images
(power ~ k^-2) or of natural video (power ~ 1 / (k^2 + c w^2), k in cycles per side, w in cycles per clip: what moves at one
side a clip has c = 1, at a quarter of one c = 16), the exact denoiser, an ideal low-pass, linear betas, a call at each
timestep. FLOPs are those of sampling over the same network's at full size throughout; the network is the published one,
for clips with factorised layers. Errors are relative, W2^2(N(0, P), N(0, S)) / tr S. Schedules: `convex_decay 0.5`, the
published one, and `information`, where a level loses no more than {TOLERANCE:g} nats per pixel.

{report.markdown([table_row(each) for each in measured])}
"""


def table_row(measured: Measured) -> report.Row:
    """A process as a row of the table; "-" for what images do not have."""
    process = make_process(measured.process)
    return {
        "data": "x".join(map(str, measured.process.shape)),
        "smallest level": "x".join(map(str, process.level_shapes[int(process.levels[-1])])),
        "halved": measured.halved,
        "c": measured.time_weight,
        "schedule": measured.schedule,
        "FLOPs": measured.relative_flops,
        **measured.errors,
    }


if __name__ == "__main__":
    run(main)
