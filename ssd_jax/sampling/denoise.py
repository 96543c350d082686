"""What samplers, guidance and edits ask of a denoiser: to be called as denoise(x, t, label, *, stage) -> z_hat."""

from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, Num

from ssd_jax.process.stages import Stage


@runtime_checkable
class Denoise(Protocol):
    """Any function that estimates clean images: a network, an analytic denoiser, or what is made of another one.

    If it is a pytree (a network's `Denoiser`, `jax.tree_util.Partial`) its leaves are arguments of the compiled programs,
    else constants.
    """

    def __call__(
        self,
        x: Float[Array, "batch *in_shape channels"],
        t: Num[Array, "batch"],
        label: Int[Array, "batch"] | None,
        /,
        *,
        stage: Stage,
    ) -> Float[Array, "batch *out_shape channels"]:
        """z_hat, the estimated sharp image.

        Args:
            x: states at stage.in_level, [batch, *in_shape, channels].
            t: their timesteps, [batch].
            label: classes, int [batch], or None.
            stage: the stage of the timesteps, static.

        Returns:
            [batch, *out_shape, channels] at stage.out_level.
        """
        ...


def as_pytree(denoise: Denoise) -> Denoise:
    """`denoise` as a pytree, so that its arrays, if it has any, are arguments of compiled programs and not constants."""
    return jax.tree_util.Partial(denoise) if jax.tree_util.all_leaves([denoise]) else denoise
