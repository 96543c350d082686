"""The Flexi-UNet: one set of weights, entered and left at any level (Mukhopadhyay et al. 2026).

Level 0 is full resolution, level l has 2^-l of it; parameters belong to levels, never to pixel sizes. The path through the
network is chosen by two static ints, so that each is a compiled program of its own:

    stem -> adapter -> encoders in_level.. -> middle -> decoders ..in_level
         -> (ascend, decoder)* up to out_level, with zero skips -> adapter -> head

An up-step into level 0 resizes the state bilinearly and takes path (0, 0) instead, as the published model does.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from ssd_jax.config import ModelConfig
from ssd_jax.errors import InputError
from ssd_jax.network.blocks import AttentiveResBlock, GroupNorm, adapt, adapter, conv3x3, timestep_embedding

IMAGE_CHANNELS = 3


class FlexiUNet(nnx.Module):
    """Predicts the clean image at out_level from a noisy one at in_level.

    Args:
        config: widths, blocks, attention, classes, compute dtype.
        rngs: for initialisation.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        widths, num_levels = config.widths, len(config.widths)
        dtype = jnp.dtype(config.dtype)
        embedding = 4 * widths[0]
        below = (*widths[1:], widths[-1])  # width of what a decoder gets from the level below it, or from the middle
        entry = (widths[0], *widths[:-1])  # width of what an encoder gets from the level above it, or from the stem
        conv = partial(conv3x3, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        width_adapter = partial(adapter, dtype=dtype, rngs=rngs)

        def block(in_width: int, level: int, attend: bool | None = None) -> AttentiveResBlock:
            attend = level in config.attention_levels if attend is None else attend
            heads = config.num_heads if attend else 0
            return AttentiveResBlock(in_width, widths[level], embedding, config.dropout, heads, dtype=dtype, rngs=rngs)

        self.config = config
        self.embed_1, self.embed_2 = linear(widths[0], embedding), linear(embedding, embedding)
        classes = config.num_classes + (config.null_label is not None)
        self.embed_label = nnx.Embed(classes, embedding, dtype=dtype, rngs=rngs) if classes else None
        self.stem = conv(IMAGE_CHANNELS, widths[0])
        self.adapters_in = nnx.List([width_adapter(widths[0], width) for width in entry])
        self.encoders = nnx.List(
            [
                nnx.List([block(entry[level] if i == 0 else widths[level], level) for i in range(config.num_res_blocks)])
                for level in range(num_levels)
            ]
        )
        self.descends = nnx.List([conv(width, width, stride=2) for width in widths[:-1]])
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
        # Entry l - 1 leads from level l to level l - 1.
        self.ascend_blocks = nnx.List([block(widths[level] + widths[level - 1], level) for level in range(1, num_levels)])
        self.ascend_convs = nnx.List([conv(widths[level], widths[level]) for level in range(1, num_levels)])
        self.adapters_out = nnx.List([width_adapter(width, widths[0]) for width in widths])
        self.head_norm = GroupNorm(widths[0])
        self.head = conv(widths[0], IMAGE_CHANNELS, zero=True)

    def __call__(
        self,
        x: Float[Array, "..."],
        t: Num[Array, "batch"],
        label: Int[Array, "batch"] | None = None,
        *,
        in_level: int,
        out_level: int,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """One path through the network.

        Args:
            x: noisy images at in_level, [batch, h, w, 3]; h and w divisible by 2^(levels below in_level).
            t: timesteps, [batch].
            label: classes, int [batch], exactly if the network has classes; with label dropout also `config.null_label`.
            in_level, out_level: static ints, 0 <= out_level <= in_level < number of levels.
            train: whether dropout is on.
            rngs: a source of dropout keys, needed when `train` and dropout > 0.

        Returns:
            z-hat, float32 [batch, h', w', 3] with h' = h 2^(in_level - out_level).

        Raises:
            InputError: for a path, shape or label that the network cannot take.
        """
        self._check(x, label, in_level, out_level)
        widths = self.config.widths
        if in_level > out_level == 0:
            height, width = (side << in_level for side in x.shape[1:3])
            x = jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")
            in_level = 0
        embedding = self.embed_2(nnx.silu(self.embed_1(timestep_embedding(t, widths[0]))))
        if self.embed_label is not None and label is not None:
            embedding += self.embed_label(label)

        def run(block: AttentiveResBlock, h: jax.Array, *skip: jax.Array) -> jax.Array:
            return block(jnp.concatenate([h, *skip], axis=-1), embedding, train=train, rngs=rngs)

        def decode(h: jax.Array, level: int, skips: list[jax.Array]) -> jax.Array:
            for block in self.decoders[level]:
                h = run(block, h, skips.pop())
            return h

        def ascend(h: jax.Array, level: int, skip: jax.Array) -> jax.Array:
            h = run(self.ascend_blocks[level - 1], h, skip)
            return self.ascend_convs[level - 1](h.repeat(2, axis=1).repeat(2, axis=2))

        def zeros(h: jax.Array, level: int) -> jax.Array:
            return jnp.zeros((*h.shape[:-1], widths[level]), h.dtype)

        h = adapt(self.adapters_in[in_level], self.stem(x))
        skips = []
        for level in range(in_level, len(widths)):
            if level > in_level:
                h = self.descends[level - 1](h)
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
        h = adapt(self.adapters_out[out_level], h)
        return self.head(nnx.silu(self.head_norm(h))).astype(jnp.float32)

    def _check(self, x: jax.Array, label: jax.Array | None, in_level: int, out_level: int) -> None:
        num_levels = len(self.config.widths)
        if not 0 <= out_level <= in_level < num_levels:
            raise InputError(
                f"path ({in_level}, {out_level}) does not exist; a network of {num_levels} levels takes "
                f"{num_levels - 1} >= in_level >= out_level >= 0"
            )
        factor = 2 ** (num_levels - 1 - in_level)
        if x.ndim != 4 or x.shape[-1] != IMAGE_CHANNELS or x.shape[1] % factor or x.shape[2] % factor:
            raise InputError(
                f"x has shape {x.shape}, but at level {in_level} it must be [batch, h, w, {IMAGE_CHANNELS}] with h and w "
                f"divisible by {factor}"
            )
        if (label is None) != (self.embed_label is None):
            raise InputError(
                f"label is {'missing' if label is None else 'given'}, but the network has {self.config.num_classes} classes"
            )
