"""A run: a config and the workdir that its training fills."""

import logging
import time
from pathlib import Path

import jax
import numpy as np
import tensorboardX
from tqdm import tqdm

from ssd_jax.config import Config
from ssd_jax.data import check_classes, make_iterator, make_source
from ssd_jax.files import images
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.parameterisation import Parameterisation
from ssd_jax.process.process import make_process
from ssd_jax.run import checkpoint
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sharding import data_mesh, placed, replicated
from ssd_jax.training import step as training

logger = logging.getLogger(__name__)


def train(config: Config, workdir: str | Path) -> None:
    """Trains up to config.train.steps, going on from the latest checkpoint in `workdir` if there is one.

    Writes config.json, checkpoints/, samples/step_N.png and TensorBoard events; a progress bar goes to stderr.

    Raises:
        InputError: if the config cannot work with the data, the devices or what `workdir` holds.
    """
    workdir, settings = Path(workdir), config.train
    mesh = data_mesh()
    source = make_source(config.data, config.process.image_size)
    check_classes(source, config.model)
    training.stage_batch_sizes(config, mesh)  # these fail before anything is written
    plan_steps(make_process(config.process), solver=config.sample.solver, num_steps=config.sample.steps)
    checkpoint.claim_workdir(workdir, config)
    iterator = make_iterator(source, batch_size=settings.batch_size, seed=settings.seed, flip=config.data.flip)
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        if checkpoints.latest is None:
            state, step = training.init_state(config, mesh), 0
        else:
            state, step = _resume(config, mesh, checkpoints, iterator)
            logger.info("going on from step %d", step)
        if step >= settings.steps:
            logger.info("%s is at step %d already; raise train.steps to go on", workdir, step)
            return
        train_step = training.compile_train_step(config, mesh)
        with tensorboardX.SummaryWriter(str(workdir), write_to_disk=jax.process_index() == 0) as writer:
            _loop(config, workdir, train_step, state, step, iterator, checkpoints, writer)


def _resume(config: Config, mesh: jax.sharding.Mesh, checkpoints, iterator) -> tuple[training.TrainState, int]:
    """The state and step of the latest checkpoint; sets the iterator to where it stood."""
    abstract = jax.eval_shape(lambda: training.init_state(config, mesh))
    state, data = checkpoint.restore(checkpoints, placed(abstract.as_dict(), replicated(mesh)))
    iterator.set_state(data)
    return training.TrainState(**state), checkpoints.latest.step


def _loop(config, workdir, train_step, state, step, iterator, checkpoints, writer) -> None:
    """Steps until train.steps; asks the device for numbers only every log_every steps."""
    settings = config.train
    graphdef, _ = training.abstract_model(config.model)
    process = make_process(config.process)
    pending: list[dict[str, jax.Array]] = []
    with tqdm(total=settings.steps, initial=step, desc="training", unit="step") as bar:
        started = time.perf_counter()
        while step < settings.steps:
            batch = next(iterator)
            if not config.model.num_classes:
                batch = {"image": batch["image"]}
            state, losses = train_step(state, step, batch)
            pending.append(losses)
            step += 1
            last = step == settings.steps
            if step % settings.log_every == 0 or last:
                scalars = _mean_losses(pending, train_step)  # waits for the device
                scalars["images_per_second"] = len(pending) * settings.batch_size / (time.perf_counter() - started)
                scalars["learning_rate"] = float(np.asarray(training.learning_rate(settings)(step)))
                scalars["skipped_updates"] = float(state.skipped)
                for name, value in scalars.items():
                    writer.add_scalar(name, value, step)
                shown = {"loss": f"{scalars['loss']:.4f}", "img/s": f"{scalars['images_per_second']:.0f}"}
                bar.set_postfix(shown, refresh=False)
                bar.update(step - bar.n)
                pending, started = [], time.perf_counter()
            if step % settings.checkpoint_every == 0 or last:
                checkpoint.save(checkpoints, step, state.as_dict(), iterator.get_state())
            if step % settings.sample_every == 0 or last:
                trained = Trained(config, process, Denoiser(state.ema, graphdef, Parameterisation()), step)
                _write_samples(trained, workdir / "samples" / f"step_{step:07d}.png")
                started = time.perf_counter()


def _mean_losses(steps: list[dict[str, jax.Array]], train_step: training.TrainStep) -> dict[str, float]:
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


def _write_samples(trained: Trained, path: Path) -> None:
    """A grid of samples, always from the same seed."""
    settings = trained.config.sample
    pictures = trained.sample(
        jax.random.key(0), settings.num, solver=settings.solver, num_steps=settings.steps, guidance=settings.guidance
    )
    if jax.process_index() == 0:
        images.write_png(path, images.enlarged_grid(images.to_uint8(pictures)))
