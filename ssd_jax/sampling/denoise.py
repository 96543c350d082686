"""What samplers, guidance and edits ask of a denoiser: to be called as denoise(x, t, label, *, stage) -> z_hat."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ssd_jax.errors import InputError, brief
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
        label: Num[Array, "batch *vector"] | None,
        /,
        *,
        stage: Stage,
    ) -> Float[Array, "batch *out_shape channels"]:
        """z_hat, the estimated sharp image.

        Args:
            x: states at stage.in_level, [batch, *in_shape, channels].
            t: their timesteps, [batch].
            label: of every image the number of a class, int [batch], or a vector, float [batch, size]; or None.
            stage: the stage of the timesteps, static.

        Returns:
            [batch, *out_shape, channels] at stage.out_level.
        """
        ...


def as_pytree(denoise: Denoise) -> Denoise:
    """`denoise` as a pytree, so that its arrays, if it has any, are arguments of compiled programs and not constants."""
    return jax.tree_util.Partial(denoise) if jax.tree_util.all_leaves([denoise]) else denoise


def as_label(label: Num[Array | np.ndarray, "batch *vector"] | None) -> Num[Array, "batch *vector"] | None:
    """Labels as the device gets them, int32 [batch] or float32 [batch, size]. Raises InputError if they are neither."""
    if label is None:
        return None
    for kind, dtype, axes in ((jnp.integer, jnp.int32, 1), (jnp.floating, jnp.float32, 2)):
        if jnp.issubdtype(label.dtype, kind) and label.ndim == axes:
            return jnp.asarray(label, dtype)
    raise InputError(
        f"label is {brief(np.asarray(label).tolist())}, {label.dtype} of shape {label.shape}, but must be int [batch] or "
        "float [batch, size]"
    )
