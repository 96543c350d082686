"""The Flexi-UNet: one set of weights, entered and left at any level (Mukhopadhyay et al. 2026).

Level 0 is full resolution, every further level has half the sides of the one before, or of some of them; parameters belong
to levels, never to pixel sizes. Arrays have one, two or three spatial axes: signals, images, clips and volumes. The path
through the network is chosen by two static ints, so that each is a compiled program of its own:

    stem -> adapter -> encoders in_level.. -> middle -> decoders ..in_level
         -> (ascend, decoder)* up to out_level, with zero skips -> (last, at level 0) -> adapter -> head

An up-step into level 0 resizes the state linearly and takes path (0, 0) instead, as the published model does.

With `stem_skip`, and `resampling="residual"` where it has that, path (0, 0) is the U-Net of ADM (Dhariwal & Nichol 2021).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise, starmap
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, Num

from ssd_jax.errors import InputError, brief, check_name, check_range, section
from ssd_jax.network.blocks import (
    PRECISIONS,
    REMATS,
    RESAMPLINGS,
    AttentiveResBlock,
    BlockSettings,
    GroupNorm,
    ResBlock,
    adapt,
    adapter,
    enlarge,
    timestep_embedding,
)
from ssd_jax.network.convolution import Axes, convolution
from ssd_jax.network.embed_label import label_embedding
from ssd_jax.network.protocol import Shapes, check_call, check_label_settings
from ssd_jax.process.factors import Factors, check_factors, divided_shapes, factors_between

MAX_LEVELS, MAX_WIDTH, MAX_RES_BLOCKS = 16, 2**14, 16


@section("model")
@dataclass(frozen=True)
class FlexiUNetConfig:
    """The `model` section of a Flexi-UNet.

    Attributes:
        widths: channels of level 0, 1, ...; as many entries as the network has levels.
        num_res_blocks: ResBlocks per level, >= 1.
        attention_levels: levels with self-attention (the middle always has it).
        num_heads: attention heads; divides the width of every level with attention, unless head_width does.
        head_width: channels of every head, of which wide levels then have more; 0 for num_heads of them.
        resampling: between levels: "convolution", with strides on the way down and after repeating pixels on the way up, or
            "residual", ResBlocks that average and repeat within (Dhariwal & Nichol 2021).
        stem_skip: level 0 ends in one more block, which sees what the stem made, as the U-Net of ADM does.
        dropout: 0 <= rate < 1.
        num_classes: 0 for a network whose labels are no classes.
        label_size: numbers of a label that is a vector, such as an embedding of text or of an image; 0 if it is none.
        label_dropout: 0 <= share < 1 of the labels that training replaces by the null label, which guidance needs.
        dtype: compute dtype, "float32" or "bfloat16"; parameters, statistics and softmax are float32 always.
        precision: of products of float32 numbers: "default", the fastest that the hardware has (TF32 on GPUs, bfloat16 on
            TPUs), "high" (three of these) or "highest" (float32 throughout). CPUs compute in float32 always.
        remat: which blocks training computes again for the gradient instead of keeping what they made: "none",
            "full_resolution" (those at level 0, which make the most) or "all".
        factorised: of clips, (frames, h, w): convolutions and attention act on space, and then on time.
        factors: as `process.factors`, for a network with more levels than the process; () goes on as the process does.
    """

    widths: tuple[int, ...] = (32, 64, 64, 64)
    num_res_blocks: int = 1
    attention_levels: tuple[int, ...] = (2, 3)
    num_heads: int = 4
    head_width: int = 0
    resampling: str = "convolution"
    stem_skip: bool = False
    dropout: float = 0.0
    num_classes: int = 0
    label_size: int = 0
    label_dropout: float = 0.0
    dtype: str = "float32"
    precision: str = "default"
    remat: str = "none"
    factorised: bool = False
    factors: Factors = ()

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"model.widths is {self.widths}, but must hold one positive width per level")
        if len(self.widths) > MAX_LEVELS or max(self.widths) > MAX_WIDTH:
            raise InputError(
                f"model.widths is {brief(self.widths)}, but must hold at most {MAX_LEVELS} widths of at most {MAX_WIDTH}"
            )
        check_range("model.num_res_blocks", self.num_res_blocks, low=1, high=MAX_RES_BLOCKS + 1)
        check_range("model.dropout", self.dropout, low=0, high=1)
        check_label_settings(self)
        check_name("model.dtype", self.dtype, ("float32", "bfloat16"))
        check_name("model.precision", self.precision, PRECISIONS)
        check_name("model.remat", self.remat, REMATS)
        check_name("model.resampling", self.resampling, RESAMPLINGS)
        check_factors("model.factors", self.factors)
        check_range("model.num_heads", self.num_heads, low=1, high=MAX_WIDTH + 1)
        check_range("model.head_width", self.head_width, low=0, high=MAX_WIDTH + 1)
        for level in self.attention_levels:
            if level not in range(len(self.widths)):
                raise InputError(f"model.attention_levels names level {level}, but levels are 0..{len(self.widths) - 1}")
        name, divisor = ("head_width", self.head_width) if self.head_width else ("num_heads", self.num_heads)
        for level in {*self.attention_levels, len(self.widths) - 1}:
            if self.widths[level] % divisor:
                raise InputError(
                    f"model.{name} is {divisor}, but must divide the width {self.widths[level]} of level {level}"
                )

    def heads(self, level: int) -> int:
        """Heads of the attention of a level, 0 .. number of levels - 1, or -1 for the last."""
        return self.widths[level] // self.head_width if self.head_width else self.num_heads


class FlexiUNet(nnx.Module):
    """Predicts the clean image at out_level from a noisy one at in_level (a `protocol.Network`).

    Args:
        config: widths, blocks, attention, classes, compute dtype.
        shapes: of the levels of the process; the network may have more levels below.
        in_channels, out_channels: of states and predictions.
        rngs: for initialisation.

    Raises:
        InputError: if the network has too few levels, or cannot go from the shape of one level to the next.
    """

    def __init__(self, config: FlexiUNetConfig, *, shapes: Shapes, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.shapes = _all_shapes(config, shapes)
        widths, num_levels = config.widths, len(config.widths)
        dtype = jnp.dtype(config.dtype)
        axes, embedding = Axes(len(shapes[0]), config.factorised), 4 * widths[0]
        settings = BlockSettings(axes, embedding, config.dropout, dtype)
        below = (*widths[1:], widths[-1])  # width of what a decoder gets from the level below it, or from the middle
        entry = (widths[0], *widths[:-1])  # width of what an encoder gets from the level above it, or from the stem
        conv = partial(convolution, axes=axes, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        width_adapter = partial(adapter, dtype=dtype, rngs=rngs)

        def block(in_width: int, level: int, attend: bool | None = None) -> AttentiveResBlock:
            attend = level in config.attention_levels if attend is None else attend
            return AttentiveResBlock(in_width, widths[level], config.heads(level) if attend else 0, settings, rngs)

        def between(width: int, strides: tuple[int, ...] | None = None) -> Any:
            if config.resampling == "residual":
                return ResBlock(width, width, settings, rngs)
            return conv(width, width, strides=strides)

        self.config, self.in_channels = config, in_channels
        self.embed_1, self.embed_2 = linear(widths[0], embedding), linear(embedding, embedding)
        self.embed_label: Any = label_embedding(config, embedding, dtype=dtype, rngs=rngs)
        self.stem = conv(in_channels, widths[0])
        self.adapters_in = nnx.List([width_adapter(widths[0], width) for width in entry])
        self.encoders = nnx.List(
            [
                nnx.List([block(entry[level] if i == 0 else widths[level], level) for i in range(config.num_res_blocks)])
                for level in range(num_levels)
            ]
        )
        factors = list(starmap(factors_between, pairwise(self.shapes)))
        self.descends = nnx.List([between(width, each) for width, each in zip(widths[:-1], factors, strict=True)])
        self.middle = nnx.List([block(widths[-1], -1, attend=True), block(widths[-1], -1, attend=False)])
        self.decoders = nnx.List(
            [
                nnx.List(
                    [
                        block((below[level] if i == 0 else widths[level]) + widths[level], level)
                        for i in range(config.num_res_blocks)
                    ]
                )
                for level in range(num_levels)
            ]
        )
        # Entry l - 1 leads from level l to level l - 1. Under "residual" these are ResBlocks, as are `descends`.
        self.ascend_blocks = nnx.List([block(widths[level] + widths[level - 1], level) for level in range(1, num_levels)])
        self.ascend_convs = nnx.List([between(widths[level]) for level in range(1, num_levels)])
        self.last = block(2 * widths[0], 0) if config.stem_skip else None
        self.adapters_out = nnx.List([width_adapter(width, widths[0]) for width in widths])
        self.head_norm = GroupNorm(widths[0])
        self.head = conv(widths[0], out_channels, zero=True)

    @property
    def num_levels(self) -> int:
        """One for each width."""
        return len(self.config.widths)

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
        """One path through the network.

        Args:
            x: noisy images, [batch, *shapes[in_level], in_channels].
            t: timesteps, [batch].
            label: int [batch] or float [batch, label_size], exactly if the network has labels; with label dropout the null
                label, too.
            in_level, out_level: static ints, 0 <= out_level <= in_level < number of levels.
            dropout_keys: one per image, in training; None for no dropout.

        Returns:
            float32 [batch, *shapes[out_level], out_channels].

        Raises:
            InputError: for a path, shape or label that the network cannot take.
        """
        check_call(self, x, label, in_level, out_level)
        with jax.default_matmul_precision(self.config.precision):
            return self._path(x, t, label, in_level, out_level, dropout_keys)

    def _path(
        self,
        x: jax.Array,
        t: jax.Array,
        label: jax.Array | None,
        in_level: int,
        out_level: int,
        dropout_keys: jax.Array | None,
    ) -> jax.Array:
        widths, remat = self.config.widths, self.config.remat
        if in_level > out_level == 0:
            x = enlarge(x, self.shapes[0])
            in_level = 0
        embedding = self.embed_2(nnx.silu(self.embed_1(timestep_embedding(t, widths[0]))))
        if self.embed_label is not None and label is not None:
            embedding += self.embed_label(label)

        number = count()  # of a block on this path

        def run(block: Any, h: jax.Array, *skip: jax.Array, resize: Callable | None = None) -> jax.Array:
            keys = None if dropout_keys is None else jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, next(number))

            def apply(h: jax.Array, *skip: jax.Array) -> jax.Array:
                resized = {} if resize is None else {"resize": resize}
                return block(jnp.concatenate([h, *skip], axis=-1), embedding, dropout_keys=keys, **resized)

            made = h if resize is None else jax.eval_shape(resize, h)
            again = remat == "all" or (remat == "full_resolution" and self.shapes[0] in (h.shape[1:-1], made.shape[1:-1]))
            return (jax.checkpoint(apply) if again else apply)(h, *skip)

        def decode(h: jax.Array, level: int, skips: list[jax.Array]) -> jax.Array:
            for block in self.decoders[level]:
                h = run(block, h, skips.pop())
            return h

        residual = self.config.resampling == "residual"

        def descend(h: jax.Array, level: int) -> jax.Array:
            down = self.descends[level - 1]
            return run(down, h, resize=partial(self._averaged, level=level)) if residual else down(h)

        def ascend(h: jax.Array, level: int, skip: jax.Array) -> jax.Array:
            h, up = run(self.ascend_blocks[level - 1], h, skip), self.ascend_convs[level - 1]
            repeat = partial(self._repeated, level=level)
            return run(up, h, resize=repeat) if residual else up(repeat(h))

        def zeros(h: jax.Array, level: int) -> jax.Array:
            return jnp.zeros((*h.shape[:-1], widths[level]), h.dtype)

        h = stem = adapt(self.adapters_in[in_level], self.stem(x))
        skips = []
        for level in range(in_level, len(widths)):
            if level > in_level:
                h = descend(h, level)
                skips.append(h)
            for block in self.encoders[level]:
                h = run(block, h)
                skips.append(h)
        for block in self.middle:
            h = run(block, h)
        for level in reversed(range(in_level, len(widths))):
            h = decode(h, level, skips)
            if level > in_level:
                h = ascend(h, level, skips.pop())
        for level in reversed(range(out_level, in_level)):
            h = ascend(h, level + 1, zeros(h, level))
            h = decode(h, level, [zeros(h, level)] * self.config.num_res_blocks)
        if self.last is not None and out_level == 0:  # and so in_level, too
            h = run(self.last, h, stem)
        h = adapt(self.adapters_out[out_level], h)
        return self.head(nnx.silu(self.head_norm(h))).astype(jnp.float32)

    def _averaged(self, h: jax.Array, *, level: int) -> jax.Array:
        """[batch, *shapes[level - 1], width] -> [batch, *shapes[level], width]."""
        factors = factors_between(*self.shapes[level - 1 : level + 1])
        return nnx.avg_pool(h, factors, strides=factors)

    def _repeated(self, h: jax.Array, *, level: int) -> jax.Array:
        """[batch, *shapes[level], width] -> [batch, *shapes[level - 1], width]."""
        for axis, factor in enumerate(factors_between(*self.shapes[level - 1 : level + 1]), 1):
            h = h.repeat(factor, axis=axis) if factor > 1 else h
        return h


def _all_shapes(config: FlexiUNetConfig, shapes: Shapes) -> Shapes:
    """Of all levels of the network: those of the process, and on. Raises InputError if they cannot be so."""
    num_levels, axes = len(config.widths), len(shapes[0])
    if len(shapes) > num_levels:
        raise InputError(
            f"process.num_levels is {len(shapes)}, but the network has {num_levels} levels (entries of model.widths); "
            "lower the one or lengthen the other"
        )
    if axes > 3 or (config.factorised and axes != 3):
        allowed = "three axes, (frames, h, w)" if config.factorised else "one, two or three axes"
        factorised = " with model.factorised" if config.factorised else ""
        raise InputError(f"process.shape is {shapes[0]}, but the network flexi_unet{factorised} takes {allowed}")
    between = tuple(map(factors_between, shapes, shapes[1:]))
    factors = config.factors or tuple(each for each in between if set(each) <= {1, 2})
    divided = divided_shapes("model.factors", shapes[0], factors, num_levels, "entries of model.widths")
    if divided[: len(shapes)] != shapes:
        raise InputError(f"the levels of the process have shapes {shapes}, but the network flexi_unet takes {divided}")
    return divided
