"""Which operator suits latents: what it makes of those of a picture need not be the latents of a smaller picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ssd_jax.data.encoding import LatentEncoding
from ssd_jax.process.process import LinearOperator


@dataclass(frozen=True)
class ShrunkLatents:
    """How near latents shrunk by an operator are to those of a picture of that size.

    Attributes:
        operator: its name; None for the latents of the small pictures themselves, which no operator can better.
        shape: (h, w) that latents are shrunk to.
        of_latents: relative distance between them and the latents of the small pictures.
        of_pictures: relative distance between what they are decoded to and the small pictures.
    """

    operator: str | None
    shape: tuple[int, ...]
    of_latents: float
    of_pictures: float


def shrunk_latents(
    encoding: LatentEncoding,
    operators: Mapping[str, Sequence[LinearOperator]],
    x0: Float[Array | np.ndarray, "n h w channels"],
) -> list[ShrunkLatents]:
    """Compares A z, A from level 0 to each other level, with the latents of pictures averaged over as many pixels.

    The pictures are those that z decode to at full size. A is scaled to keep means, as its level's signal is a matter of
    the noise schedule. Distances are root mean squares over the standard deviation of what is compared with: 0 is the
    same, 1 no nearer than the mean.

    Args:
        encoding: whose latents they are.
        operators: one or more, by name, from each level to the next; all of the same shapes.
        x0: normalised latents; some tens say enough.
    """
    pictures = encoding.decode(x0)
    shrunk = {name: list(_shrunk(jnp.asarray(x0), each)) for name, each in operators.items()}
    found = []
    shapes = [operator.out_shape for operator in next(iter(operators.values()))]
    for level, shape in enumerate(shapes):
        small = _averaged(pictures, tuple(side * encoding.autoencoder.config.factor for side in shape))
        own = np.asarray(encoding.encode(small))
        for name, z in ({None: own} | {name: each[level] for name, each in shrunk.items()}).items():
            distances = _distance(np.asarray(z), own), _distance(encoding.decode(z), small)
            found.append(ShrunkLatents(name, tuple(shape), *distances))
    return found


def _shrunk(z: Float[Array, "n h w channels"], operators: Sequence[LinearOperator]) -> Iterator[Float[Array, "n _ _ _"]]:
    """z at each level, its mean kept."""
    for operator in operators:
        gain = operator.apply(jnp.ones((*operator.in_shape, 1))).mean()
        z = operator.apply(z) / gain
        yield z


def _averaged(pictures: UInt8[np.ndarray, "n h w channels"], shape: tuple[int, ...]) -> UInt8[np.ndarray, "n _ _ channels"]:
    """Pictures whose pixels are means of blocks of pixels."""
    (height, width), (count, h, w, channels) = shape, pictures.shape
    blocks = pictures.reshape(count, height, h // height, width, w // width, channels)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def _distance(found: np.ndarray, target: np.ndarray) -> float:
    difference = found.astype(np.float64) - target
    return float(np.sqrt(np.square(difference).mean()) / target.std(dtype=np.float64))
