"""A trained model, ready to sample: `load` reads it from a run's workdir."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.config import Config
from ssd_jax.data import make_source
from ssd_jax.errors import InputError
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.parameterisation import Parameterisation
from ssd_jax.process.process import ScaleSpaceProcess, make_process
from ssd_jax.run import checkpoint
from ssd_jax.sampling.guidance import Interval, classifier_free, clipped, dynamically_thresholded
from ssd_jax.sampling.noise import NoiseSource, seeded
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.sampler import Snapshot, iterate
from ssd_jax.sharding import data_mesh, placed, replicated, split_along_batch
from ssd_jax.training import step as training


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

        `ssd_jax.iterate` then runs on all of them.
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
        shape = (*process.level_shape(process.used_levels[-1]), x0.shape[-1])
        return process.noisy_state(x0, last, noise.draw(process.num_timesteps, shape))

    def iterate(
        self,
        denoise: Callable,
        plan: Plan,
        key: jax.Array,
        num: int,
        *,
        label: int | np.ndarray | None = None,
        first_index: int = 0,
        memory_limit: int | None = None,
        every: int | None = None,
    ) -> Iterator[Snapshot]:
        """`ssd_jax.iterate` on all devices, with the right labels and, where the prior is no noise, states to start from.

        Args:
            denoise: `denoiser` or one of `guided`.
            plan: of this model's process, from T - 1.
            key, num, label, first_index: as in `sample`.
            memory_limit, every: as in `ssd_jax.iterate`.
        """
        labels, start = self.labels(label, num, first_index), self.start(key, num, first_index)
        noise = self.noise(key, num, first_index)
        return iterate(denoise, plan, noise, label=labels, start=start, memory_limit=memory_limit, every=every)

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
        snapshots = self.iterate(denoise, plan, key, num, label=label, first_index=first_index, memory_limit=memory_limit)
        *_, last = snapshots
        return last.x


def load(workdir: str | Path) -> Trained:
    """The latest checkpoint of the run in `workdir`, with averaged (EMA) parameters.

    Raises:
        InputError: if there is no run, no checkpoint, or it is damaged.
    """
    config = checkpoint.load_config(Path(workdir))
    graphdef, abstract = training.abstract_model(config.model)
    step, ema = checkpoint.restore_ema(Path(workdir), placed(abstract, replicated(data_mesh())))
    return Trained(config, make_process(config.process), Denoiser(ema, graphdef, Parameterisation()), step)
