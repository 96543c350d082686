"""A trained model, ready to sample; `load.load` reads it from a run's workdir."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from tqdm import tqdm

from ssd_jax.build import Experiment
from ssd_jax.compilation import COMPILER_OPTIONS
from ssd_jax.config import Config
from ssd_jax.data.encoding import Encoding
from ssd_jax.data.protocol import ReadableSource
from ssd_jax.data.sources import make_source
from ssd_jax.errors import InputError, check_range, checked_arguments
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.protocol import null_label
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.processes import gathered
from ssd_jax.run.description import described
from ssd_jax.run.digest import combined, digests
from ssd_jax.run.guide import check_guide
from ssd_jax.run.labels import Label, numbered, vectors
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.guidance import Guidance, as_guidance, autoguidance, classifier_free, clipped, dynamically_thresholded
from ssd_jax.sampling.noise import NoiseSource, image_indices, seeded
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.sampler import Snapshot, iterate, with_progress
from ssd_jax.sampling.score import score
from ssd_jax.sharding import make_mesh, replicated, split_along_batch

_score = jax.jit(score, static_argnames=("process", "stage"), compiler_options=COMPILER_OPTIONS)


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """A trained model, ready to sample. `print(trained)` shows it as a small table.

    Attributes:
        experiment: what its config stands for.
        network: the network with its averaged parameters; predicts unclipped, for `guidance`.
        step: training steps taken.
    """

    experiment: Experiment
    network: Denoiser
    step: int

    def __repr__(self) -> str:
        return f"Trained model of\n{described(self.experiment, self.network, self.step)}\n{self.process}"

    @property
    def config(self) -> Config:
        """Of the run."""
        return self.experiment.config

    @property
    def process(self) -> ScaleSpaceProcess:
        """Its scale-space process."""
        return self.experiment.process

    @cached_property
    def digest(self) -> str:
        """Of the weights: 16 hexadecimal digits that tell models apart, wherever they lie."""
        return combined(digests(self.network.parameters))

    @property
    def encoding(self) -> Encoding:
        """Between images and x_0: `encoding.decode` makes pictures of samples."""
        return self.experiment.encoding

    @property
    def denoiser(self) -> Callable:
        """`network`, clipped to the range of x_0, for `ssd_jax.sample` and friends."""
        return clipped(self.network, self.experiment.bounds)

    @checked_arguments
    def guided(
        self,
        guidance: Guidance | float | None = None,
        *,
        guide: "Trained | None" = None,
        threshold_quantile: float | None = None,
    ) -> Callable:
        """`denoiser` with classifier-free guidance, or autoguidance by a `guide`, before its clipping.

        Args:
            guidance: its scale, or more of it, whose interval is one of `process.image_log_snr`. A scale of 1 is none, and
                any model can do that. The scale of `config.sample` if not given.
            guide: a worse model of the same task, to guide away from (`autoguidance`) instead of from any class.
            threshold_quantile: thresholds dynamically instead of clipping, see `dynamically_thresholded`.

        Raises:
            InputError: for values out of range, guidance of a model that was trained without label dropout, or a guide of
                another task or without effect, as guidance is 1.
        """
        config, null, log_snr = self.config, null_label(self.config.model), self.process.image_log_snr
        guidance = as_guidance(config.sample.guidance if guidance is None else guidance)
        if guide is not None:
            if guidance.scale == 1:
                raise InputError("a guide is given, but guidance is 1, which is none; give a scale above 1, e.g. 1.5")
            check_guide(self.experiment, guide.experiment)
            return self._bounded(autoguidance(self.network, guide.network, guidance, log_snr=log_snr), threshold_quantile)
        if guidance.scale != 1 and null is None:
            lack = "was trained without label dropout" if config.num_classes or config.label_size else "has no classes"
            raise InputError(
                f"guidance is {guidance.scale}, but the model {lack}; leave guidance at 1, or train a model with "
                "--config.model.num_classes and --config.model.label_dropout=0.1"
            )
        null = 0 if null is None else null
        denoise = classifier_free(self.network, guidance, null_label=null, log_snr=log_snr)
        return self._bounded(denoise, threshold_quantile)

    def _bounded(self, denoise: Denoise, threshold_quantile: float | None) -> Callable:
        """`denoise`, kept within the range of x_0."""
        if threshold_quantile is None:
            return clipped(denoise, self.experiment.bounds)
        return dynamically_thresholded(denoise, threshold_quantile, self.experiment.bounds)

    @checked_arguments
    def score(
        self, x: Float[Array | np.ndarray, "batch *small_shape channels"], t: int, label: Label | None = None
    ) -> Float[Array, "batch *small_shape channels"]:
        """grad log p_t of the marginal at states x of timestep t, as `denoiser` has it (`sampling.score.score`).

        Raises InputError for a t, shape or label that the model has not, or a t without noise. `label` is as in `sample`.
        """
        check_range("t", t, low=0, high=self.process.num_timesteps)
        stage = next(each for each in self.process.stages if each.t_min <= t <= each.t_max)
        expected = (*self.process.level_shape(stage.in_level), self.encoding.channels)
        if x.shape[1:] != expected:
            raise InputError(f"x has shape {x.shape}, but states of t = {t} have [batch, {', '.join(map(str, expected))}]")
        labels, times = self.labels(label, len(x)), np.full(len(x), t, np.int32)
        return _score(self.denoiser, self.process, jnp.asarray(x), times, labels, stage=stage)

    @checked_arguments
    def plan(
        self,
        *,
        solver: str | None = None,
        num_steps: int | None = None,
        spacing: str | Sequence[int] | None = None,
        eta: float | None = None,
        start: int | None = None,
    ) -> Plan:
        """`plan_steps` for this model, with the solver, calls and spacing of `config.sample` unless given.

        Calls that are listed by `spacing` are as many as it lists.
        """
        settings = self.config.sample
        spacing = settings.spacing if spacing is None else spacing
        if num_steps is None and isinstance(spacing, str):
            num_steps = settings.num_steps
        solver = settings.solver if solver is None else solver
        return plan_steps(self.process, solver=solver, num_steps=num_steps, spacing=spacing, eta=eta, start=start)

    @checked_arguments
    def classes_in_turn(self, num: int, first_index: int = 0) -> np.ndarray | None:
        """Labels 0, 1, .. of a grid that shows every class: int [num]; None for a model whose labels are no classes."""
        classes = self.config.model.num_classes
        return image_indices(num, first_index) % classes if classes else None

    @checked_arguments
    def labels(self, label: Label | None, num: int, first_index: int = 0) -> np.ndarray | None:
        """The label of every image: of one for all, [num] of them, or None for the classes, or the labels of data, in turn.

        Classes, int [num], are given by number or by name; a name that is a number counts as a name. Vectors, float32 [num,
        size], are given as such, or in words if the data's are words. None for a model without labels. Raises InputError
        for labels that cannot be.
        """
        config, known = self.config, self.experiment.labels
        if not config.label_size:
            if label is None:
                return self.classes_in_turn(num, first_index)
            return numbered(label, num, config.num_classes, config.data.classes or ())
        if label is not None:
            return vectors(label, num, config.label_size, of_words=config.data.name_size > 0)
        if known is None:
            raise InputError(
                "label is missing, but those of the model are vectors and it keeps none of the data's: give one"
            )
        return known[image_indices(num, first_index) % len(known)]

    @checked_arguments
    def noise(self, key: Key[Array, ""], num: int, first_index: int = 0) -> NoiseSource:
        """The noise of images first_index .. of the seed `key`, divided among the devices if `num` is a multiple of them.

        `ssd_jax.iterate` then runs on all devices.
        """
        return _shared(seeded(key, image_indices(num, first_index)), num)

    @checked_arguments
    def start(self, key: Key[Array, ""], num: int, first_index: int = 0) -> Float[Array, "num *shape channels"] | None:
        """x_{T-1} for a process that does not end in noise: images of the training data, degraded; None if it does.

        [num, *shape of x_{T-1}, channels]; state i depends on (key, first_index + i) only.
        """
        process, last = self.process, self.process.num_timesteps - 1
        if process.prior_is_noise:
            return None
        source = ReadableSource(make_source(self.config.data, self.encoding.picture_shape[:-1]))
        noise = seeded(key, image_indices(num, first_index))
        chosen = jax.vmap(lambda k: jax.random.randint(k, (), 0, len(source)))(noise.keys[:, 0])
        x0 = self.encoding.encode(np.stack([source[int(index)]["image"] for index in chosen]))
        shape = (*process.level_shape(process.used_levels[-1]), x0.shape[-1])
        return _shared(process.noisy_state(x0, last, noise.draw(process.num_timesteps, shape)), num)

    @checked_arguments
    def iterate(
        self,
        denoise: Callable,
        plan: Plan,
        key: Key[Array, ""],
        num: int,
        *,
        label: Label | None = None,
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
        own, given = ((each.shape, each.num_timesteps) for each in (self.process, plan.process))
        if given != own:
            raise InputError(
                f"plan is of a process of shape and timesteps {given}, but the model's are {own}; make it by trained.plan()"
            )
        snapshots = iterate(
            denoise,
            plan,
            self.noise(key, num, first_index),
            label=self.labels(label, num, first_index),
            start=self.start(key, num, first_index),
            channels=self.encoding.channels,
            memory_limit=memory_limit,
            every=every,
        )
        return (replace(each, **gathered({"x": each.x, "z": each.z}, make_mesh())) for each in snapshots)

    @checked_arguments
    def sample(
        self,
        key: Key[Array, ""],
        num: int = 16,
        *,
        solver: str | None = None,
        num_steps: int | None = None,
        spacing: str | Sequence[int] | None = None,
        eta: float | None = None,
        label: Label | None = None,
        guidance: Guidance | float | None = None,
        guide: "Trained | None" = None,
        threshold_quantile: float | None = None,
        first_index: int = 0,
        memory_limit: int | None = None,
        progress: bool = False,
    ) -> Float[Array, "{num} *shape channels"]:
        """Draws `num` samples of x_0, float32 [num, *shape, channels]; pixels are in [-1, 1].

        Sample i depends on (key, first_index + i) only. Solver, calls, spacing and guidance are the run's, those of
        `config.sample`, unless given.

        Args:
            key: the seed.
            num: images, all in one batch; on all devices if a multiple of their number.
            solver, num_steps, spacing, eta: as in `plan_steps`.
            label: one for all images or [num], as in `labels`; the classes, or the labels of data, in turn if not given.
            guidance, guide, threshold_quantile: as in `guided`.
            first_index: index of the first image.
            memory_limit: bytes of intermediate results on each device, as in `ssd_jax.sample`.
            progress: shows a bar.

        Raises:
            InputError: for labels out of range, and as `plan_steps` and `guided`.
        """
        label = self.labels(label, num, first_index)
        denoise = self.guided(guidance, guide=guide, threshold_quantile=threshold_quantile)
        plan = self.plan(solver=solver, num_steps=num_steps, spacing=spacing, eta=eta)
        snapshots = self.iterate(denoise, plan, key, num, label=label, first_index=first_index, memory_limit=memory_limit)
        if not progress:
            *_, last = snapshots
            return last.x
        with tqdm(total=plan.calls, desc="sampling", unit="call", leave=False) as bar:
            *_, last = with_progress(snapshots, bar)
        return last.x


def _shared(images: Any, num: int) -> Any:
    """Arrays [num, ..] divided among the devices of all processes if those divide num, whole on each of them if not."""
    mesh = make_mesh()
    if num % mesh.size and jax.process_count() == 1:
        return images
    where = replicated(mesh) if num % mesh.size else split_along_batch(mesh)
    return jax.jit(lambda images: images, out_shardings=where)(images)  # device_put cannot, from one process to several
