"""Labels as what networks add to the embedding of the timestep: a row of a table, or a vector times a matrix."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssd_jax.network.protocol import NetworkConfig, label_size, null_label


def label_embedding(config: NetworkConfig, width: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Module | None:
    """From labels to [batch, width], the null label too; None for a network without labels.

    Classes have a table, with a row for each of them and after them one for the null class.
    """
    null = null_label(config)
    if size := label_size(config):
        return VectorEmbedding(size, width, null is not None, dtype=dtype, rngs=rngs)
    rows = config.num_classes + (null is not None)
    return nnx.Embed(rows, width, dtype=dtype, rngs=rngs) if config.num_classes else None


class VectorEmbedding(nnx.Module):
    """W v + b of a vector v; in place of the null label, NaN throughout, a vector of its own that is learned."""

    def __init__(self, size: int, width: int, has_null: bool, *, dtype: Any, rngs: nnx.Rngs):
        self.linear = nnx.Linear(size, width, dtype=dtype, rngs=rngs)
        self.null = nnx.Param(nnx.initializers.normal(width**-0.5)(rngs.params(), (width,))) if has_null else None

    def __call__(self, label: Float[Array, "batch size"]) -> Float[Array, "batch width"]:
        """float32 [batch, size] -> [batch, width]."""
        if self.null is None:
            return self.linear(label)
        known = ~jnp.isnan(label[:, :1])
        embedded = self.linear(jnp.where(known, label, 0.0))  # NaN times a gradient of 0 would be NaN
        return jnp.where(known, embedded, self.null[...].astype(embedded.dtype))
