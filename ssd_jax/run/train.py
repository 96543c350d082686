"""A run: a config and the workdir that its training fills."""

import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import tensorboardX
from tqdm import tqdm

from ssd_jax.build import Experiment, build
from ssd_jax.config import Config
from ssd_jax.data.pipeline import make_iterator
from ssd_jax.data.sources import Source, check_classes, image_batches, make_source, python_source, recorded
from ssd_jax.data.statistics import measure_statistics
from ssd_jax.errors import InputError
from ssd_jax.files import images
from ssd_jax.run import checkpoint
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sharding import data_mesh, placed, replicated
from ssd_jax.training.optimizer import learning_rate
from ssd_jax.training.stage_sampling import stage_batch_sizes
from ssd_jax.training.state import TrainState, abstract_state, init_state
from ssd_jax.training.step import TrainStep, compile_train_step

MEASURED = 1024  # images that the statistics of the data are measured on, or fewer:
MEASURED_PIXELS = 2**24  # that they have together, so that large ones fit into memory

logger = logging.getLogger(__name__)


def train(
    config: Config,
    workdir: str | Path,
    source: Source | np.ndarray | None = None,
) -> None:
    """Trains up to config.train.steps, going on from the latest checkpoint in `workdir` if there is one.

    Writes config.json, statistics.json, checkpoints/, samples/step_N.png and TensorBoard events, which hold the same grids;
    a progress bar goes to stderr.

    Args:
        config: of the run.
        workdir: its folder.
        source: images to train on instead of those that `config.data` names: a `data.Source`, or an array, uint8
            [n, *process.shape, channels]. The run then records that its data came from Python.

    Raises:
        InputError: if the config cannot work with the data, the devices or what `workdir` holds.
    """
    workdir, settings, mesh = Path(workdir), config.train, data_mesh()
    from_python, shape = source is not None, config.process.shape
    if config.data.channels is None:  # a run goes on with those that it began with
        config = replace(config, data=replace(config.data, channels=checkpoint.load_channels(workdir)))
    source = make_source(config.data, shape) if source is None else python_source(source, shape, config.data.balance)
    check_classes(source, config.model.num_classes)
    config = replace(config, data=recorded(config.data, source, from_python=from_python))
    experiment = build(config)
    batch_sizes = stage_batch_sizes(experiment.process.stages, settings, mesh.size)  # these fail before anything is written
    plan_steps(experiment.process, solver=config.sample.solver, num_steps=config.sample.num_steps)
    experiment = with_statistics(experiment, workdir, source)
    checkpoint.claim_workdir(workdir, config, experiment.statistics)
    iterator = make_iterator(source, batch_size=settings.batch_size, seed=settings.seed, flip=config.data.flip)
    logger.info(summary(experiment, source, batch_sizes, mesh.size))
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        step = checkpoints.latest.step if checkpoints.latest else 0
        if step >= settings.steps:
            logger.info("%s is at step %d already; raise train.steps to go on", workdir, step)
            return
        if checkpoints.latest is None:
            state = init_state(experiment.init_parameters, settings.seed, mesh)
        else:
            state = _resume(experiment, mesh, checkpoints, iterator)
            logger.info("going on from step %d", step)
        train_step = compile_train_step(experiment.objective, settings, mesh)
        with tensorboardX.SummaryWriter(str(workdir), write_to_disk=jax.process_index() == 0) as writer:
            Loop(experiment, workdir, train_step, checkpoints, writer).run(state, step, iterator)


def with_statistics(experiment: Experiment, workdir: Path, source: Source) -> Experiment:
    """The experiment with the statistics that the run keeps; a new run measures them."""
    statistics = checkpoint.load_statistics(workdir)
    if statistics is None:
        count = min(MEASURED, MEASURED_PIXELS // math.prod(experiment.encoding.shape) + 1)
        batches = list(image_batches(source, count))
        if not batches:
            raise InputError("none of the images of the data can be read")
        statistics = measure_statistics(experiment.encoding.encode(np.concatenate(batches)), experiment.process)
    return replace(experiment, statistics=statistics)


def summary(experiment: Experiment, source: Source, batch_sizes: tuple[int, ...], num_devices: int) -> str:
    """What a training run will do, in a line: images and classes, network, stages with their batches, devices."""
    config, encoding = experiment.config, experiment.encoding
    names = source.class_names if config.model.num_classes else ()
    size = "x".join(map(str, (*encoding.shape, encoding.channels)))
    classes = f" in {len(names)} classes ({', '.join(names)})" if names else ""
    count = sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_parameters))
    share = "" if config.train.stage_sampling == "mixed" else ", one of them a step"
    stages = ", ".join(f"{stage} {n}" for stage, n in zip(experiment.process.stages, batch_sizes, strict=True))
    return (
        f"training on {len(source)} images of {size}{classes}; {count / 1e6:.3g} million parameters; "
        f"images a step by stage: {stages}{share}; {num_devices} device(s), {jax.devices()[0].device_kind}"
    )


