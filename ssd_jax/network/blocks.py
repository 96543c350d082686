"""Building blocks of networks, those of ADM (Dhariwal & Nichol 2021). Arrays are [batch, *spatial, channels]."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, Num

from ssd_jax.compilation import has_compiler
from ssd_jax.network.convolution import Axes, convolution
from ssd_jax.process.operators import along_axes

PRECISIONS = ("default", "high", "highest")  # of products of float32 numbers
REMATS = ("none", "full_resolution", "all")  # which blocks are computed again for the gradient
RESAMPLINGS = ("convolution", "residual")  # what leads from one level to the next
OLDEST_FUSED = 8.0  # compute capability of the first GPUs on which cuDNN's attention runs, Ampere


class GroupNorm(nnx.Module):
    """GroupNorm; statistics in float32.

    One multiplication and addition per pixel: on CPUs that is faster than Flax's, which broadcasts over groups.

    Args:
        width: channels.
        num_groups: a divisor of them; the largest that also divides 32 if not given.
        epsilon: added to the variance.
    """

    def __init__(self, width: int, num_groups: int | None = None, epsilon: float = 1e-5):
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.num_groups, self.epsilon = num_groups or math.gcd(32, width), epsilon

    def __call__(self, x: Float[Array, "batch *spatial width"]) -> Float[Array, "batch *spatial width"]:
        """[batch, *spatial, width] -> the same shape and dtype."""
        pixels, repeats, spatial = x.astype(jnp.float32), x.shape[-1] // self.num_groups, tuple(range(1, x.ndim - 1))
        moments = jnp.stack([pixels.mean(spatial), jnp.square(pixels).mean(spatial)])  # of every channel
        moments = moments.reshape(2, x.shape[0], self.num_groups, repeats).mean(-1).repeat(repeats, -1)
        mean, square = jnp.expand_dims(moments, tuple(range(2, x.ndim)))
        scale = self.scale[...] * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon)
        return (x * scale + (self.bias[...] - mean * scale)).astype(x.dtype)


def adapter(in_width: int, out_width: int, *, dtype, rngs: nnx.Rngs) -> nnx.Linear | None:
    """A 1x1 convolution between widths; None, the identity, where they agree. Applied by `adapt`."""
    return nnx.Linear(in_width, out_width, dtype=dtype, rngs=rngs) if in_width != out_width else None


def adapt(
    convolution: nnx.Linear | None, x: Float[Array, "batch *spatial in_width"]
) -> Float[Array, "batch *spatial out_width"]:
    """[batch, *spatial, in_width] -> [batch, *spatial, out_width]."""
    return x if convolution is None else convolution(x)


def enlarge(x: Float[Array, "batch *spatial width"], shape: tuple[int, ...]) -> Float[Array, "batch *larger width"]:
    """x enlarged linearly along every axis, [batch, *spatial, width] -> [batch, *shape, width].

    As `jax.image.resize` does it, by one matrix per axis; but made on the host, as ONNX has no batches of any size for that
    function (`interop.onnx_stages`).
    """

    def matrix(n: int, larger: int) -> np.ndarray:
        position = ((np.arange(larger) + 0.5) * n / larger - 0.5).clip(0, n - 1)
        return (1 - np.abs(position[:, None] - np.arange(n))).clip(0)

    return along_axes(x, [matrix(n, larger) for n, larger in zip(x.shape[1:-1], shape, strict=True)])


def timestep_embedding(t: Num[Array, "batch"], width: int) -> Float[Array, "batch {width}"]:
    """Sinusoidal features of t, [batch] -> [batch, width]: cosines, then sines, of periods 2 pi .. 2 pi 10000."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.pad(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1), ((0, 0), (0, width % 2)))


def drop(x: Float[Array, "batch *shape"], rate: float, keys: Key[Array, "batch"] | None) -> Float[Array, "batch *shape"]:
    """Dropout (Srivastava et al. 2014) by a key per image, [batch, ...] -> the same shape; without keys x as it is.

    Every number is zero with probability `rate`, or else divided by 1 - rate.
    """
    if keys is None or not rate:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1 - rate), 0)


@dataclass(frozen=True)
class BlockSettings:
    """What all blocks of a network share.

    Attributes:
        axes: of its arrays.
        embedding: width of that of the timestep.
        dropout: 0 <= rate < 1.
        dtype: that it computes in.
    """

    axes: Axes
    embedding: int
    dropout: float
    dtype: Any


