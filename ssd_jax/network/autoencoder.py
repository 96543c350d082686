"""A convolutional variational autoencoder: pictures <-> latents of a fraction of their size (Rombach et al. 2022).

The architecture is that of the Stable Diffusion family, so that published weights fit (`interop.diffusers_vae`):

    encode: stem -> (residual blocks -> half the size)* -> residual blocks -> middle -> norm, SiLU, head -> moments
    decode: stem -> middle -> (residual blocks -> twice the size)* -> residual blocks -> norm, SiLU, head

Level 0 has the size of the pictures, level l 2^-l of it; latents have that of the last one. Arrays are NHWC.
"""

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssd_jax.errors import InputError, brief, check_name, check_range, section
from ssd_jax.network.blocks import Attention, GroupNorm, adapt, adapter
from ssd_jax.network.convolution import Axes, convolution

EPSILON = 1e-6  # of the norms
PLANE = Axes()
LOWEST, HIGHEST = -30.0, 20.0  # log-variance: beyond these exp is of no use in float32
MAX_LEVELS, MAX_WIDTH, MAX_RES_BLOCKS, MAX_LATENT_CHANNELS = 8, 2**12, 16, 2**8


@section("model")
@dataclass(frozen=True)
class AutoencoderConfig:
    """The `model` section of an autoencoder.

    Attributes:
        widths: channels of level 0, 1, ...; latents have 2^-(levels - 1) of the pictures' sides.
        num_res_blocks: residual blocks per level of the encoder, >= 1; the decoder has one more.
        latent_channels: of the latents.
        num_groups: of all norms; divides every width.
        attention: whether the middle attends to all pixels of the latents' size.
        pointwise: whether a 1x1 convolution follows the encoder, and one precedes the decoder, as in Stable Diffusion 1
            and 2.
        dtype: compute dtype, "float32" or "bfloat16"; parameters and statistics are float32 always.
    """

    widths: tuple[int, ...] = (32, 64, 64)
    num_res_blocks: int = 1
    latent_channels: int = 4
    num_groups: int = 32
    attention: bool = True
    pointwise: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if not self.widths or len(self.widths) > MAX_LEVELS or not all(1 <= width <= MAX_WIDTH for width in self.widths):
            raise InputError(
                f"model.widths is {brief(self.widths)}, but must hold 1 to {MAX_LEVELS} widths from 1 to {MAX_WIDTH}"
            )
        check_range("model.num_res_blocks", self.num_res_blocks, low=1, high=MAX_RES_BLOCKS + 1)
        check_range("model.latent_channels", self.latent_channels, low=1, high=MAX_LATENT_CHANNELS + 1)
        check_range("model.num_groups", self.num_groups, low=1, high=MAX_WIDTH + 1)
        for width in self.widths:
            if width % self.num_groups:
                raise InputError(f"model.num_groups is {self.num_groups}, but must divide every width of {self.widths}")
        check_name("model.dtype", self.dtype, ("float32", "bfloat16"))

    @property
    def factor(self) -> int:
        """How many pixels lie along a side of a latent one."""
        return 2 ** (len(self.widths) - 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Of the Gaussian, independent in all its numbers, that an encoder makes of a picture: [batch, h, w, channels].

    Attributes:
        mean: of the latents, float32.
        log_variance: from -30 to 20, of the same shape.
    """

    mean: Any
    log_variance: Any

    def draw(self, noise: Float[Array, "batch h w channels"]) -> Float[Array, "batch h w channels"]:
        """Latents, given standard normal noise of their shape."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def divergence(self) -> Float[Array, "batch"]:
        """Kullback-Leibler divergence from N(0, I) of every picture's, in nats (Kingma & Welling 2014, appendix B)."""
        each = jnp.square(self.mean) + jnp.exp(self.log_variance) - 1 - self.log_variance
        return 0.5 * each.sum(axis=(1, 2, 3))


class PlainResBlock(nnx.Module):
    """GroupNorm, SiLU, conv twice, around a skip connection. A new block is its skip connection."""

    def __init__(self, in_width: int, out_width: int, num_groups: int, *, dtype, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(in_width, num_groups, EPSILON)
        self.conv1 = convolution(in_width, out_width, axes=PLANE, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(out_width, num_groups, EPSILON)
        self.conv2 = convolution(out_width, out_width, axes=PLANE, zero=True, dtype=dtype, rngs=rngs)
        self.skip = adapter(in_width, out_width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w in_width"]) -> Float[Array, "batch h w out_width"]:
        """[batch, h, w, in_width] -> [batch, h, w, out_width]."""
        h = self.conv1(nnx.silu(self.norm1(x)))
        return adapt(self.skip, x) + self.conv2(nnx.silu(self.norm2(h)))


class Middle(nnx.Module):
    """Two residual blocks at the latents' size, attention between them where the config has it."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        width, dtype = config.widths[-1], jnp.dtype(config.dtype)
        block = partial(PlainResBlock, width, width, config.num_groups, dtype=dtype, rngs=rngs)
        norm = partial(GroupNorm, num_groups=config.num_groups, epsilon=EPSILON)
        self.before = block()
        self.attention = Attention(width, 1, norm=norm, dtype=dtype, rngs=rngs) if config.attention else None
        self.after = block()

    def __call__(self, x: Float[Array, "batch h w width"]) -> Float[Array, "batch h w width"]:
        """[batch, h, w, width] -> the same shape."""
        x = self.before(x)
        return self.after(x if self.attention is None else self.attention(x))


class Encoder(nnx.Module):
    """Pictures -> numbers of `out_channels` at the latents' size."""

    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        widths, dtype = config.widths, jnp.dtype(config.dtype)
        entry = (widths[0], *widths[:-1])  # width of what a level gets
        block = partial(PlainResBlock, num_groups=config.num_groups, dtype=dtype, rngs=rngs)
        conv = partial(convolution, axes=PLANE, dtype=dtype, rngs=rngs)
        self.stem = conv(in_channels, widths[0])
        self.levels = nnx.List(
            [
                nnx.List([block(before if i == 0 else width, width) for i in range(config.num_res_blocks)])
                for before, width in zip(entry, widths, strict=True)
            ]
        )
        halve = partial(nnx.Conv, kernel_size=(3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs)
        self.descends = nnx.List([halve(width, width) for width in widths[:-1]])
        self.middle = Middle(config, rngs=rngs)
        self.head_norm = GroupNorm(widths[-1], config.num_groups, EPSILON)
        self.head = conv(widths[-1], out_channels)

    def __call__(self, x: Float[Array, "batch height width in_channels"]) -> Float[Array, "batch h w out_channels"]:
        """[batch, height, width, in_channels] -> [batch, h, w, out_channels]."""
        x = self.stem(x)
        for level, blocks in enumerate(self.levels):
            x = self.descends[level - 1](x) if level else x
            for block in blocks:
                x = block(x)
        return self.head(nnx.silu(self.head_norm(self.middle(x))))


class Decoder(nnx.Module):
    """Latents -> pictures of `out_channels`."""

    def __init__(self, config: AutoencoderConfig, out_channels: int, *, rngs: nnx.Rngs):
        widths, dtype = config.widths, jnp.dtype(config.dtype)
        below = (*widths[1:], widths[-1])  # width of what a level gets
        block = partial(PlainResBlock, num_groups=config.num_groups, dtype=dtype, rngs=rngs)
        conv = partial(convolution, axes=PLANE, dtype=dtype, rngs=rngs)
        self.stem = conv(config.latent_channels, widths[-1])
        self.middle = Middle(config, rngs=rngs)
        self.levels = nnx.List(
            [
                nnx.List([block(before if i == 0 else width, width) for i in range(config.num_res_blocks + 1)])
                for before, width in zip(below, widths, strict=True)
            ]
        )
        self.ascends = nnx.List([conv(width, width) for width in widths[1:]])  # entry l - 1 from level l to l - 1
        self.head_norm = GroupNorm(widths[0], config.num_groups, EPSILON)
        self.head = conv(widths[0], out_channels)

    def __call__(self, x: Float[Array, "batch h w latent_channels"]) -> Float[Array, "batch height width out_channels"]:
        """[batch, h, w, latent_channels] -> [batch, height, width, out_channels]."""
        x = self.middle(self.stem(x))
        for level in reversed(range(len(self.levels))):
            for block in self.levels[level]:
                x = block(x)
            x = self.ascends[level - 1](x.repeat(2, axis=1).repeat(2, axis=2)) if level else x
        return self.head(nnx.silu(self.head_norm(x)))


class AutoencoderNetwork(nnx.Module):
    """Encodes pictures as Gaussians of latents, and decodes latents. Float32 numbers are multiplied as such everywhere.

    Args:
        config: widths, blocks, latents, compute dtype.
        channels: of the pictures.
        rngs: for initialisation.
    """

    def __init__(self, config: AutoencoderConfig, *, channels: int, rngs: nnx.Rngs):
        self.config, self.channels, latent, dtype = config, channels, config.latent_channels, jnp.dtype(config.dtype)
        self.encoder = Encoder(config, channels, 2 * latent, rngs=rngs)
        self.to_moments = nnx.Linear(2 * latent, 2 * latent, dtype=dtype, rngs=rngs) if config.pointwise else None
        self.from_latents = nnx.Linear(latent, latent, dtype=dtype, rngs=rngs) if config.pointwise else None
        self.decoder = Decoder(config, channels, rngs=rngs)

    def encode(self, pictures: Float[Array, "batch height width channels"]) -> Moments:
        """The Gaussians of pictures.

        Args:
            pictures: [batch, height, width, channels] in [-1, 1], sides multiples of `config.factor`.

        Raises:
            InputError: for other shapes.
        """
        factor, (height, width, channels) = self.config.factor, pictures.shape[1:]
        if channels != self.channels or height % factor or width % factor:
            raise InputError(
                f"pictures are {height}x{width}x{channels}, but the autoencoder takes {self.channels} channels and sides "
                f"that are multiples of {factor}"
            )
        with jax.default_matmul_precision("highest"):
            moments = adapt(self.to_moments, self.encoder(pictures))
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return Moments(mean, log_variance.clip(LOWEST, HIGHEST))

    def decode(self, latents: Float[Array, "batch h w latent_channels"]) -> Float[Array, "batch height width channels"]:
        """Pictures of latents, float32 [batch, factor h, factor w, channels], about in [-1, 1].

        Raises:
            InputError: for another number of channels.
        """
        if latents.shape[-1] != self.config.latent_channels:
            raise InputError(
                f"latents have {latents.shape[-1]} channels, but the autoencoder's have {self.config.latent_channels}"
            )
        with jax.default_matmul_precision("highest"):
            return self.decoder(adapt(self.from_latents, latents)).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder with its parameters. A pytree: these are its leaves.

    Attributes:
        parameters: pure dict of float32 arrays.
        config: of the network.
        channels: of the pictures.
    """

    parameters: dict
    config: AutoencoderConfig = field(metadata={"static": True})
    channels: int = field(metadata={"static": True})

    def encode(self, pictures: Float[Array, "batch height width channels"]) -> Moments:
        """As `AutoencoderNetwork.encode`."""
        return self._network().encode(pictures)

    def decode(self, latents: Float[Array, "batch h w latent_channels"]) -> Float[Array, "batch height width channels"]:
        """As `AutoencoderNetwork.decode`."""
        return self._network().decode(latents)

    def _network(self) -> AutoencoderNetwork:
        return nnx.merge(_abstract(self.config, self.channels)[0], self.parameters)


def abstract_autoencoder(config: AutoencoderConfig, channels: int) -> Autoencoder:
    """An autoencoder of pictures of so many channels, with `jax.ShapeDtypeStruct`s for parameters; computes nothing."""
    return Autoencoder(_abstract(config, channels)[1], config, channels)


def init_autoencoder(config: AutoencoderConfig, channels: int, key: jax.Array) -> dict:
    """Fresh parameters, a pure dict of float32 arrays; traceable."""
    return nnx.to_pure_dict(nnx.state(AutoencoderNetwork(config, channels=channels, rngs=nnx.Rngs(key))))


@cache
def _abstract(config: AutoencoderConfig, channels: int) -> tuple[nnx.GraphDef[Any], dict]:
    """The static part of the network and the shapes of its parameters."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: AutoencoderNetwork(config, channels=channels, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)
