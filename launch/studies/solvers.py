"""Which solver to take: error against calls for all of them, exact for Gaussian images, or of what a trained run draws.

python -m launch.studies.solvers --out runs/solvers [--config celeba64]
python -m launch.studies.solvers --out runs/solvers --workdir runs/x --num 512

Without --workdir: images with the spectrum of natural ones and the exact denoiser, at one level and at those of the config;
nothing is trained or drawn. Beside the solvers stand, both with the steps of ddim, equation (6'), which draws new detail as
the data have it, and the jump rule of pyramidal flow matching (`jumping`), for operators whose M M^T is a multiple of the
identity, such as "box". With --workdir: the distances of `launch.studies.quality` for images that the run draws, always of
the same noise; each is kept, and the command goes on where it stopped. Writes solvers.json, and prints and writes the
table, solvers.md.
"""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.errors import InputError
from ssd_jax.files.json_file import json_text
from ssd_jax.files.paths import check_writable, to_path, write_atomically
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.parts import UpPlan
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.sampling.spacing import fixed_timesteps, lay_out

from ..common import report
from ..common.command import run
from ..common.config_flag import define_config, read_config
from .quality import METRICS, figures, measured

define_config("celeba64")
OUT = flags.DEFINE_string("out", "runs/solvers", "Folder for solvers.json and solvers.md.")
WORKDIR = flags.DEFINE_string("workdir", None, "A trained run, to draw with instead.")
CALLS = flags.DEFINE_list("calls", None, "Network calls; 8,12,20,30,50 or of a run 6,12,20,30 if not given.")
NUM = flags.DEFINE_integer("num", 512, "Images that a run draws for each.", lower_bound=2)
BATCH = flags.DEFINE_integer("batch", 64, "Images drawn at a time.", lower_bound=1)

DETAIL, JUMPS = "ddim, (6')", "ddim, jump rule"


def main() -> None:
    out = to_path(OUT.value)
    check_writable(out)
    given = CALLS.value or (["6", "12", "20", "30"] if WORKDIR.value else ["8", "12", "20", "30", "50"])
    try:
        calls = [int(n) for n in given]
    except ValueError as error:
        raise InputError(f"--calls is {','.join(given)!r}, but must be whole numbers, e.g. 12,30") from error
    rows = exact(calls) if WORKDIR.value is None else drawn(calls)
    shown = table(rows, calls, ["exact error"] if WORKDIR.value is None else list(METRICS))
    text = report.markdown(shown, digits=2) + "\n"
    lines = ",\n".join(map(json_text, rows))
    for name, content in {"solvers.json": f"[\n{lines}\n]\n", "solvers.md": text}.items():
        write_atomically(out / name, lambda file, c=content: file.write(c.encode()))
    print(text)


def exact(calls: list[int]) -> list[dict[str, Any]]:
    """A row for each number of levels, solver and number of calls, with "exact error" and the calls that were made."""
    config, rows = read_config().process, []
    for levels in dict.fromkeys((1, config.num_levels)):
        process = make_process(replace(config, num_levels=levels))
        spectrum = natural_spectrum(process.shape)
        names: list[str] = [*SOLVERS, *([DETAIL, JUMPS] if len(process.used_levels) > 1 else [])]
        for solver in tqdm(names, f"{levels} level(s)"):
            for n in calls:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of few steps
                    plan, made = _plan(process, solver, n, spectrum)
                error = gaussian_error(plan, spectrum).relative_error
                rows.append({"levels": levels, "solver": solver, "calls": n, "made": made, "exact error": error})
    return rows


def _plan(process: ScaleSpaceProcess, solver: str, num_steps: int, spectrum: np.ndarray) -> tuple[Plan, int]:
    """A plan, and the calls that it makes."""
    if solver == JUMPS:
        return jumping(process, num_steps)
    name, of_detail = ("ddim", spectrum) if solver == DETAIL else (solver, None)
    plan = plan_steps(process, solver=name, num_steps=num_steps, spectrum=of_detail)
    return plan, plan.calls


def jumping(process: ScaleSpaceProcess, num_steps: int) -> tuple[Plan, int]:
    """DDIM with the change of resolution of pyramidal flow matching (Jin et al. 2024) and PixelFlow (Chen et al. 2025).

    The state is enlarged by repeating pixels and rescaled, and noise is added whose covariance in every block is that of
    gamma = -1/3: none in the block's mean, so that noise is white again. With M M^T = m^2 I this is
    V (k_x U^T x_t + k_n xi) with the k_x and k_n of equation (6) with eta = 0 for a step to the next timestep, t - 1, whose
    image has the same SNR. No network is called, and no detail of the image enters.

    Returns:
        the plan, with num_steps calls besides those that its rows ignore, and num_steps.

    Raises:
        InputError: for an operator whose singular values differ, which repeating pixels does not invert.
    """
    changes = [process.first_timestep(level) for level in process.used_levels[1:]]
    spread = [process.transition_operator(t - 1, t) for t in changes]
    for operator in spread:
        m = getattr(operator, "singular_values", np.zeros(1))
        if process.dissipation is not None or np.ptp(m[m > 0]) > 1e-9 or not (m > 0).any():
            raise InputError("the jump rule repeats pixels: it needs process.operator 'box' and no blur")
    # As many calls: those of the up-steps are not made.
    count = max(num_steps, len(fixed_timesteps(process)))
    timesteps = sorted({*lay_out(process, count, "log_snr").tolist(), *(t - 1 for t in changes)}, reverse=True)
    made = len(timesteps) - len(changes)
    plan = plan_steps(process, solver="ddim", spacing=timesteps)

    def part(each):
        if not isinstance(each, UpPlan):
            return each
        coefficients = each.coefficients.copy()
        coefficients[..., 1:-1] = 0
        return replace(each, coefficients=coefficients)

    return replace(plan, stages=tuple(map(part, plan.stages))), made


def drawn(calls: list[int]) -> list[dict[str, Any]]:
    """A row for each solver and number of calls, with the METRICS of images of the run."""
    workdir = to_path(str(WORKDIR.value))
    rows = []
    for solver in SOLVERS:
        for n in calls:
            found = figures(measured(workdir, NUM.value, BATCH.value, solver=solver, num_steps=n, spacing="log_snr"))
            rows.append({"solver": solver, "calls": n, "made": n} | {name: found[name] for name in METRICS})
    return rows


def table(rows: list[dict[str, Any]], calls: list[int], metrics: list[str]) -> list[report.Row]:
    """A line for each solver and metric, a column for each number of calls."""
    lines: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        for metric in metrics:
            name = {"levels": row["levels"]} if "levels" in row else {"metric": metric}
            line = lines.setdefault((*name.values(), row["solver"]), {**name, "solver": row["solver"]})
            line[f"{row['calls']} calls"] = row[metric]
    return list(lines.values())


if __name__ == "__main__":
    run(main)
