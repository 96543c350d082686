"""Levels without training: what a run of one level draws at full size, and on the small states of several levels.

python -m launch.studies.training_free --workdir runs/one_level --out runs/training_free [--levels 1,2,3] [--num 1024]

Each row is a process of so many levels, which the run's network takes as `run.training_free.without_training` says: the
same seed, labels and number of calls. FLOPs are those of an image over those of as many calls at full size; `exact` is the
error of the process for Gaussian images of the spectrum of natural ones and the best denoiser of every level, which this
network is not: what a row is worse than it says is the network's. Nothing is written to the run.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from absl import flags

import ssd_jax
from ssd_jax.analysis.cost import path_cost
from ssd_jax.analysis.error import gaussian_error
from ssd_jax.errors import InputError
from ssd_jax.files.paths import to_path
from ssd_jax.metrics import data_reference, evaluate, low_pass_pixels, random_convolutions
from ssd_jax.process.config import make_process
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.run.training_free import without_training
from ssd_jax.sampling.guidance import clipped

from ..common import folders, report
from ..common.command import run
from .quality import METRICS

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of one level.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for what is drawn.", required=True)
LEVELS = flags.DEFINE_list("levels", ["1", "2", "3"], "Numbers of levels.")
NUM = flags.DEFINE_integer("num", 1024, "Images of each.", lower_bound=2)
BATCH = flags.DEFINE_integer("batch", 64, "Images at a time.", lower_bound=1)
NUM_STEPS = flags.DEFINE_integer("num_steps", 30, "Network calls.", lower_bound=1)
SOLVER = flags.DEFINE_string("solver", "dpmpp_2m", "The solver.")


def main() -> None:
    trained = ssd_jax.load(WORKDIR.value)
    rows = [row(trained, levels) for levels in _levels()]
    print(report.markdown(rows, digits=3))


def _levels() -> list[int]:
    """Those asked for. Raises InputError for what is no number."""
    for each in LEVELS.value:
        if not each.isdecimal() or not int(each):
            raise InputError(f"--levels has {each!r}, but must be numbers of levels, e.g. 1,2,3")
    return [int(each) for each in LEVELS.value]


def row(trained: ssd_jax.Trained, levels: int) -> report.Row:
    """Metrics, exact error and cost of a process of so many levels."""
    process = make_process(replace(trained.config.process, num_levels=levels))
    plan = ssd_jax.plan_steps(process, solver=SOLVER.value, num_steps=NUM_STEPS.value)
    denoise = clipped(without_training(trained, process), process.bounds)
    out = to_path(OUT.value) / f"levels-{levels}"
    record: dict[str, Any] = {"levels": levels, "solver": SOLVER.value, "num_steps": NUM_STEPS.value}
    folders.claim(out, folders.origin(trained) | record)
    draw = partial(trained.iterate, denoise, plan, jax.random.key(0), every=max(plan.calls // 20, 1))
    paths = folders.fill(
        out, NUM.value, BATCH.value, trained.encoding, plan.calls, lambda num, first: draw(num=num, first_index=first)
    )
    sets, shape = [low_pass_pixels(), random_convolutions()], trained.encoding.picture_shape[:-1]
    reference = data_reference(trained.config.data, sets, shape)
    found = evaluate(sets, lambda: folders.read_batches(paths, shape), reference)
    return {
        "levels": levels,
        "exact": gaussian_error(plan, natural_spectrum(process.shape)).relative_error,
        **{name: found.get(of, {}).get(field) for name, (of, field) in METRICS.items()},
        "FLOPs": relative_flops(trained, plan),
    }


def relative_flops(trained: ssd_jax.Trained, plan: ssd_jax.Plan) -> float:
    """Of a plan, each call that of the network on a picture of the size of its state, over as many at full size."""
    process, channels = plan.process, trained.encoding.channels
    flops = {
        level: path_cost(trained.config.model, (process.level_shape(level),), channels, 0, 0).flops
        for level in {0, *process.used_levels}
    }
    return sum(part.calls * flops[part.stage.in_level] for part in plan.stages) / (plan.calls * flops[0])


if __name__ == "__main__":
    run(main)
