"""The part of `launch.benchmark` about sampling: what stages and whole plans cost, in operations, memory and time."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from ssd_jax.analysis.cost import path_cost, plan_cost
from ssd_jax.build import Experiment
from ssd_jax.config import Config, FlexiUNetConfig, ProcessConfig
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.protocol import NetworkConfig, label_struct
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.guidance import clipped
from ssd_jax.sampling.parts import StayPlan
from ssd_jax.sampling.plan import DEFAULT_STEPS, Plan, plan_steps
from ssd_jax.sampling.sampler import sample

from ..common import report
from ..common.report import Row, Table
from .timing import Tables, built, time_in_turns

CALLS = 8  # of a run that times a stay stage: enough to hide what starting it costs, as a real stage does
SOLVERS = ("ancestral", "ddim", "dpmpp_2m")

Path = tuple[int, int]


def stage_name(path: Path) -> str:
    """As `Stage` says it."""
    return str(Stage(*path, 0, 0))


def whole_plan(config: ProcessConfig, levels: int) -> Plan:
    """A call at every timestep; of the ancestral solver, which draws noise in every step."""
    process = make_process(replace(config, num_levels=levels))
    return plan_steps(process, solver="ancestral", num_steps=config.num_timesteps)


def new_denoiser(experiment: Experiment) -> Denoiser:
    """An untrained network."""
    return experiment.denoiser(experiment.init_parameters(jax.random.key(0)))


def labels(config: NetworkConfig, batch: int) -> np.ndarray | None:
    """Labels of a batch, if the network takes any."""
    struct = label_struct(config, batch)
    return None if struct is None else np.zeros(struct.shape, struct.dtype)


def stage_runs(
    denoise: Denoise, plan: Plan, batch: int, channels: int, label: np.ndarray | None
) -> tuple[dict[Path, Callable[[], jax.Array]], dict[Path, int]]:
    """For every path of a plan a function that samples up to CALLS steps along it, and how many those are."""
    process, runs, calls = plan.process, {}, {}
    for part in plan.stages:
        path = part.stage.in_level, part.stage.out_level
        short = part
        if isinstance(part, StayPlan):
            short = replace(part, timesteps=part.timesteps[:CALLS], coefficients=part.coefficients[:CALLS])
        start = jax.random.normal(jax.random.key(0), (batch, *process.level_shape(path[0]), channels))
        steps = replace(plan, stages=(short,))
        runs[path] = partial(sample, denoise, steps, jax.random.key(1), batch, label=label, start=start)
        calls[path] = short.calls
    return runs, calls


def plan_seconds(plan: Plan, seconds: dict[Path, float]) -> float:
    """Seconds of a plan, from those of a call along each path."""
    return sum(part.calls * seconds[part.stage.in_level, part.stage.out_level] for part in plan.stages)


def sampling(config: Config, levels: tuple[int, ...], repeats: int) -> Tables:
    """What a call of each stage costs, and from that a whole plan of each number of levels."""
    experiment, batch = built(config), config.sample.num
    shapes, channels = experiment.process.level_shapes, experiment.encoding.channels
    plans = {n: whole_plan(config.process, n) for n in levels}
    denoise = clipped(new_denoiser(experiment), experiment.bounds)
    runs, calls = stage_runs(denoise, plans[levels[-1]], batch, channels, labels(config.model, batch))
    timings = time_in_turns(runs, repeats)
    seconds = {path: timing.seconds / calls[path] / batch for path, timing in timings.items()}
    costs = {path: path_cost(config.model, shapes, channels, *path, memory=True) for path in runs}
    memory = {path: _mebibytes(cost.memory) for path, cost in costs.items()}
    steps = {(part.stage.in_level, part.stage.out_level): part.calls for part in plans[levels[-1]].stages}

    def stage_row(path: Path) -> Row:
        return {
            "stage": stage_name(path),
            "pixels": report.size(shapes[path[0]]),
            "steps": steps[path],
            "GFLOPs": costs[path].flops / 1e9,
            "MiB": memory[path],
            "ms": 1e3 * seconds[path],
            "compile s": timings[path].first - timings[path].seconds,
        }

    def plan_row(n: int) -> Row:
        paths = [(part.stage.in_level, part.stage.out_level) for part in plans[n].stages]
        cost, time = plan_cost(plans[n], config.model, channels=channels), plan_seconds(plans[n], seconds)
        full = plans[n].calls * seconds[0, 0]
        largest = max(memory[path] for path in paths)
        return {
            "levels": n,
            "SNR policy": "either" if n > 1 else "-",
            "GFLOPs": cost.flops / 1e9,
            "MiB": largest,
            "s": time,
            "images/s": 1 / time,
            "FLOPs ratio": cost.relative_flops,
            "memory ratio": largest / memory[0, 0],
            "time ratio": time / full,
        }

    title = f"of sampling at {report.size(shapes[0])} px, for one image of a batch of {batch}"
    total = f"{config.process.num_timesteps} steps {title}, summed over the stages"
    return {
        "sampling_stages": Table(f"A network call of each stage {title}", [stage_row(path) for path in runs]),
        "sampling": Table(total, [plan_row(n) for n in levels]),
    }


def whole_samples(config: Config, levels: tuple[int, ...], repeats: int) -> Tables:
    """Whole calls of `ssd_jax.sample` of 30 steps, one level and all of them; and with a denoiser that costs nothing."""
    experiment, batch = built(config), config.sample.num
    network, bounds = new_denoiser(experiment), experiment.bounds
    label = labels(config.model, batch)
    processes = {n: make_process(replace(config.process, num_levels=n)) for n in (levels[0], levels[-1])}

    def run(denoise: Denoise, process: ScaleSpaceProcess, solver: str) -> Callable[[], jax.Array]:
        plan = plan_steps(process, solver=solver, num_steps=DEFAULT_STEPS)
        key, channels = jax.random.key(0), experiment.encoding.channels
        return partial(sample, clipped(denoise, bounds), plan, key, batch, label=label, channels=channels)

    whole = {(n, solver): run(network, process, solver) for n, process in processes.items() for solver in SOLVERS}
    outside = {n: run(_free, process, SOLVERS[-1]) for n, process in processes.items()}
    timings = time_in_turns(whole | outside, repeats)

    def row(n: int, solver: str) -> Row:
        timing = timings[n, solver]
        return {
            "solver": solver,
            "levels": n,
            "ms/image": 1e3 * timing.seconds / batch,
            "images/s": batch / timing.seconds,
            "time ratio": timing.seconds / timings[levels[0], solver].seconds,
            "first call s": timing.first,
            "outside network": timings[n].seconds / timing.seconds if solver == SOLVERS[-1] else None,
        }

    title = f"Whole samples of {DEFAULT_STEPS} calls, {report.size(config.process.shape)} px, batch of {batch}"
    return {"whole_samples": Table(title, [row(n, solver) for solver in SOLVERS for n in processes])}


def published_costs(num_timesteps: int) -> Tables:
    """Operations of the published networks of 64 and 256 px, from their programs before compilation."""
    networks = {
        64: FlexiUNetConfig(widths=(128, 256, 384, 512), num_res_blocks=2, attention_levels=(2, 3)),
        256: FlexiUNetConfig(widths=(128, 128, 256, 256, 512, 512), num_res_blocks=2, attention_levels=(4, 5)),
    }
    schedules: dict[str, dict] = {
        "convex_decay 0.5": {"gamma": 0.5},
        "convex_decay 0.7": {"gamma": 0.7},
        "information 1.5e-3": {"resolution_schedule": "information", "tolerance": 1.5e-3},
    }
    rows = []
    for size, model in networks.items():
        for n in (2, len(model.widths)):
            for name, schedule in schedules.items():
                process = ProcessConfig(image_size=size, num_timesteps=num_timesteps, **schedule)
                cost = plan_cost(whole_plan(process, n), model)
                total = {"TFLOPs": cost.flops / 1e12, "FLOPs ratio": cost.relative_flops}
                rows.append({"pixels": size, "levels": n, "resolution schedule": name, **total})
    return {"published_networks": Table(f"{num_timesteps} steps of the published networks, operations of one image", rows)}


def _free(x: jax.Array, t: jax.Array, label: jax.Array | None, *, stage: Stage) -> jax.Array:
    """A denoiser that costs next to nothing: what a sample takes with it is spent outside of the network."""
    factor = 2 ** (stage.in_level - stage.out_level)
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


def _mebibytes(size: int | None) -> float:
    return float("nan") if size is None else size / 2**20