class ResBlock(nnx.Module):
    """GroupNorm, SiLU, conv twice, scaled and shifted by the embedding, around a skip connection.

    The second convolution is born zero, so that a new block is its skip connection whatever the network's depth.
    Given `resize`, both ways are resized by it, the one before its first convolution.
    """

    def __init__(self, in_width: int, out_width: int, settings: BlockSettings, rngs: nnx.Rngs):
        axes, kinds = settings.axes, {"dtype": settings.dtype, "rngs": rngs}
        self.norm1 = GroupNorm(in_width)
        self.conv1 = convolution(in_width, out_width, axes=axes, **kinds)
        self.scale_shift = nnx.Linear(settings.embedding, 2 * out_width, **kinds)
        self.norm2 = GroupNorm(out_width)
        self.dropout = settings.dropout
        self.conv2 = convolution(out_width, out_width, zero=True, axes=axes, **kinds)
        self.skip = adapter(in_width, out_width, **kinds)

    def __call__(
        self,
        x: Float[Array, "batch *spatial in_width"],
        embedding: Float[Array, "batch embedding"],
        *,
        dropout_keys: Key[Array, "batch"] | None,
        resize: Callable[[jax.Array], jax.Array] | None = None,
    ) -> Float[Array, "batch *resized out_width"]:
        """x: [batch, *spatial, in_width], embedding: [batch, embedding] -> [batch, *(spatial or resized), out_width]."""
        h = nnx.silu(self.norm1(x))
        if resize is not None:
            h, x = resize(h), resize(x)
        h = self.conv1(h)
        scale_shift = jnp.expand_dims(self.scale_shift(nnx.silu(embedding)), tuple(range(1, x.ndim - 1)))
        scale, shift = jnp.split(scale_shift, 2, axis=-1)
        h = nnx.silu(self.norm2(h) * (1 + scale) + shift)
        h = self.conv2(drop(h, self.dropout, dropout_keys))
        return h + adapt(self.skip, x)


def attend(
    query: Float[Array, "batch pixels heads width"],
    key: Float[Array, "batch pixels heads width"],
    value: Float[Array, "batch pixels heads width"],
) -> Float[Array, "batch pixels heads width"]:
    """softmax(Q K^T / sqrt(width)) V of every head, each [batch, pixels, heads, width], the softmax in float32.

    On NVIDIA GPUs that can, by cuDNN, which never holds the logits (Dao et al. 2022).
    """
    if not _cudnn_can(query):
        return _attend(query, key, value)
    return jax.lax.platform_dependent(query, key, value, cuda=_attend_by_cudnn, default=_attend)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """The same as `jax.nn.dot_product_attention` without cuDNN, but faster on CPUs."""
    query, key, value = (each.swapaxes(1, 2) for each in (query, key, value))
    logits = jnp.matmul(query, key.mT, preferred_element_type=jnp.float32) / math.sqrt(query.shape[-1])
    return (jax.nn.softmax(logits, axis=-1).astype(value.dtype) @ value).swapaxes(1, 2)


_attend_by_cudnn = partial(jax.nn.dot_product_attention, implementation="cudnn")


def _cudnn_can(query: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether cuDNN's attention takes such arrays, and what is here to compile for GPUs has it.

    JAX refuses to differentiate it over an odd number of pixels.
    """
    _, pixels, _, width = query.shape
    if query.dtype not in (jnp.bfloat16, jnp.float16) or pixels % 2 or width % 8 or width > 128:
        return False
    gpus = jax.devices() if jax.default_backend() == "gpu" else []
    if any(float(getattr(gpu, "compute_capability", 0)) < OLDEST_FUSED for gpu in gpus):
        return False
    return has_compiler("cuda")


class Attention(nnx.Module):
    """Multi-head self-attention after a norm of its width, born as the identity.

    Over all pixels, or with factorised axes `over` "space", all pixels of a frame, or "time", all frames of a pixel.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        over: str | None = None,
        *,
        norm: Callable[[int], GroupNorm] = GroupNorm,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.num_heads, self.over = num_heads, over
        self.norm = norm(width)
        self.query_key_value = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch *spatial width"]) -> Float[Array, "batch *spatial width"]:
        """[batch, *spatial, width] -> the same shape."""
        batch, frames, *_, channels = x.shape
        qkv = self.query_key_value(self.norm(x))
        qkv = qkv.reshape(batch, frames if self.over else 1, -1, 3 * channels)  # [batch, sequences, tokens, ..]
        qkv = qkv.swapaxes(1, 2) if self.over == "time" else qkv
        sequences, tokens = qkv.shape[1:3]
        qkv = qkv.reshape(batch * sequences, tokens, self.num_heads, 3, channels // self.num_heads)
        attended = attend(*jnp.moveaxis(qkv, 3, 0)).reshape(batch, sequences, tokens, channels)
        attended = attended.swapaxes(1, 2) if self.over == "time" else attended
        return x + self.out(attended.reshape(x.shape))


class AttentiveResBlock(nnx.Module):
    """A ResBlock, followed by attention where `num_heads` is not 0: with factorised axes over space, then over time."""

    def __init__(self, in_width: int, out_width: int, num_heads: int, settings: BlockSettings, rngs: nnx.Rngs):
        self.residual = ResBlock(in_width, out_width, settings, rngs)
        overs = ("space", "time") if settings.axes.factorised else (None,)
        attentions = [Attention(out_width, num_heads, over, dtype=settings.dtype, rngs=rngs) for over in overs if num_heads]
        self.attention, self.attention_over_time = (*attentions, None, None)[:2]

    def __call__(
        self,
        x: Float[Array, "batch *spatial in_width"],
        embedding: Float[Array, "batch embedding"],
        *,
        dropout_keys: Key[Array, "batch"] | None,
    ) -> Float[Array, "batch *spatial out_width"]:
        """As ResBlock."""
        x = self.residual(x, embedding, dropout_keys=dropout_keys)
        for attention in (self.attention, self.attention_over_time):
            x = x if attention is None else attention(x)
        return x
