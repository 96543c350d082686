"""A network that compiles in no time: every pixel by itself, at every level."""

from dataclasses import dataclass

import jax
from flax import nnx

from ssd_jax.network import NETWORKS


@dataclass(frozen=True)
class PixelsConfig:
    """What every network has."""

    num_classes: int = 0
    label_dropout: float = 0.0


class Pixels(nnx.Module):
    """One linear layer, of the channels of a pixel."""

    def __init__(self, config, *, shapes, in_channels, out_channels, rngs):
        self.shapes, self.layer = shapes, nnx.Linear(in_channels, out_channels, rngs=rngs)

    @property
    def num_levels(self) -> int:
        return len(self.shapes)

    def __call__(self, x, t, label=None, *, in_level, out_level, dropout_keys=None):
        return jax.image.resize(self.layer(x), (x.shape[0], *self.shapes[out_level], x.shape[-1]), "nearest")


NETWORKS["pixels"] = (PixelsConfig, Pixels)
