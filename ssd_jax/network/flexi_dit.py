"""The Flexi-DiT: a transformer entered and left at any level, after the plain recipe of JiT (Li & He 2025).

The tokens of a level are patches of `patch_size` pixels of its own, so that level l has 4^-l of the tokens of an image, and
its attention 16^-l of their pairs. Every level has an embedding of its patches and a head of its own, whose biases tell the
levels apart; the blocks between are shared. Positions are rotary over every axis (Su et al. 2021; Heo et al. 2024), counted
in tokens of level 0, so that all levels agree on where things are:

    embed in_level -> blocks -> ascend in_level .. out_level -> head out_level

An ascent makes of each token as many as lie in its place at the level above. Blocks are those of DiT (Peebles & Xie 2023)
with RMSNorm, normed queries and keys, and SwiGLU. Arrays have any number of spatial axes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, Num

from ssd_jax.errors import InputError, brief, check_name, check_range, section
from ssd_jax.network.blocks import PRECISIONS, REMATS, attend, drop, timestep_embedding
from ssd_jax.network.embed_label import label_embedding
from ssd_jax.network.protocol import Shapes, check_call, check_label_settings
from ssd_jax.process.factors import factors_between

MAX_WIDTH, MAX_DEPTH, MAX_PATCH = 2**14, 2**8, 2**8
FEATURES = 256  # of the timestep
LONGEST_PERIOD = 100  # of rotary positions, in tokens over 2 pi (Heo et al. 2024)
ZEROS = nnx.initializers.zeros


@section("model")
@dataclass(frozen=True)
class FlexiDiTConfig:
    """The `model` section of a Flexi-DiT.

    Attributes:
        patch_size: pixels along every axis of a token, at every level; the last entry holds for all further axes, so that
            (4,) is 4x4 of images and (1, 4) is 1x4x4 of clips. It must divide the sides of all levels.
        width: numbers of a token.
        depth: blocks.
        num_heads: attention heads; divides the width.
        dropout: 0 <= rate < 1, of what attention and MLPs add.
        num_classes: 0 for a network whose labels are no classes.
        label_size: numbers of a label that is a vector, such as an embedding of text or of an image; 0 if it is none.
        label_dropout: 0 <= share < 1 of the labels that training replaces by the null label, which guidance needs.
        dtype: compute dtype, "float32" or "bfloat16"; parameters, statistics and softmax are float32 always.
        precision: of products of float32 numbers, as of the Flexi-UNet.
        remat: which blocks training computes again for the gradient: "none", "full_resolution" (those of level 0) or "all".
    """

    patch_size: tuple[int, ...] = (4,)
    width: int = 192
    depth: int = 6
    num_heads: int = 3
    dropout: float = 0.0
    num_classes: int = 0
    label_size: int = 0
    label_dropout: float = 0.0
    dtype: str = "float32"
    precision: str = "default"
    remat: str = "none"

    def __post_init__(self):
        if not self.patch_size or not all(1 <= side <= MAX_PATCH for side in self.patch_size):
            raise InputError(f"model.patch_size is {brief(self.patch_size)}, but must hold sides from 1 to {MAX_PATCH}")
        check_range("model.width", self.width, low=1, high=MAX_WIDTH + 1)
        check_range("model.depth", self.depth, low=1, high=MAX_DEPTH + 1)
        check_range("model.num_heads", self.num_heads, low=1, high=self.width + 1)
        check_range("model.dropout", self.dropout, low=0, high=1)
        check_label_settings(self)
        check_name("model.dtype", self.dtype, ("float32", "bfloat16"))
        check_name("model.precision", self.precision, PRECISIONS)
        check_name("model.remat", self.remat, REMATS)
        if self.width % self.num_heads:
            raise InputError(f"model.num_heads is {self.num_heads}, but must divide model.width, {self.width}")


class RotaryAttention(nnx.Module):
    """Multi-head self-attention with normed queries and keys, turned by their positions."""

    def __init__(self, width: int, num_heads: int, *, dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.query_key_value = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.query_norm, self.key_norm = (nnx.RMSNorm(width // num_heads, dtype=dtype, rngs=rngs) for _ in range(2))
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens width"], angles: Float[np.ndarray, "tokens pairs"]
    ) -> Float[Array, "batch tokens width"]:
        """x: [batch, tokens, width], angles: as `rotate` -> the shape of x."""
        batch, tokens, width = x.shape
        heads = self.query_key_value(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        query, key = rotate(self.query_norm(query), angles), rotate(self.key_norm(key), angles)
        return self.out(attend(query, key, value).reshape(x.shape))


class Block(nnx.Module):
    """Attention and SwiGLU (Shazeer 2020), normed, scaled, shifted and gated by the condition; born as the identity."""

    def __init__(self, config: FlexiDiTConfig, *, rngs: nnx.Rngs):
        width, dtype = config.width, jnp.dtype(config.dtype)
        hidden = 8 * -(-width // 3)  # two thirds of 4 widths, as there are three matrices
        self.dropout = config.dropout
        self.modulation = nnx.Linear(width, 6 * width, kernel_init=ZEROS, dtype=dtype, rngs=rngs)
        self.attention = RotaryAttention(width, config.num_heads, dtype=dtype, rngs=rngs)
        self.gate_and_value = nnx.Linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        condition: Float[Array, "batch width"],
        angles: Float[np.ndarray, "tokens pairs"],
        dropout_keys: Key[Array, "batch"] | None,
    ) -> Float[Array, "batch tokens width"]:
        """x: [batch, tokens, width], condition: [batch, width], angles: as `rotate` -> the shape of x."""
        keys = (None, None) if dropout_keys is None else jax.vmap(jax.random.split, out_axes=1)(dropout_keys)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = jnp.split(self.modulation(condition)[:, None], 6, axis=-1)
        attended = self.attention(normed(x) * (1 + scale_1) + shift_1, angles)
        x += gate_1 * drop(attended, self.dropout, keys[0])
        gate, value = jnp.split(self.gate_and_value(normed(x) * (1 + scale_2) + shift_2), 2, axis=-1)
        return x + gate_2 * drop(self.out(nnx.silu(gate) * value), self.dropout, keys[1])


class FlexiDiT(nnx.Module):
    """Predicts the clean image at out_level from a noisy one at in_level (a `protocol.Network`).

    Args:
        config: patches, width, depth, classes, compute dtype.
        shapes: of the levels of the process.
        in_channels, out_channels: of states and predictions.
        rngs: for initialisation.

    Raises:
        InputError: if patches do not fit the levels, or the heads are too narrow for positions on all axes.
    """

    def __init__(self, config: FlexiDiTConfig, *, shapes: Shapes, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.config, self.shapes, self.in_channels = config, shapes, in_channels
        self.patch = (config.patch_size + config.patch_size[-1:] * len(shapes[0]))[: len(shapes[0])]
        self.grids = tuple(_grid(shape, self.patch) for shape in shapes)
        self.factors = tuple(starmap(factors_between, pairwise(self.grids)))
        if config.width // config.num_heads < 2 * len(shapes[0]):
            raise InputError(
                f"model.width is {config.width} for {config.num_heads} heads, but positions on {len(shapes[0])} axes need "
                f"at least {2 * len(shapes[0])} numbers a head"
            )
        width, dtype, pixels = config.width, jnp.dtype(config.dtype), math.prod(self.patch)

        def linear(into: int, out: int, **kinds) -> nnx.Linear:
            return nnx.Linear(into, out, dtype=dtype, rngs=rngs, **kinds)

        self.embed_1, self.embed_2 = linear(FEATURES, width), linear(width, width)
        self.embed_label: Any = label_embedding(config, width, dtype=dtype, rngs=rngs)
        self.embeds = nnx.List([linear(pixels * in_channels, width) for _ in shapes])
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        # Entry l - 1 leads from level l to level l - 1.
        self.ascends = nnx.List([linear(width, math.prod(each) * width) for each in self.factors])
        self.head_modulation = linear(width, 2 * width, kernel_init=ZEROS)
        self.heads = nnx.List([linear(width, pixels * out_channels, kernel_init=ZEROS) for _ in shapes])

    @property
    def num_levels(self) -> int:
        """Those of the process."""
        return len(self.shapes)

    def __call__(
        self,
        x: Float[Array, "..."],
        t: Num[Array, "batch"],
        label: Num[Array, "batch *vector"] | None = None,
        *,
        in_level: int,
        out_level: int,
        dropout_keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch *shape channels"]:
        """As `FlexiUNet.__call__`."""
        check_call(self, x, label, in_level, out_level)
        config = self.config
        with jax.default_matmul_precision(config.precision):
            condition = self.embed_2(nnx.silu(self.embed_1(timestep_embedding(t, FEATURES))))
            if self.embed_label is not None and label is not None:
                condition += self.embed_label(label)
            condition = nnx.silu(condition)
            angles = self._angles(in_level)
            again = config.remat == "all" or (config.remat == "full_resolution" and in_level == 0)
            h = self.embeds[in_level](to_patches(x, self.patch))
            for i, block in enumerate(self.blocks):
                keys = None if dropout_keys is None else jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, i)

                def apply(h: jax.Array, block: Block = block, keys: jax.Array | None = keys) -> jax.Array:
                    return block(h, condition, angles, keys)

                h = (jax.checkpoint(apply) if again else apply)(h)
            for level in reversed(range(out_level, in_level)):
                h = from_patches(self.ascends[level](h), self.grids[level + 1], self.factors[level])
                h = h.reshape(len(h), -1, config.width)
            shift, scale = jnp.split(self.head_modulation(condition)[:, None], 2, axis=-1)
            h = self.heads[out_level](normed(h) * (1 + scale) + shift)
            return from_patches(h, self.grids[out_level], self.patch).astype(jnp.float32)

    def _angles(self, level: int) -> Float[np.ndarray, "tokens pairs"]:
        """Of every token of a level, those of all axes one after the other."""
        pairs = self.config.width // self.config.num_heads // (2 * len(self.patch))
        frequencies = LONGEST_PERIOD ** (-np.arange(pairs) / pairs)
        places = [(np.arange(n) + 0.5) * whole / n for n, whole in zip(self.grids[level], self.grids[0], strict=True)]
        axes = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1)
        return (axes[..., None] * frequencies).reshape(-1, len(places) * pairs).astype(np.float32)


def normed(x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
    """x over its root mean square along the width (Zhang & Sennrich 2019), statistics in float32."""
    square = jnp.square(x.astype(jnp.float32)).mean(-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + 1e-6)).astype(x.dtype)


def rotate(
    x: Float[Array, "batch tokens heads width"], angles: Float[np.ndarray, "tokens pairs"]
) -> Float[Array, "batch tokens heads width"]:
    """Turns the i-th and the (pairs + i)-th number of every head by the i-th angle of its token; what is left stays."""
    pairs = angles.shape[-1]
    one, other, rest = jnp.split(x, [pairs, 2 * pairs], axis=-1)
    cos, sin = (jnp.asarray(each, x.dtype)[:, None] for each in (np.cos(angles), np.sin(angles)))
    return jnp.concatenate([one * cos - other * sin, one * sin + other * cos, rest], axis=-1)


def to_patches(x: Float[Array, "batch *shape channels"], patch: Sequence[int]) -> Float[Array, "batch tokens pixels"]:
    """[batch, *shape, channels] -> [batch, tokens, pixels of a patch x channels]."""
    grid = [n // side for n, side in zip(x.shape[1:-1], patch, strict=True)]
    split = x.reshape(len(x), *[size for pair in zip(grid, patch, strict=True) for size in pair], x.shape[-1])
    axes = range(len(grid))
    order = (0, *(1 + 2 * axis for axis in axes), *(2 + 2 * axis for axis in axes), 2 * len(grid) + 1)
    return split.transpose(order).reshape(len(x), math.prod(grid), -1)


def from_patches(
    x: Float[Array, "batch tokens pixels"], grid: Sequence[int], patch: Sequence[int]
) -> Float[Array, "batch *shape channels"]:
    """The inverse of `to_patches`, of a grid of tokens."""
    split = x.reshape(len(x), *grid, *patch, -1)
    order = [0, *[axis for i in range(len(grid)) for axis in (1 + i, 1 + len(grid) + i)], 2 * len(grid) + 1]
    return split.transpose(order).reshape(len(x), *[n * side for n, side in zip(grid, patch, strict=True)], split.shape[-1])


def _grid(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Tokens along every axis of a level. Raises InputError if patches do not fit."""
    if any(n % side for n, side in zip(shape, patch, strict=True)):
        raise InputError(
            f"model.patch_size is {tuple(patch)}, but must divide the sides of all levels, such as {tuple(shape)}; "
            "take smaller patches or fewer levels"
        )
    return tuple(n // side for n, side in zip(shape, patch, strict=True))
