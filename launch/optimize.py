"""Searches the timesteps that draw best with few network calls, for a config, its data's spectrum and a budget.

python -m launch.optimize --config configs/openmoji32.py --num_steps 12 [--flops 10 --boundaries --spectrum natural]

Prints the plan, its exact Gaussian error and cost beside those of spacing "log_snr", and the timesteps. With --flops the
budget is not a number of calls but what they cost together, in calls at full size; with --boundaries as well it also says
when the process had better change resolution, ready to paste: for a model still to be trained. Nothing is trained or drawn.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from absl import flags

from ssd_jax.analysis.cost import PlanCost, path_cost, plan_cost
from ssd_jax.analysis.error import gaussian_error
from ssd_jax.analysis.optimal_process import optimal_boundaries
from ssd_jax.config import Config
from ssd_jax.data import image_batches, make_source
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import measured_spectrum, natural_spectrum
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.search import affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.sampling.spacing import lay_out

from .common import report
from .common.command import run
from .common.config_flag import define_config, read_config

define_config()
SOLVER = flags.DEFINE_enum("solver", "dpmpp_2m", list(SOLVERS), "Solver of the plan.")
NUM_STEPS = flags.DEFINE_integer("num_steps", 20, "Network calls.")
FLOPS = flags.DEFINE_float("flops", None, "A budget of operations instead, in network calls at full size.", lower_bound=0)
BOUNDARIES = flags.DEFINE_bool("boundaries", False, "Search where to change resolution too.")
SPECTRUM = flags.DEFINE_enum("spectrum", "data", ["data", "natural"], "That of the config's data or a power law.")
SLOPE = flags.DEFINE_float("slope", 2.0, "Of the power law.")
IMAGES = flags.DEFINE_integer("images", 2048, "Images to measure the spectrum on.", lower_bound=2)


def main() -> None:
    config = read_config()
    process = make_process(config.process)
    solver, pay, budget = SOLVERS[SOLVER.value], partial(call_cost, config), FLOPS.value
    if budget is None and BOUNDARIES.value:
        raise InputError("--boundaries needs --flops: with a number of calls alone full resolution is always best")
    if budget is None:  # wrong numbers show before the images are read
        start = lay_out(process, NUM_STEPS.value, "log_snr")
    else:
        start = affordable_timesteps(process, budget, pay(process))
    spectrum = natural_spectrum(process.shape, slope=SLOPE.value) if SPECTRUM.value == "natural" else _measure(config)
    if budget is None:
        found = optimal_timesteps(process, solver, start.tolist(), spectrum)
    else:
        found = optimal_timesteps(process, solver, start.tolist(), spectrum, cost=pay(process), budget=budget)
    contestants = {"spacing 'log_snr'": (process, start), "spacing 'optimal'": (process, found)}
    advice = []
    if budget is not None and BOUNDARIES.value:
        moved, found = optimal_boundaries(config.process, solver, budget, pay, spectrum)
        contestants["optimal boundaries"] = make_process(moved), found
        advice = [
            f"--config.process.num_levels={moved.num_levels} --config.process.resolution_schedule=threshold "
            f"'--config.process.thresholds={moved.thresholds}'"
        ]
    plans = {name: plan_steps(of, solver=SOLVER.value, spacing=timesteps) for name, (of, timesteps) in contestants.items()}
    costs = {name: plan_cost(plan, config.model) for name, plan in plans.items()}
    print(report.plain([_row(name, plan, costs[name], spectrum) for name, plan in plans.items()]), end="\n\n")
    for name, plan in plans.items():
        print(f"{name}:", plan.describe([path.flops for path in costs[name].stages]), sep="\n", end="\n\n")
    print(*advice, f"timesteps: {','.join(map(str, found))}", sep="\n")


def _measure(config: Config) -> np.ndarray:
    source = make_source(config.data, config.process.shape)
    return measured_spectrum(image_batches(source, IMAGES.value))


def call_cost(config: Config, process: ScaleSpaceProcess) -> Callable[[int], float]:
    """What the network call at t costs, in calls at full size."""
    cost_of = partial(path_cost, config.model, process.level_shapes, config.data.channels or 3)
    full = cost_of(0, 0).flops
    costs = np.empty(process.num_timesteps)
    for stage in process.stages:
        path = cost_of(stage.in_level, stage.out_level)
        costs[stage.t_min : stage.t_max + 1] = path.flops / full
    return lambda t: float(costs[t])


def _row(name: str, plan: Plan, cost: PlanCost, spectrum: np.ndarray) -> report.Row:
    error = gaussian_error(plan, spectrum)
    return {
        "plan": name,
        "relative error": error.relative_error,
        "low frequencies": error.low_frequency_ratio,
        "calls": plan.calls,
        "as many operations as calls at full size": cost.relative_flops * plan.calls,
    }


if __name__ == "__main__":
    run(main)
