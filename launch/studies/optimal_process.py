"""Processes that are searched for a budget of operations, against the published schedules.

python -m launch.studies.optimal_process --out runs/optimal_process

The least exact error (`analysis.error`) that so many operations an image buy, with the best timesteps of each: of one
level, of the published schedule in either SNR policy, of a process searched for the budget, and of one that must cost no
more to train than the published schedule does (`relative_training_cost`). Natural spectrum, ideal low-pass, dpmpp_2m. A
search of timesteps is local: a process that is not searched also starts from what it found for the budget before.
Takes half an hour and trains nothing; goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
from absl import flags
from tqdm import tqdm

from ssd_jax.analysis.cost import call_cost
from ssd_jax.analysis.error import gaussian_error
from ssd_jax.analysis.optimal_process import largest_leap, optimal_process
from ssd_jax.config import ProcessConfig, TrainConfig
from ssd_jax.errors import InputError
from ssd_jax.files.json_file import json_text, read_json
from ssd_jax.files.paths import check_writable, to_path, write_atomically
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.search import Budget, affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.training.stage_sampling import relative_training_cost

from ..common import report
from ..common.command import run
from ..common.figures import Figure
from . import published

OUT = flags.DEFINE_string("out", "runs/optimal_process", "Folder for optimal_process.json, .md and .png.")
SIZES = flags.DEFINE_multi_integer("size", [64, 256], "Image sizes.")
BUDGETS = flags.DEFINE_multi_float("budget", [3, 5, 8, 12, 20], "Operations an image, in calls at full size.")
NUM_TIMESTEPS = flags.DEFINE_integer("num_timesteps", 1000, "Timesteps of the process.", lower_bound=20)

SOLVER = "dpmpp_2m"


def main() -> None:
    out = to_path(OUT.value)
    check_writable(out)
    file = out / "optimal_process.json"
    rows = read_json(file) if file.exists() else []
    if any(row["config"]["num_timesteps"] != NUM_TIMESTEPS.value for row in rows):
        raise InputError(f"{str(file)!r} is of other --num_timesteps; choose another --out, nothing is overwritten")
    wanted = [(size, budget, name) for size in SIZES.value for budget in sorted(BUDGETS.value) for name in CONTESTANTS]
    for size, budget, name in tqdm(wanted, desc="processes"):
        own = [row for row in rows if (row["size"], row["process"]) == (size, name)]
        if not any(row["budget"] == budget for row in own):
            before = [row["timesteps"] for row in own if row["budget"] < budget][-1:]
            rows.append({"size": size, "budget": budget, "process": name, **measure(size, budget, name, before)})
            rows.sort(key=lambda row: (row["size"], row["budget"], list(CONTESTANTS).index(row["process"])))
            lines = ",\n".join(map(json_text, rows))
            write_atomically(file, lambda f, text=f"[\n{lines}\n]\n": f.write(text.encode()))
    text = report.markdown([table_row(row) for row in rows], digits=3) + "\n"
    print(text)
    write_atomically(out / "optimal_process.md", lambda f: f.write(text.encode()))
    figure = draw(rows, SIZES.value)
    write_atomically(out / "optimal_process.png", lambda f: figure.savefig(f, format="png", dpi=120))


def one_level(config: ProcessConfig) -> ProcessConfig:
    return replace(config, num_levels=1)


def preserving(config: ProcessConfig) -> ProcessConfig:
    return replace(config, snr_policy="preserve")


# What each makes of the published process, and whether it is then searched, within the published one's cost of training.
CONTESTANTS = {
    "one level": (one_level, False, False),
    "published": (lambda config: config, False, False),
    "published, preserve": (preserving, False, False),
    "searched": (preserving, True, False),
    "searched, training no dearer": (preserving, True, True),
}


def measure(size: int, budget: float, name: str, before: Sequence[Sequence[int]]) -> report.Row:
    """The process and the timesteps of a contestant, their error and cost.

    Args:
        size, budget, name: of the row.
        before: timesteps to start from, too, if the process is not searched.
    """
    change, searched, limited = CONTESTANTS[name]
    original = published.process(size, NUM_TIMESTEPS.value)
    config, solver, spectrum = change(original), SOLVERS[SOLVER], natural_spectrum(original.shape)
    pay = partial(call_cost, published.network(size), 3)

    def training(process: ScaleSpaceProcess) -> float:
        return relative_training_cost(process.stages, TrainConfig().up_share, pay(process))

    if searched:
        most = training(make_process(original)) if limited else np.inf
        config, timesteps = optimal_process(
            config, solver, budget, pay, spectrum, excess=lambda process: max(training(process) / most - 1, 0)
        )
    else:
        process = make_process(config)
        own = Budget(budget, pay(process))
        starts = [affordable_timesteps(process, solver, own).tolist(), *before]
        found = [optimal_timesteps(process, solver, each, spectrum, budget=own) for each in starts]
        timesteps = min(found, key=partial(sampling_error, process))
    process = make_process(config)
    return {
        "config": asdict(config),
        "begins": [process.first_timestep(level) for level in process.used_levels[1:]],
        "timesteps": timesteps.tolist(),
        "error": sampling_error(process, timesteps),
        "flops": sum(map(pay(process), timesteps.tolist())),
        "training_cost": training(process),
        "leap": largest_leap(process, spectrum),
    }


def sampling_error(process: ScaleSpaceProcess, timesteps: np.ndarray) -> float:
    """Exact, on Gaussian data with a natural spectrum."""
    return gaussian_error(
        plan_steps(process, solver=SOLVER, spacing=timesteps), natural_spectrum(process.shape)
    ).relative_error


def table_row(row: dict) -> report.Row:
    return {
        "image": row["size"],
        "operations": row["flops"],
        "process": row["process"],
        "error": row["error"],
        "calls": len(row["timesteps"]),
        "levels begin at t": ", ".join(map(str, row["begins"])) or "-",
        "blur": row["config"]["blur"],
        "training": row["training_cost"],
        "leap, nats": row["leap"],
    }


def draw(rows: Sequence[dict], sizes: Sequence[int]) -> Figure:
    """Error against operations, a line for each contestant."""
    figure = Figure(figsize=(5.5 * len(sizes), 3.8), layout="constrained")
    for size, axes in zip(sizes, figure.subplots(1, len(sizes), squeeze=False)[0], strict=True):
        for name in CONTESTANTS:
            drawn = [row for row in rows if (row["size"], row["process"]) == (size, name)]
            axes.loglog([row["flops"] for row in drawn], [row["error"] for row in drawn], "o-", label=name)
        axes.set(title=f"{size} px", xlabel="operations, in calls at full size", ylabel="relative error")
        axes.set_xticks(budgets := sorted({row["budget"] for row in rows}), [f"{budget:g}" for budget in budgets])
        axes.minorticks_off()
        axes.legend()
    return figure


if __name__ == "__main__":
    run(main)
