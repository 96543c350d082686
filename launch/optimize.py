"""Searches the timesteps that draw best with few network calls, for a config, its data's spectrum and a budget.

python -m launch.optimize --config configs/openmoji32.py --num_steps 12 [--flops 10 --process --spectrum natural]

Prints the plan, its exact Gaussian error and cost beside those of spacing "log_snr", and the timesteps. With --flops the
budget is not a number of calls but what they cost together, in calls at full size; with --process the levels, where they
change and the blur within them are searched, too, ready to paste: for a model still to be trained. --training_flops bounds
what a training image may cost for gradients as clean as one level's, --leap what a change of resolution may lose of an
image. Nothing is trained or drawn.
"""

import shlex
from functools import partial

import numpy as np
from absl import flags

from ssd_jax.analysis.cost import PlanCost, call_cost, plan_cost
from ssd_jax.analysis.error import gaussian_error
from ssd_jax.analysis.optimal_process import largest_leap, optimal_process
from ssd_jax.build import Experiment
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.run.latents import planned
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.search import Budget, affordable_timesteps, even_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.training.stage_sampling import relative_training_cost

from .common import report
from .common.command import run
from .common.config_flag import define_config, read_config
from .common.spectra import assumed, measured

define_config()
SOLVER = flags.DEFINE_enum("solver", "dpmpp_2m", list(SOLVERS), "Solver of the plan.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 20, "Network calls.")
FLOPS = flags.DEFINE_float("flops", None, "A budget of operations instead, in network calls at full size.", lower_bound=0)
PROCESS = flags.DEFINE_bool("process", False, "Search levels, where they change and blur, too.")
TRAINING_FLOPS = flags.DEFINE_float(
    "training_flops", None, "Of the process: what a training image may cost, over one at full size.", lower_bound=0
)
LEAP = flags.DEFINE_float("leap", None, "Of the process: nats an image that a change may lose.", lower_bound=0)
SPECTRUM = flags.DEFINE_enum("spectrum", "data", ["data", "natural"], "That of the config's data or a power law.")
SLOPE = flags.DEFINE_float("slope", 2.0, "Of the power law.")
IMAGES = flags.DEFINE_integer("images", 2048, "Images to measure the spectrum on.", lower_bound=2)


def main() -> None:
    experiment = planned(read_config())
    config, process, channels = experiment.config, experiment.process, experiment.encoding.channels
    solver, pay, budget = SOLVERS[SOLVER.value], partial(call_cost, config.model, channels), FLOPS.value
    if budget is None and PROCESS.value:
        raise InputError("--process needs --flops: with a number of calls alone full resolution is always best")
    if not PROCESS.value and (TRAINING_FLOPS.value is not None or LEAP.value is not None):
        raise InputError("--training_flops and --leap are of a process that is searched; give --process, too")
    if budget is None:  # wrong numbers show before the images are read
        start = even_timesteps(process, solver, NUM_STEPS.value, "log_snr")
    else:
        start = affordable_timesteps(process, solver, Budget(budget, pay(process)))
    spectrum = measured(experiment, IMAGES.value) if SPECTRUM.value == "data" else assumed(experiment, SLOPE.value)
    own = None if budget is None else Budget(budget, pay(process))
    found = optimal_timesteps(process, solver, start.tolist(), spectrum, budget=own)
    contestants = {"spacing 'log_snr'": (process, start), "spacing 'optimal'": (process, found)}
    advice = []
    if budget is not None and PROCESS.value:
        over = partial(excess, experiment, spectrum)
        best, found = optimal_process(config.process, solver, budget, pay, spectrum, excess=over)
        contestants["optimal process"] = make_process(best), found
        advice = [_as_flags(best)]
    plans = {name: plan_steps(of, solver=SOLVER.value, spacing=timesteps) for name, (of, timesteps) in contestants.items()}
    costs = {name: plan_cost(plan, config.model, channels=channels) for name, plan in plans.items()}
    rows = [{"plan": name, **_found(experiment, plan, costs[name], spectrum)} for name, plan in plans.items()]
    print(report.plain(rows), end="\n\n")
    for name, plan in plans.items():
        print(f"{name}:", plan.describe([path.flops for path in costs[name].stages]), sep="\n", end="\n\n")
    print(*advice, f"timesteps: {','.join(map(str, found))}", sep="\n")


def excess(experiment: Experiment, spectrum: np.ndarray, process: ScaleSpaceProcess) -> float:
    """By what share a process exceeds the limits of the flags; 0 within them."""
    shares = [0.0]
    if TRAINING_FLOPS.value is not None:
        shares.append(training_cost(experiment, process) / max(TRAINING_FLOPS.value, 1e-9) - 1)
    if LEAP.value is not None:
        shares.append(largest_leap(process, spectrum) / max(LEAP.value, 1e-9) - 1)
    return max(shares)


def training_cost(experiment: Experiment, process: ScaleSpaceProcess) -> float:
    """What a training image of a process costs, `relative_training_cost`, by the operations of a call."""
    cost = call_cost(experiment.config.model, experiment.encoding.channels, process)
    return relative_training_cost(process.stages, experiment.config.train.up_share, cost)


def _as_flags(process: ProcessConfig) -> str:
    """What sets the process, and shares training out by cost."""
    fields = {"num_levels": process.num_levels, "resolution_schedule": "threshold", "thresholds": process.thresholds}
    settings = [f"process.{name}={value}" for name, value in (fields | {"blur": process.blur}).items()]
    settings.append("train.allocation=cost_aware")
    if TRAINING_FLOPS.value is not None:
        settings.append(f"train.flops_per_step={TRAINING_FLOPS.value:g}")
    return " ".join(shlex.quote(f"--config.{each}") for each in settings)


def _found(experiment: Experiment, plan: Plan, cost: PlanCost, spectrum: np.ndarray) -> report.Row:
    error = gaussian_error(plan, spectrum)
    return {
        "relative error": error.relative_error,
        "low frequencies": error.low_frequency_ratio,
        "calls": plan.calls,
        "as many operations as calls at full size": cost.relative_flops * plan.calls,
        "training operations": training_cost(experiment, plan.process),
        "largest leap, nats": largest_leap(plan.process, spectrum),
    }


if __name__ == "__main__":
    run(main)