def _resume(experiment: Experiment, mesh: jax.sharding.Mesh, checkpoints, iterator: grain.DatasetIterator) -> TrainState:
    """The state of the latest checkpoint; sets the iterator to where it stood."""
    abstract = abstract_state(experiment.abstract_parameters)
    state, data = checkpoint.restore(checkpoints, placed(abstract.as_dict(), replicated(mesh)))
    iterator.set_state(data)
    return TrainState(**state)


@dataclass(frozen=True, eq=False)
class Loop:
    """Takes steps until train.steps, and writes what comes of them.

    Attributes:
        experiment: what is trained.
        workdir: its folder.
        train_step: the programs.
        checkpoints: open, to write to.
        writer: of TensorBoard events.
    """

    experiment: Experiment
    workdir: Path
    train_step: TrainStep
    checkpoints: Any
    writer: tensorboardX.SummaryWriter

    def run(self, state: TrainState, step: int, iterator: grain.DatasetIterator) -> None:
        """From `step` on; asks the device for numbers only every log_every steps."""
        settings, labelled = self.experiment.config.train, self.experiment.config.model.num_classes > 0
        pending: list[dict[str, jax.Array]] = []
        with tqdm(total=settings.steps, initial=step, desc="training", unit="step") as bar:
            started = time.perf_counter()
            while step < settings.steps:
                batch = next(iterator)
                state, losses = self.train_step(state, step, batch if labelled else {"image": batch["image"]})
                pending.append(losses)
                step += 1
                last = step == settings.steps
                if step % settings.log_every == 0 or last:
                    scalars = mean_losses(pending, self.train_step)  # waits for the device
                    scalars["images_per_second"] = len(pending) * settings.batch_size / (time.perf_counter() - started)
                    self._log(scalars, state, step)
                    shown = {"loss": f"{scalars['loss']:.4f}", "img/s": f"{scalars['images_per_second']:.0f}"}
                    bar.set_postfix(shown, refresh=False)
                    bar.update(step - bar.n)
                    pending, started = [], time.perf_counter()
                if step % settings.checkpoint_every == 0 or last:
                    checkpoint.save(self.checkpoints, step, state.as_dict(), iterator.get_state())
                if step % settings.sample_every == 0 or last:
                    self._write_samples(state, step)
                    started = time.perf_counter()

    def _log(self, scalars: dict[str, float], state: TrainState, step: int) -> None:
        scalars["learning_rate"] = float(np.asarray(learning_rate(self.train_step.config)(step)))
        scalars["skipped_updates"] = float(state.skipped)
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def _write_samples(self, state: TrainState, step: int) -> None:
        """A grid of samples, always from the same seed."""
        trained = Trained(self.experiment, self.experiment.denoiser(state.ema), step)
        pictures = trained.encoding.decode(trained.sample(jax.random.key(0), trained.config.sample.num, progress=True))
        if jax.process_index() == 0:
            grid = images.enlarged_grid(pictures, background=trained.config.data.background)
            images.write_png(self.workdir / "samples" / f"step_{step:07d}.png", grid)
            self.writer.add_image("samples", grid, step, dataformats="HWC")


def mean_losses(steps: list[dict[str, jax.Array]], train_step: TrainStep) -> dict[str, float]:
    """Mean loss of each stage over some steps, and "loss": their mean in proportion to the stages' probabilities."""
    by_stage: dict[str, list[float]] = {}
    for losses in jax.device_get(steps):
        for stage, loss in losses.items():
            by_stage.setdefault(stage, []).append(float(loss))
    means = {str(stage): float(np.mean(by_stage[str(stage)])) for stage in train_step.stages if str(stage) in by_stage}
    weights = [p for stage, p in zip(train_step.stages, train_step.probabilities, strict=True) if str(stage) in means]
    return {"loss": float(np.average(list(means.values()), weights=weights))} | {
        f"loss/{stage}": mean for stage, mean in means.items()
    }
