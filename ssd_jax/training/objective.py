"""What is trained, and on what: all that a training step needs to know besides its settings and its devices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssd_jax.compilation import operations
from ssd_jax.data.encoding import Encoding
from ssd_jax.errors import InputError
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.protocol import NetworkConfig, label_struct, null_label
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.training.log_variance import ENTRY, first_log_variances, log_variance, of_network
from ssd_jax.training.loss import LEARNED, LOSS_WEIGHTINGS, Shares, stage_loss

Batch = dict[str, jax.Array]


@runtime_checkable
class Loss(Protocol):
    """The mean loss of draws of a step; all that is random about one comes from the key and its number, batch["number"]."""

    def __call__(self, parameters: Any, batch: Batch, key: jax.Array, *, training: bool = True) -> Float[Array, ""]: ...


@runtime_checkable
class Objective(Protocol):
    """What is trained: a mean of losses, each a program of its own that gets a part of the draws.

    Attributes:
        stages: whose losses they are.
        parameters: shapes and types of what is trained.
        labelled: whether it needs the labels of images.
        log_snr: of every timestep, [T]; None if there is no noise.
    """

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def log_snr(self) -> Float[np.ndarray, "t"] | None: ...

    @property
    def parameters(self) -> dict: ...

    @property
    def labelled(self) -> bool: ...

    def losses(self, shares: Mapping[Stage, Shares]) -> dict[Stage, Loss]:
        """Of every stage; `shares` of its draws are what parts of its timesteps get, if it has any: else all alike."""
        ...

    def flops(self, stage: Stage) -> float:
        """Operations of the loss of a draw and its gradient."""
        ...

    def abstract_draws(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of so many draws."""
        ...


@dataclass(frozen=True, eq=False)
class Denoising:
    """The loss of a denoiser on a process and data.

    Attributes:
        process: whose stages are trained.
        encoding: of the images of a batch.
        model: the network's config, which tells of labels.
        denoiser: with `jax.ShapeDtypeStruct`s for parameters.
        weighting: a key of `loss.LOSS_WEIGHTINGS`.
        variances: of the pixels of the sharp image of each level, where they are known.

    Raises:
        InputError: if the weighting needs variances, and there are none, or one of them is 0.
    """

    process: ScaleSpaceProcess
    encoding: Encoding
    model: NetworkConfig
    denoiser: Denoiser
    weighting: str
    variances: tuple[float, ...] | None = None

    def __post_init__(self):
        for stage in self.stages:
            with np.errstate(divide="ignore"):
                weight = LOSS_WEIGHTINGS[self.weighting](np.ones(1), np.float64(self._variance(stage)))
            if not np.isfinite(weight).all():
                why = "the data do not vary" if self.variances else "statistics of the data are missing"
                raise InputError(
                    f"train.loss_weighting is {self.weighting!r}, but {why}, by whose variance it divides; take another one"
                )

    def _variance(self, stage: Stage) -> float:
        """Of the pixels of what the stage predicts; 0 if it is not known."""
        return self.variances[stage.out_level] if self.variances else 0.0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Each trained by a program of its own."""
        return self.process.stages

    @property
    def log_snr(self) -> Float[np.ndarray, "t"]:
        """l_t of the process."""
        return self.process.log_snr

    @property
    def parameters(self) -> dict:
        """Shapes and types of what is trained: the network's, and log-variances of the loss where these are learned."""
        if self.weighting != LEARNED:
            return self.denoiser.parameters
        return {**self.denoiser.parameters, ENTRY: jax.eval_shape(partial(first_log_variances, self.stages))}

    @property
    def labelled(self) -> bool:
        """Whether it needs the labels of images."""
        return label_struct(self.model, 1) is not None

    def losses(self, shares: Mapping[Stage, Shares]) -> dict[Stage, Loss]:
        """As `Objective.losses`."""
        return {stage: partial(self.loss, stage, shares=shares.get(stage, (1.0,))) for stage in self.stages}

    def loss(
        self,
        stage: Stage,
        parameters: Any,
        batch: Batch,
        key: jax.Array,
        *,
        shares: Shares = (1.0,),
        training: bool = True,
    ) -> Float[Array, ""]:
        """`stage_loss` of the denoiser with these parameters on draws of a step.

        All that is random about a draw comes from the key and its number in the step, batch["number"]. Log-variances count
        in training alone: without them losses can be compared, whatever has been learned.
        """
        denoiser, x0 = replace(self.denoiser, parameters=of_network(parameters)), self.encoding.encode(batch["image"])
        dropout, null = self.model.label_dropout, null_label(self.model)
        label, keys = batch.get("label"), jax.vmap(jax.random.fold_in, (None, 0))(key, batch["number"])
        learned = log_variance(parameters, stage) if training and self.weighting == LEARNED else None
        loss = partial(stage_loss, denoiser, self.process, stage, x0, label, keys, self.weighting, shares=shares)
        loss = partial(loss, variance=self._variance(stage), log_variance=learned)
        return loss(label_dropout=dropout, null_label=null, training=training)

    def flops(self, stage: Stage) -> float:
        """`gradient_operations` of the loss of a stage, whose weighting does not count."""
        plain = replace(self, weighting="constant")
        return gradient_operations(partial(plain.loss, stage), plain.parameters, self.abstract_draws(1))

    def abstract_draws(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of so many draws."""
        shape = (size, *self.encoding.shape, self.encoding.channels)
        batch = {
            "image": jax.ShapeDtypeStruct(shape, self.encoding.dtype),
            "number": jax.ShapeDtypeStruct((size,), jnp.int32),
        }
        label = label_struct(self.model, size)
        return batch if label is None else {**batch, "label": label}


def gradient_operations(loss: Callable[..., jax.Array], parameters: Any, draws: dict[str, jax.ShapeDtypeStruct]) -> float:
    """Floating-point operations of loss(parameters, draws, key) and its gradient, counted on the lowered program.

    Args:
        loss: of which draws weigh 1.
        parameters, draws: shapes and types, as `abstract_draws` of an objective gives them of one image.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    return operations(jax.jit(jax.value_and_grad(loss)).lower(parameters, draws, key))
