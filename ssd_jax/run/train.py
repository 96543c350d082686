"""A run: a config and the workdir that its training fills."""

import logging
import math
import time
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
from tqdm import tqdm

from ssd_jax.build import AnyExperiment, Experiment, build, build_autoencoder
from ssd_jax.config import AnyConfig, Config
from ssd_jax.data.classes import check_classes
from ssd_jax.data.pipeline import Batches, make_iterator
from ssd_jax.data.protocol import Source, image_batches
from ssd_jax.data.sources import make_split, recorded
from ssd_jax.data.statistics import measure_statistics
from ssd_jax.errors import InputError, check_name, check_range, checked_arguments, few
from ssd_jax.files.events import Events, open_events
from ssd_jax.files.lease import Lease
from ssd_jax.files.paths import Path, check_writable, to_path
from ssd_jax.processes import first_does, gathered
from ssd_jax.run import checkpoint
from ssd_jax.run.autoencoder import AutoencoderWatch, TrainedAutoencoder
from ssd_jax.run.averages import keep_average
from ssd_jax.run.interruption import noted_signals
from ssd_jax.run.latents import keep_autoencoder, with_latents
from ssd_jax.run.load import load
from ssd_jax.run.origin import check_origin, forget_origin, start_from
from ssd_jax.run.profile import Profiler
from ssd_jax.run.restore import restore
from ssd_jax.run.trained import Trained
from ssd_jax.run.watching import Watch, measure_real, metric_names
from ssd_jax.run.workdir import claim_workdir, has_checkpoints, load_data, load_statistics, workdir_lease
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sharding import make_mesh, placed, shardings
from ssd_jax.training.ema import MAIN
from ssd_jax.training.holdout import compile_holdout
from ssd_jax.training.optimizer import learning_rate
from ssd_jax.training.stage_sampling import Allocation, allocate
from ssd_jax.training.state import TrainState, abstract_state, init_state
from ssd_jax.training.step import TrainStep, compile_train_step

MEASURED = 1024  # images that the statistics of the data are measured on, or fewer:
MEASURED_PIXELS = 2**24  # that they have together, so that large ones fit into memory
MAX_PROFILE = 1000  # steps: a trace of more is too large to be opened
SKIPPED = 100  # updates in a row that were not finite, after which training gives up

logger = logging.getLogger(__name__)


@checked_arguments
def train(
    config: AnyConfig,
    workdir: str | Path,
    source: Source | np.ndarray | None = None,
    profile: int = 0,
    init_from: str | Path | Trained | None = None,
) -> None:
    """Trains up to config.train.steps, going on from the latest checkpoint in `workdir` if there is one.

    Writes config.json, statistics.json, checkpoints/, samples/step_N.png, TensorBoard events, which hold the same grids,
    their curves as metrics.jsonl, and averages/step_N.npz with train.snapshot_every; a progress bar goes to stderr.
    SIGTERM, SIGINT and SIGHUP end it after the step that it is in, saved.

    Args:
        config: of the run: of a denoiser or an autoencoder.
        workdir: its folder.
        source: images to train on instead of those that `config.data` names: a `data.Source`, or an array, uint8
            [n, *config.image_shape, channels]. The run then records that its data came from Python.
        profile: steps to trace into workdir/profile, once a few are over.
        init_from: a run, or the workdir of one, whose weights a new run starts from as far as they fit
            (`origin.start_from`); one that goes on must have started from it. Of denoisers only.

    Raises:
        InputError: if the config cannot work with the data, the devices or what `workdir` holds, another run writes there,
            nothing of `init_from` fits, updates are no longer finite, or a checkpoint cannot be written.
        KeyboardInterrupt, SystemExit: after SIGINT; after SIGTERM and SIGHUP, with code 143 and 129.
    """
    check_range("profile", profile, low=0, high=MAX_PROFILE)
    workdir, settings, mesh = to_path(workdir), config.train, make_mesh(config.mesh)
    check_writable(workdir)
    if init_from is not None and not isinstance(config, Config):
        raise InputError("init_from is given, but an autoencoder starts from no other run: leave it out")
    origin = init_from if init_from is None or isinstance(init_from, Trained) else load(init_from)
    if origin is not None and has_checkpoints(workdir):
        check_origin(origin, workdir)
    from_python, data, labelled = source is not None, load_data(workdir, config.data), config.num_classes > 0
    autoencoder, shape = None, config.image_shape
    if isinstance(config, Config):
        config, autoencoder = with_latents(config, workdir, from_python=from_python)
        factor = 1 if autoencoder is None else autoencoder.autoencoder.config.factor
        shape = tuple(factor * side for side in shape)
    source, held_out = make_split(data, shape, source)
    check_classes(source, config.num_classes)
    config = replace(config, data=recorded(data, source, labelled=labelled, from_python=from_python))
    experiment = _built(config, workdir, source, autoencoder)
    objective = experiment.objective
    allocation = allocate(objective.stages, settings, mesh.size, objective.flops)  # these fail before anything is written
    real = measure_real(config, source) if settings.evaluate_every and settings.evaluate_num else None
    if settings.keep_best:
        stages = objective.stages if isinstance(experiment, Experiment) else ()
        check_name("train.keep_best", settings.keep_best, metric_names(stages, held_out, real))
    iterator = make_iterator(source, batch_size=settings.batch_size, seed=settings.seed, flip=config.data.flip)
    with workdir_lease(workdir) as lease:
        first_does(partial(claim_workdir, workdir, config, experiment.statistics))
        if autoencoder is not None:
            first_does(partial(keep_autoencoder, workdir, autoencoder))
        logger.info(summary(experiment, source, allocation, mesh))
        kept = {"latest": settings.keep_latest, "every": settings.keep_every, "best": settings.keep_best}
        with checkpoint.open_checkpoints(workdir, writable=True, **kept) as checkpoints:
            state, step = _first_or_latest(experiment, mesh, checkpoints, iterator)
            if not checkpoints.steps:
                forget_origin(workdir)
                if origin is not None and isinstance(experiment, Experiment):
                    state = start_from(state, experiment, origin, workdir)
            if step >= settings.steps:
                logger.info("%s is at step %d already; raise train.steps to go on", workdir, step)
                return
            first_does(partial(checkpoint.check_room, workdir, experiment))
            train_step, holdout = compile_train_step(objective, settings, mesh), None
            if settings.evaluate_every and held_out is not None:
                holdout = compile_holdout(objective, settings, mesh, held_out)
            with open_events(workdir, write=jax.process_index() == 0) as events:
                if isinstance(experiment, Experiment):
                    watch = Watch(experiment, workdir, allocation, events, holdout, real)
                else:
                    watch = AutoencoderWatch(experiment, workdir, events, holdout, real, held_out or source)
                profiler = Profiler(workdir / "profile", profile)
                loop = Loop(experiment, workdir, train_step, checkpoints, events, watch, lease, profiler)
                loop.run(state, step, iterator)


