"""The part of `launch.benchmark` about training: what gradients of stages and whole steps cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

import jax
import numpy as np

from ssd_jax.build import build
from ssd_jax.compilation import collective_bytes
from ssd_jax.config import Config
from ssd_jax.process.config import make_process
from ssd_jax.process.stages import Stage
from ssd_jax.sharding import data_mesh
from ssd_jax.training.stage_sampling import pick_stage
from ssd_jax.training.state import TrainState, init_state
from ssd_jax.training.step import TrainStep, compile_train_step

from ..common import report
from ..common.report import Row, Table
from .timing import Tables, time_in_turns


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

    def run(self, number: int) -> jax.Array:
        """Takes training step `number`, which decides about the stage in "single" stage sampling."""
        self.state, _ = self.step(self.state, number, self.batch)
        return self.state.step

    def stage_runs(self) -> dict[Stage, Callable[[], jax.Array]]:
        """For every stage a function that takes a step of "single" stage sampling with it."""
        step = self.step
        picked = partial(pick_stage, step.stages, step.probabilities, step.config.seed)
        numbers = {stage: next(k for k in count() if picked(k) == stage) for stage in step.stages}
        return {stage: partial(self.run, number) for stage, number in numbers.items()}

    def memory(self, stage: Stage) -> float:
        """MiB of temporaries of the stage's gradient program."""
        return self.step.gradients[stage].memory_analysis().temp_size_in_bytes / 2**20

    def flops(self, stage: Stage) -> float:
        """Operations of the stage's gradient program."""
        return self.step.gradients[stage].cost_analysis()["flops"]

    def exchanged(self) -> float:
        """What devices tell each other in a step, in units of the gradient."""
        gradients, updates = self.step.gradients, self.step.updates
        if self.step.config.stage_sampling == "mixed":
            steps = [[*gradients.values(), *updates.values()]]
        else:
            steps = [[gradients[stage], updates[stage]] for stage in self.step.stages]
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state.parameters))
        return max(sum(collective_bytes(each.as_text()) for each in programs) for programs in steps) / size


def prepare(config: Config) -> Training:
    """Compiles a training step and makes its first state."""
    mesh, experiment, batch = data_mesh(), build(config), config.train.batch_size
    shape = (batch, *experiment.encoding.shape, experiment.encoding.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    label = {"label": np.zeros(batch, np.int32)} if config.model.num_classes else {}
    started = time.perf_counter()
    step = compile_train_step(experiment.objective, config.train, mesh)
    state = init_state(experiment.init_parameters, config.train.seed, mesh)
    return Training(step, state, {"image": images, **label}, time.perf_counter() - started)


def with_levels(config: Config, levels: int, stage_sampling: str) -> Config:
    """The config with another number of levels of the process and another stage sampling."""
    process, train = replace(config.process, num_levels=levels), replace(config.train, stage_sampling=stage_sampling)
    return replace(config, process=process, train=train)


def training(config: Config, levels: Sequence[int], repeats: int) -> Tables:
    """Whole steps for every number of levels in "mixed" stage sampling, and the most in "single"; then their stages."""
    deepest, batch, shapes = levels[-1], config.train.batch_size, make_process(config.process).level_shapes
    mixed = {n: prepare(with_levels(config, n, "mixed")) for n in levels}
    single = prepare(with_levels(config, deepest, "single"))
    runs = {n: partial(each.run, 0) for n, each in mixed.items()} | single.stage_runs()
    seconds = {name: timing.seconds for name, timing in time_in_turns(runs, repeats).items()}
    expected = dict(zip(single.step.stages, single.step.probabilities.tolist(), strict=True))

    def row(n: int, trained: Training, time: float, flops: float) -> Row:
        memory = [max(map(each.memory, each.step.stages)) for each in (trained, mixed[levels[0]])]
        one_level = sum(map(mixed[levels[0]].flops, mixed[levels[0]].step.stages))
        return {
            "levels": n,
            "stage sampling": trained.step.config.stage_sampling if n > 1 else "-",
            "GFLOPs/image": flops / batch / 1e9,
            "MiB": memory[0],
            "s/step": time,
            "images/s": batch / time,
            "FLOPs ratio": flops / one_level,
            "memory ratio": memory[0] / memory[1],
            "time ratio": time / seconds[levels[0]],
            "exchanged/gradient": trained.exchanged(),
            "compile s": trained.compile_seconds,
        }

    def stage_row(stage: Stage, images: int) -> Row:
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

    rows = [row(n, each, seconds[n], sum(map(each.flops, each.step.stages))) for n, each in mixed.items()]
    mean_seconds, mean_flops = (
        sum(share * of(stage) for stage, share in expected.items()) for of in (seconds.__getitem__, single.flops)
    )
    rows.append(row(deepest, single, mean_seconds, mean_flops))
    stages = [stage_row(*each) for each in zip(single.step.stages, mixed[deepest].step.batch_sizes, strict=True)]
    title = f"of training at {report.size(shapes[0])} px, batch of {batch}"
    return {
        "training": Table(f"Steps {title}", rows),
        "training_stages": Table(f"Stages {title}, {deepest} levels", stages),
    }
