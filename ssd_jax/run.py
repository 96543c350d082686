"""A run: a config and the workdir that its training fills. `train` makes it, `load` reads it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX
from tqdm import tqdm

from ssd_jax import checkpoint, images, training
from ssd_jax.config import Config
from ssd_jax.data import check_classes, make_iterator, make_source
from ssd_jax.denoiser import Denoiser
from ssd_jax.errors import InputError
from ssd_jax.guidance import Interval, classifier_free, clipped, dynamically_thresholded
from ssd_jax.noise import NoiseSource, seeded
from ssd_jax.process import ScaleSpaceProcess, make_process
from ssd_jax.sampling import sample
from ssd_jax.sharding import data_mesh, replicated, split_along_batch
from ssd_jax.solvers import plan_steps

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, ready to sample.

    Attributes:
        config: of the run.
        process: its scale-space process.
        network: the network with its averaged parameters; predicts unclipped, for `guidance`.
        step: training steps taken.
    """

    config: Config
    process: ScaleSpaceProcess
    network: Denoiser
    step: int

    @property
    def denoiser(self) -> Callable:
        """`network`, clipped to the range of images, for `ssd_jax.sample` and friends."""
        return clipped(self.network, self.process.bounds)

    def guided(
        self, guidance: float, interval: Interval | None = None, threshold_quantile: float | None = None
    ) -> Callable:
        """`denoiser` with classifier-free guidance before its clipping.

        Args:
            guidance: scale, >= 0; 1 is none, and any model can do that.
            interval: (low, high) in `process.image_log_snr`, where to guide; everywhere if not given.
            threshold_quantile: thresholds dynamically instead of clipping, see `dynamically_thresholded`.

        Raises:
            InputError: for values out of range, or guidance of a model that was trained without label dropout.
        """
        model = self.config.model
        if guidance != 1 and model.null_label is None:
            lack = "was trained without label dropout" if model.num_classes else "has no classes"
            raise InputError(
                f"guidance is {guidance}, but the model {lack}; leave guidance at 1, or train a model with "
                "--config.model.num_classes and --config.model.label_dropout=0.1"
            )
        denoise = classifier_free(
            self.network, guidance, null_label=model.num_classes, interval=interval, log_snr=self.process.image_log_snr
        )
        if threshold_quantile is None:
            return clipped(denoise, self.process.bounds)
        return dynamically_thresholded(denoise, threshold_quantile, self.process.bounds)

    def classes_in_turn(self, num: int, first_index: int = 0) -> np.ndarray | None:
        """Labels 0, 1, .. of a grid that shows every class: int [num]; None for a model without classes."""
        classes = self.config.model.num_classes
        return np.arange(first_index, first_index + num) % classes if classes else None

    def labels(self, label: int | np.ndarray | None, num: int, first_index: int = 0) -> np.ndarray | None:
        """The label of every image, int [num]: one class, int [num], or None for the classes in turn.

        None for a model without classes. Raises InputError for labels that cannot be.
        """
        classes = self.config.model.num_classes
        if label is None:
            return self.classes_in_turn(num, first_index)
        label = np.asarray(label)
        if not classes:
            raise InputError("label is given, but the model has 0 classes; leave it out")
        if label.shape not in ((), (num,)) or not np.issubdtype(label.dtype, np.integer):
            raise InputError(f"label is {label.dtype} {label.shape}, but must be one int or int [{num}]")
        if label.min() < 0 or label.max() >= classes:
            raise InputError(f"label holds {label.min()}..{label.max()}, but the model's classes are 0..{classes - 1}")
        return np.broadcast_to(label, num)

    def noise(self, key: jax.Array, num: int, first_index: int = 0) -> NoiseSource:
        """The noise of images first_index .. of the seed `key`, divided among the devices if `num` is a multiple of them.

        `sample` and `iterate` take it for a key and then run on all devices.
        """
        source, mesh = seeded(key, first_index + np.arange(num)), data_mesh()
        if jax.process_count() > 1 or num % mesh.size:
            return source
        return jax.device_put(source, split_along_batch(mesh))

    def start(self, key: jax.Array, num: int, first_index: int = 0) -> jax.Array | None:
        """x_{T-1} for a process that does not end in noise: images of the training data, degraded; None if it does.

        [num, *shape of x_{T-1}, channels]; state i depends on (key, first_index + i) only.
        """
        process, last = self.process, self.process.num_timesteps - 1
        if process.prior_is_noise:
            return None
        source = make_source(self.config.data, self.config.process.image_size)
        noise = seeded(key, first_index + np.arange(num))
        chosen = jax.vmap(lambda k: jax.random.randint(k, (), 0, len(source)))(noise.keys[:, 0])
        items = [source[int(index)] for index in chosen]
        readable = [item for item in items if item is not None]
        if not readable:
            raise InputError(f"none of the {num} images drawn from the training data to start from can be read")
        x0 = jnp.asarray(np.stack([(item or readable[0])["image"] for item in items]), jnp.float32) / 127.5 - 1
        z = process.degrade(x0, process.used_levels[-1])
        return process.add_noise(z, jnp.full(num, last), noise.draw(process.num_timesteps, z.shape[1:]))

    def sample(
        self,
        key: jax.Array,
        num: int = 16,
        *,
        solver: str = "dpmpp_2m",
        num_steps: int | None = None,
        spacing: str | Sequence[int] = "log_snr",
        eta: float | None = None,
        label: int | np.ndarray | None = None,
        guidance: float = 1.0,
        guidance_interval: Interval | None = None,
        threshold_quantile: float | None = None,
        first_index: int = 0,
        memory_limit: int | None = None,
    ) -> jax.Array:
        """Draws `num` images, float32 [num, size, size, 3] in [-1, 1]; image i depends on (key, first_index + i) only.

        Args:
            key: the seed.
            num: images, all in one batch; on all devices if a multiple of their number.
            solver, num_steps, spacing, eta: as in `plan_steps`.
            label: one class for all images or int [num], for a model with classes; the classes in turn if not given.
            guidance, guidance_interval, threshold_quantile: as in `guided`.
            first_index: index of the first image.
            memory_limit: bytes of intermediate results on each device, as in `ssd_jax.sample`.

        Raises:
            InputError: for labels out of range, and as `plan_steps` and `guided`.
        """
        label = self.labels(label, num, first_index)
        denoise = self.guided(guidance, guidance_interval, threshold_quantile)
        plan = plan_steps(self.process, solver=solver, num_steps=num_steps, spacing=spacing, eta=eta)
        start = self.start(key, num, first_index)
        noise = self.noise(key, num, first_index)
        return sample(denoise, plan, noise, num, label=label, start=start, memory_limit=memory_limit)


def load(workdir: str | Path) -> Trained:
    """The latest checkpoint of the run in `workdir`, with averaged (EMA) parameters.

    Raises:
        InputError: if there is no run, no checkpoint, or it is damaged.
    """
    config = checkpoint.load_config(Path(workdir))
    graphdef, abstract = training.abstract_model(config.model)
    step, ema = checkpoint.restore_ema(Path(workdir), _placed(abstract, replicated(data_mesh())))
    return Trained(config, make_process(config.process), Denoiser(ema, graphdef), step)


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
    state, data = checkpoint.restore(checkpoints, _placed(abstract.as_dict(), replicated(mesh)))
    iterator.set_state(data)
    return training.TrainState(**state), checkpoints.latest.step


def _placed(abstract, sharding: jax.sharding.Sharding):
    """The same shapes, to be restored with `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract)


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
                trained = Trained(config, process, Denoiser(state.ema, graphdef), step)
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
        images.write_png(path, images.grid(images.to_uint8(pictures)))
