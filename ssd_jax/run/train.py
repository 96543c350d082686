"""A run: a config and the workdir that its training fills."""

import logging
from functools import partial

import jax
import numpy as np

from ssd_jax.build import AnyExperiment
from ssd_jax.config import AnyConfig
from ssd_jax.data.pipeline import Batches, make_iterator
from ssd_jax.data.protocol import Source
from ssd_jax.errors import check_name, check_range, checked_arguments, few
from ssd_jax.files.events import open_events
from ssd_jax.files.paths import Path, check_writable, to_path
from ssd_jax.processes import first_does
from ssd_jax.run import checkpoint
from ssd_jax.run.loop import Loop
from ssd_jax.run.origin import forget_origin
from ssd_jax.run.profile import Profiler
from ssd_jax.run.restore import restore
from ssd_jax.run.task import Task, task_of
from ssd_jax.run.trained import Trained
from ssd_jax.run.watching import measure_real, metric_names
from ssd_jax.run.workdir import claim_workdir, workdir_lease
from ssd_jax.sharding import make_mesh, placed, shardings
from ssd_jax.training.holdout import compile_holdout
from ssd_jax.training.stage_sampling import Allocation, allocate
from ssd_jax.training.state import TrainState, abstract_state, init_state
from ssd_jax.training.step import compile_train_step

MAX_PROFILE = 1000  # steps: a trace of more is too large to be opened

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
    task = task_of(config, workdir, source, init_from)
    experiment, objective = task.experiment, task.experiment.objective
    # These fail before anything is written.
    allocation = allocate(objective.stages, settings, mesh.size, objective.flops, objective.log_snr)
    real = measure_real(experiment.config, task.source) if settings.evaluate_every and settings.evaluate_num else None
    if settings.keep_best:
        check_name("train.keep_best", settings.keep_best, metric_names(task.told_apart, task.held_out, real))
    flip = experiment.config.data.flip
    iterator = make_iterator(task.source, batch_size=settings.batch_size, seed=settings.seed, flip=flip)
    with workdir_lease(workdir) as lease:
        first_does(partial(claim_workdir, workdir, experiment.config, experiment.statistics))
        task.keep(workdir)
        logger.info(summary(task, allocation, mesh))
        kept = {"latest": settings.keep_latest, "every": settings.keep_every, "best": settings.keep_best}
        with checkpoint.open_checkpoints(workdir, writable=True, **kept) as checkpoints:
            state, step = _first_or_latest(experiment, mesh, checkpoints, iterator)
            if not checkpoints.steps:
                forget_origin(workdir)
                state = task.begun(state, workdir)
            if step >= settings.steps:
                logger.info("%s is at step %d already; raise train.steps to go on", workdir, step)
                return
            first_does(partial(checkpoint.check_room, workdir, experiment))
            train_step, holdout = compile_train_step(objective, settings, mesh), None
            if settings.evaluate_every and task.held_out is not None:
                holdout = compile_holdout(objective, settings, mesh, task.held_out)
            with open_events(workdir, write=jax.process_index() == 0) as events:
                watch = task.watch(workdir, allocation, events, holdout, real)
                profiler = Profiler(workdir / "profile", profile)
                loop = Loop(experiment, workdir, train_step, checkpoints, events, watch, lease, profiler)
                loop.run(state, step, iterator)


def summary(task: Task, allocation: Allocation, mesh: jax.sharding.Mesh) -> str:
    """What a training run will do, in a line: images and classes, network, stages with their draws, devices."""
    config, encoding = task.experiment.config, task.experiment.encoding
    names = task.source.class_names if config.num_classes else ()
    size = "x".join(map(str, (*encoding.shape, encoding.channels)))
    classes = f" in {len(names)} classes ({few(names, 20)})" if names else ""
    count = sum(leaf.size for leaf in jax.tree.leaves(task.experiment.abstract_parameters))
    axes = " x ".join(f"{size} {name}" for name, size in mesh.shape.items() if size > 1 or name == "data")
    return (
        f"training on {len(task.source)} images of {size}{classes}; {count / 1e6:.3g} million parameters; "
        f"{task.draws(allocation)}; {mesh.size} device(s) ({axes}), {jax.devices()[0].device_kind}"
    )


def _first_or_latest(
    experiment: AnyExperiment, mesh: jax.sharding.Mesh, checkpoints: checkpoint.Checkpoints, iterator: Batches
) -> tuple[TrainState, int]:
    """The state of the latest checkpoint, or a first one, and its step; sets the iterator to where it stood."""
    if not checkpoints.steps:
        return init_state(experiment.init_parameters, experiment.config.train.seed, mesh), 0
    abstract = abstract_state(experiment.objective.parameters).as_dict()
    restored = restore(checkpoints, experiment, placed(abstract, shardings(abstract, mesh)))
    iterator.set_state(restored.data)
    logger.info("going on from step %d", restored.step)
    return TrainState(**restored.state), restored.step
