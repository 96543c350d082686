"""What a run trains, a denoiser or an autoencoder, with its data: all in which the two differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ssd_jax.build import AnyExperiment, AutoencoderExperiment, Experiment, build, build_autoencoder
from ssd_jax.config import AnyConfig, AutoencoderRunConfig, Config
from ssd_jax.data.classes import check_classes
from ssd_jax.data.protocol import Source, image_batches
from ssd_jax.data.sources import Split, make_split, recorded
from ssd_jax.data.statistics import measure_statistics
from ssd_jax.errors import InputError
from ssd_jax.files.events import Events
from ssd_jax.files.paths import Path
from ssd_jax.processes import first_does
from ssd_jax.run.autoencoder import AutoencoderWatch, TrainedAutoencoder
from ssd_jax.run.labels import keep_labels, kept_labels, some_labels
from ssd_jax.run.latents import keep_autoencoder, with_latents
from ssd_jax.run.load import load
from ssd_jax.run.origin import check_origin, start_from
from ssd_jax.run.trained import Trained
from ssd_jax.run.watching import Real, Watch
from ssd_jax.run.workdir import has_checkpoints, load_data, load_statistics
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.training.holdout import Holdout
from ssd_jax.training.stage_sampling import Allocation
from ssd_jax.training.state import TrainState

MEASURED = 1024  # images that the statistics of the data are measured on, or fewer:
MEASURED_PIXELS = 2**24  # that they have together, so that large ones fit into memory

Given = Source | np.ndarray | None  # data of the caller's, instead of those that a config names


@runtime_checkable
class Task(Protocol):
    """What a run trains, and on what.

    Attributes:
        experiment: what its config, as it is recorded, stands for.
        source: of its images.
        held_out: images to look at the loss on; None without any.
        told_apart: stages whose losses on these have names of their own.
    """

    @property
    def experiment(self) -> AnyExperiment: ...

    @property
    def source(self) -> Source: ...

    @property
    def held_out(self) -> Source | None: ...

    @property
    def told_apart(self) -> Sequence[object]: ...

    def keep(self, workdir: Path) -> None:
        """Writes what the workdir of a run has besides its config."""
        ...

    def begun(self, state: TrainState, workdir: Path) -> TrainState:
        """The state that a new run starts from, given a fresh one."""
        ...

    def draws(self, allocation: Allocation) -> str:
        """What a step trains on, in words."""
        ...

    def watch(
        self, workdir: Path, allocation: Allocation, events: Events, holdout: Holdout | None, real: Real | None
    ) -> Watch | AutoencoderWatch:
        """What looks at the run."""
        ...


@dataclass(frozen=True, eq=False)
class DenoiserTask:
    """A `Task` of a denoiser.

    Attributes:
        experiment, source, held_out: as there.
        autoencoder: whose latents the data are; None if they are images.
        origin: the run that a new one starts from, if any.
    """

    experiment: Experiment
    source: Source
    held_out: Source | None
    autoencoder: TrainedAutoencoder | None
    origin: Trained | None

    @property
    def told_apart(self) -> Sequence[object]:
        """All stages of the process."""
        return self.experiment.process.stages

    def keep(self, workdir: Path) -> None:
        """The autoencoder of the latents; the labels of images to draw."""
        if self.autoencoder is not None:
            first_does(partial(keep_autoencoder, workdir, self.autoencoder))
        first_does(partial(keep_labels, workdir, self.experiment.labels))

    def begun(self, state: TrainState, workdir: Path) -> TrainState:
        """With the weights of `origin`."""
        return state if self.origin is None else start_from(state, self.experiment, self.origin, workdir)

    def draws(self, allocation: Allocation) -> str:
        """Images of every stage."""
        stages = ", ".join(f"{stage} {n:.3g}" for stage, n in zip(allocation.stages, allocation.draws, strict=True))
        return f"images a step by stage: {stages}"

    def watch(
        self, workdir: Path, allocation: Allocation, events: Events, holdout: Holdout | None, real: Real | None
    ) -> Watch:
        """Draws samples."""
        return Watch(self.experiment, workdir, allocation, events, holdout, real)


@dataclass(frozen=True, eq=False)
class AutoencoderTask:
    """A `Task` of an autoencoder; attributes as there."""

    experiment: AutoencoderExperiment
    source: Source
    held_out: Source | None

    told_apart = ()

    def keep(self, workdir: Path) -> None:
        """Nothing."""

    def begun(self, state: TrainState, workdir: Path) -> TrainState:
        """As it is."""
        return state

    def draws(self, allocation: Allocation) -> str:
        """Images, and the latents made of them."""
        model, shape = self.experiment.config.model, self.experiment.encoding.shape
        latents = (*(side // model.factor for side in shape), model.latent_channels)
        return f"latents of {'x'.join(map(str, latents))}; {self.experiment.config.train.batch_size} images a step"

    def watch(
        self, workdir: Path, allocation: Allocation, events: Events, holdout: Holdout | None, real: Real | None
    ) -> AutoencoderWatch:
        """Shows reconstructions."""
        return AutoencoderWatch(self.experiment, workdir, events, holdout, real, self.held_out or self.source)


def task_of(config: AnyConfig, workdir: Path, given: Given, init_from: str | Path | Trained | None) -> Task:
    """The task of a config; arguments as those of `train`. Raises InputError as it does, before anything is written."""
    if isinstance(config, Config):
        return _denoiser_task(config, workdir, given, init_from)
    if init_from is not None:
        raise InputError("init_from is given, but an autoencoder starts from no other run: leave it out")
    return _autoencoder_task(config, workdir, given)


def _denoiser_task(config: Config, workdir: Path, given: Given, init_from: str | Path | Trained | None) -> DenoiserTask:
    origin = init_from if init_from is None or isinstance(init_from, Trained) else load(init_from)
    if origin is not None and has_checkpoints(workdir):
        check_origin(origin, workdir)
    data = load_data(workdir, config.data)
    config, autoencoder = with_latents(config, workdir, from_python=given is not None)
    factor = 1 if autoencoder is None else autoencoder.autoencoder.config.factor
    shape = tuple(factor * side for side in config.image_shape)
    config, (source, held_out) = _with_data(replace(config, data=data), shape, given)
    built = build(config, autoencoder=None if autoencoder is None else autoencoder.autoencoder)
    experiment, drawn = with_statistics(built, workdir, source), config.sample
    kept = kept_labels(workdir, config.model) if has_checkpoints(workdir) else None
    experiment = replace(experiment, labels=some_labels(source, config.model) if kept is None else kept)
    plan_steps(experiment.process, solver=drawn.solver, num_steps=drawn.num_steps, spacing=drawn.spacing)
    return DenoiserTask(experiment, source, held_out, autoencoder, origin)


def _autoencoder_task(config: AutoencoderRunConfig, workdir: Path, given: Given) -> AutoencoderTask:
    config = replace(config, data=load_data(workdir, config.data))
    config, (source, held_out) = _with_data(config, config.image_shape, given)
    return AutoencoderTask(build_autoencoder(config), source, held_out)


def _with_data(config: Any, shape: tuple[int, ...], given: Given) -> tuple[Any, Split]:
    """The config of either kind as it is recorded, and its data: images of spatial `shape`."""
    split = make_split(config.data, shape, given)
    check_classes(split.training, config.num_classes, config.label_size)
    labelled, from_python = config.num_classes > 0, given is not None
    data = recorded(config.data, split.training, labelled=labelled, from_python=from_python)
    return replace(config, data=data), split


def with_statistics(experiment: Experiment, workdir: Path, source: Source) -> Experiment:
    """The experiment with the statistics that the run keeps; one that has saved nothing yet measures them."""
    statistics = load_statistics(workdir) if has_checkpoints(workdir) else None
    if statistics is None:
        count = min(MEASURED, MEASURED_PIXELS // math.prod(experiment.encoding.shape) + 1)
        batches = list(image_batches(source, count))
        if not batches:
            raise InputError("none of the images of the data can be read")
        statistics = measure_statistics(experiment.encoding.encode(np.concatenate(batches)), experiment.process)
    return replace(experiment, statistics=statistics)