def _built(config: AnyConfig, workdir: Path, source: Source, autoencoder: TrainedAutoencoder | None) -> AnyExperiment:
    """What a config stands for, with the statistics that the run keeps. Raises InputError if it cannot draw samples."""
    if not isinstance(config, Config):
        return build_autoencoder(config)
    built = build(config, autoencoder=None if autoencoder is None else autoencoder.autoencoder)
    experiment, drawn = with_statistics(built, workdir, source), config.sample
    plan_steps(experiment.process, solver=drawn.solver, num_steps=drawn.num_steps, spacing=drawn.spacing)
    return experiment


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


def summary(experiment: AnyExperiment, source: Source, allocation: Allocation, mesh: jax.sharding.Mesh) -> str:
    """What a training run will do, in a line: images and classes, network, stages with their draws, devices."""
    config, encoding = experiment.config, experiment.encoding
    names = source.class_names if config.num_classes else ()
    size = "x".join(map(str, (*encoding.shape, encoding.channels)))
    classes = f" in {len(names)} classes ({few(names, 20)})" if names else ""
    count = sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_parameters))
    if isinstance(experiment, Experiment):
        stages = ", ".join(f"{stage} {n:.3g}" for stage, n in zip(allocation.stages, allocation.draws, strict=True))
        draws = f"images a step by stage: {stages}"
    else:
        model = experiment.config.model
        latents = (*(side // model.factor for side in encoding.shape), model.latent_channels)
        draws = f"latents of {'x'.join(map(str, latents))}; {config.train.batch_size} images a step"
    axes = " x ".join(f"{size} {name}" for name, size in mesh.shape.items() if size > 1 or name == "data")
    return (
        f"training on {len(source)} images of {size}{classes}; {count / 1e6:.3g} million parameters; "
        f"{draws}; {mesh.size} device(s) ({axes}), {jax.devices()[0].device_kind}"
    )


def _first_or_latest(
    experiment: AnyExperiment, mesh: jax.sharding.Mesh, checkpoints: checkpoint.Checkpoints, iterator: Batches
) -> tuple[TrainState, int]:
    """The state of the latest checkpoint, or a first one, and its step; sets the iterator to where it stood."""
    if not checkpoints.steps:
        return init_state(experiment.init_parameters, experiment.config.train.seed, mesh), 0
    abstract = abstract_state(experiment.abstract_parameters).as_dict()
    restored = restore(checkpoints, experiment, placed(abstract, shardings(abstract, mesh)))
    iterator.set_state(restored.data)
    logger.info("going on from step %d", restored.step)
    return TrainState(**restored.state), restored.step


@dataclass(frozen=True, eq=False)
class Loop:
    """Takes steps until train.steps, and writes what comes of them.

    Attributes:
        experiment: what is trained.
        workdir: its folder.
        train_step: the programs.
        checkpoints: open, to write to.
        events: of TensorBoard.
        watch: looks at what comes of it.
        lease: of the workdir; the first process holds it.
        profiler: of its steps.
    """

    experiment: AnyExperiment
    workdir: Path
    train_step: TrainStep
    checkpoints: checkpoint.Checkpoints
    events: Events
    watch: Watch | AutoencoderWatch
    lease: Lease | None
    profiler: Profiler

    def run(self, state: TrainState, step: int, iterator: Batches) -> None:
        """From `step` on; asks the device for numbers only every log_every or SKIPPED steps.

        A signal ends it after the step that it comes in, saved; among several processes, after the next that is logged.
        """
        settings, labelled = self.experiment.config.train, self.experiment.config.num_classes > 0
        pending: list[dict[str, jax.Array]] = []
        rate = jax.jit(learning_rate(settings)).lower(step).compile()  # before the first step, not between two
        bar = tqdm(total=settings.steps, initial=step, desc="training", unit="step")
        with bar, noted_signals() as interruption:
            started, waited, saved, interrupted = time.perf_counter(), 0.0, step, False
            while step < settings.steps and not interrupted:
                asked = time.perf_counter()
                batch = next(iterator)
                waited += time.perf_counter() - asked
                state, losses = self.train_step(state, step, batch if labelled else {"image": batch["image"]})
                pending.append(losses)
                step += 1
                self.profiler.after_step(state)
                if logs := self._due(settings.log_every, step):
                    scalars = self.watch.means(pending) | {"learning_rate": float(rate(step))}
                    seconds = time.perf_counter() - started  # once the device has taken the steps, not when told to
                    scalars["waiting_for_data"] = waited / seconds  # of the host: at most that share, of the devices
                    self._log(bar, scalars, len(pending) / seconds, state, step)
                    pending, started, waited = [], time.perf_counter(), 0.0
                if logs or step % SKIPPED == 0:
                    self._check_updates(state)
                if self._due(settings.snapshot_every, step):
                    keep_average(self.workdir, step, gathered(state.ema[MAIN], self.train_step.mesh), settings.ema_decay)
                found: dict[str, float] = {}
                looked = time.perf_counter()
                if self._due(settings.evaluate_every, step):
                    with interruption.leaving():
                        found = self.watch.evaluate(state, step)
                started += time.perf_counter() - looked
                if self._due(settings.checkpoint_every, step):
                    saved = self._save(state, step, iterator, found)
                looked = time.perf_counter()
                if self._due(settings.sample_every, step):
                    with interruption.leaving():
                        self.watch.write_samples(state, step)
                started += time.perf_counter() - looked
                interrupted = interruption.agreed(now=logs) and step < settings.steps
            self.profiler.end()
            if saved < step:
                self._save(state, step, iterator, {})
            checkpoint.wait(self.checkpoints)
        if interrupted:
            logger.info("saved step %d of %d; the same command goes on", step, settings.steps)
            interruption.end()

    def _due(self, every: int, step: int) -> bool:
        """Whether what comes `every` so many steps, 0 for never, comes after this one: after the last it does."""
        return every > 0 and (step % every == 0 or step == self.experiment.config.train.steps)

    def _log(self, bar: tqdm, scalars: dict[str, float], steps_per_second: float, state: TrainState, step: int) -> None:
        """Losses and more to the bar and to TensorBoard."""
        settings = self.train_step.config
        scalars["images_per_second"] = steps_per_second * settings.batch_size
        scalars["skipped_updates"] = float(state.skipped)
        self.events.scalars(scalars, step)
        if self.events.due:
            self._upload()
        skipped = f", {int(state.skipped)} updates skipped" if state.skipped else ""
        shown = f"loss={scalars['loss']:.4f}, img/s={scalars['images_per_second']:.0f}{skipped}"
        bar.set_postfix_str(shown, refresh=False)
        bar.update(step - bar.n)

    def _check_updates(self, state: TrainState) -> None:
        """Raises InputError after SKIPPED updates in a row that were not finite; warns of fewer."""
        in_a_row = int(state.skipped_in_a_row)
        if in_a_row >= SKIPPED:
            what = f"the last {in_a_row} updates were not finite and were left out"
            raise InputError(
                f"{what}; {checkpoint.last_said(self.checkpoints)}; go on from it with a smaller train.learning_rate or "
                "train.gradient_clip, or with model.dtype=float32"
            )
        if in_a_row:
            logger.warning("the last %d updates were not finite and were left out", in_a_row)

    def _upload(self) -> None:
        """Events to their bucket, if they have one, unless another run has taken the workdir over."""
        if self.lease is not None:
            self.lease.check()
        self.events.upload()

    def _save(self, state: TrainState, step: int, iterator: Batches, found: dict[str, float]) -> int:
        """Starts saving, unless another run has taken the workdir over; returns the step."""
        self._upload()  # what is known of the steps before a checkpoint is never lost
        checkpoint.save(self.checkpoints, step, self.experiment, state.as_dict(), iterator.get_state(), found)
        return step
