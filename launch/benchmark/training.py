"""The part of `launch.benchmark` about training: what gradients of stages and whole steps cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import jax
import numpy as np

from ssd_jax.compilation import collectives
from ssd_jax.config import Config
from ssd_jax.process.config import make_process
from ssd_jax.process.stages import Stage
from ssd_jax.sharding import make_mesh
from ssd_jax.training.state import TrainState, init_state
from ssd_jax.training.step import TrainStep, compile_train_step

from ..common import report
from ..common.report import Row, Table
from .sampling import labels
from .timing import Tables, built, time_in_turns

STEPS = 4  # that are timed in a row in "mixed" stage sampling, where stages take turns


@dataclass
class Training:
    """A compiled training step and the state that it moves on.

    Attributes:
        step: the programs.
        state: replaced by every `run`.
        batch: random images (and labels).
        compile_seconds: what all programs took to compile, several at a time.
    """

    step: TrainStep
    state: TrainState
    batch: dict[str, np.ndarray]
    compile_seconds: float

    def run(self, number: int, count: int = 1) -> jax.Array:
        """Takes training steps number, number + 1, .., which decides about their stages."""
        for i in range(number, number + count):
            self.state, _ = self.step(self.state, i, self.batch)
        return self.state.step

    def stage_runs(self) -> dict[Stage, Callable[[], jax.Array]]:
        """For every stage a function that takes a step of "single" stage sampling with it."""
        allocation = self.step.allocation
        numbers = {stage: next(k for k in count() if stage in allocation.taking_part(k)) for stage in allocation.stages}
        return {stage: partial(self.run, number) for stage, number in numbers.items()}

    def memory(self, stage: Stage) -> float:
        """MiB of temporaries of the stage's gradient program."""
        return self.step.gradients[stage].memory_analysis().temp_size_in_bytes / 2**20

    def flops(self, stage: Stage) -> float:
        """Operations of the stage's gradient program."""
        return self.step.gradients[stage].cost_analysis()["flops"]

    def step_flops(self) -> float:
        """Operations of all gradient programs of a step on average."""
        allocation = self.step.allocation
        return sum(rate * self.flops(stage) for stage, rate in zip(allocation.stages, allocation.rates, strict=True))

    def exchanged(self) -> float:
        """What devices tell each other in a step of all stages, in units of the gradient."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state.parameters))
        return sum(sum(collectives(each.as_text()).values()) for each in self.step.programs.values()) / size


def prepare(config: Config) -> Training:
    """Compiles a training step and makes its first state."""
    mesh, experiment, batch = make_mesh(config.mesh), built(config), config.train.batch_size
    shape = (batch, *experiment.encoding.shape, experiment.encoding.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    label = labels(config.model, batch)
    drawn = {"image": images} if label is None else {"image": images, "label": label}
    started = time.perf_counter()
    step = compile_train_step(experiment.objective, config.train, mesh)
    state = init_state(experiment.init_parameters, config.train.seed, mesh)
    return Training(step, state, drawn, time.perf_counter() - started)


def with_levels(config: Config, levels: int, stage_sampling: str) -> Config:
    """The config with another number of levels of the process and another stage sampling."""
    process, train = replace(config.process, num_levels=levels), replace(config.train, stage_sampling=stage_sampling)
    return replace(config, process=process, train=train)


def training(config: Config, levels: Sequence[int], repeats: int) -> Tables:
    """Whole steps for every number of levels in "mixed" stage sampling, and the most in "single"; then their stages."""
    deepest, batch, shapes = levels[-1], config.train.batch_size, make_process(config.process).level_shapes
    mixed = {n: prepare(with_levels(config, n, "mixed")) for n in levels}
    single = prepare(with_levels(config, deepest, "single"))
    runs = {n: partial(each.run, 0, STEPS) for n, each in mixed.items()} | single.stage_runs()
    seconds = {name: timing.seconds for name, timing in time_in_turns(runs, repeats).items()}
    expected = dict(zip(single.step.gradients, single.step.allocation.rates, strict=True))

    def row(n: int, trained: Training, time: float) -> Row:
        memory = [max(map(each.memory, each.step.gradients)) for each in (trained, mixed[levels[0]])]
        flops, one_level = trained.step_flops(), mixed[levels[0]].step_flops()
        return {
            "levels": n,
            "stage sampling": trained.step.config.stage_sampling if n > 1 else "-",
            "GFLOPs/image": flops / batch / 1e9,
            "MiB": memory[0],
            "s/step": time,
            "images/s": batch / time,
            "FLOPs ratio": flops / one_level,
            "memory ratio": memory[0] / memory[1],
            "time ratio": time / (seconds[levels[0]] / STEPS),
            "exchanged/gradient": trained.exchanged(),
            "compile s": trained.compile_seconds,
        }

    def stage_row(stage: Stage, images: float) -> Row:
        return {
            "stage": str(stage),
            "pixels": report.size(shapes[stage.in_level]),
            "share": expected[stage],
            "GFLOPs/image": single.flops(stage) / batch / 1e9,
            "ms/image, single": 1e3 * seconds[stage] / batch,
            "MiB, single": single.memory(stage),
            "images, mixed": images,
            "MiB, mixed": mixed[deepest].memory(stage),
        }

    rows = [row(n, each, seconds[n] / STEPS) for n, each in mixed.items()]
    rows.append(row(deepest, single, sum(share * seconds[stage] for stage, share in expected.items())))
    stages = [stage_row(*each) for each in zip(expected, mixed[deepest].step.allocation.draws, strict=True)]
    title = f"of training at {report.size(shapes[0])} px, batch of {batch}"
    return {
        "training": Table(f"Steps {title}", rows),
        "training_stages": Table(f"Stages {title}, {deepest} levels", stages),
    }
