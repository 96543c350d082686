"""What distances of features do not tell: which detail generated images lack, and whether they are copies."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from ssd_jax.errors import InputError
from ssd_jax.metrics.distances import nearest
from ssd_jax.process.spectrum import frequencies, measured_spectrum

NEAR = 0.05  # quantile of the reference distances below which a generated image is suspiciously near


@dataclass(frozen=True, eq=False)
class SpectralRatios:
    """Variance of generated images over variance of real ones, by spatial frequency.

    Attributes:
        bands: what each band holds, the lowest first: "mean colour", "1 cycle", "2 cycles", "3-4 cycles", "5-8 cycles", ..
            per shortest side, up to its highest frequency.
        ratios: float64 [bands]; 1 is perfect, below 1 the generated images have too little of it.
    """

    bands: tuple[str, ...]
    ratios: Float[np.ndarray, "bands"]

    @property
    def distance(self) -> float:
        """Root mean square over the bands of the ratios' natural logarithms: 0 is perfect, 0.1 is about 10 % off."""
        return float(np.sqrt(np.square(np.log(self.ratios)).mean()))


def spectral_ratios(
    generated: Iterable[UInt8[np.ndarray, "_ h w 3"]], real: Iterable[UInt8[np.ndarray, "_ h w 3"]]
) -> SpectralRatios:
    """Compares the radially averaged power of two sets of images, each less its mean image.

    Args:
        generated, real: batches of uint8 images, read once.

    Raises:
        InputError: if there are fewer than two images of either, their sizes differ, or the real ones are all alike.
    """
    ours, theirs = measured_spectrum(generated), measured_spectrum(real)
    if ours.shape != theirs.shape:
        raise InputError(f"generated images have {ours.shape} pixels and real ones {theirs.shape}; resize one of them")
    cycles = np.rint(frequencies(theirs.shape)).astype(int)
    shown = cycles <= min(theirs.shape) // 2
    band = np.ceil(np.log2(np.maximum(cycles, 0.5))).astype(int)[shown] + 1  # 0, 1, 2, 3-4, 5-8, ..
    power, reference = (np.bincount(band, spectrum[shown]) / np.bincount(band) for spectrum in (ours, theirs))
    names = _band_names(len(reference), min(theirs.shape) // 2)
    if not reference.all():
        raise InputError(f"the real images do not differ in {names[int(reference.argmin())]}; give more of them")
    return SpectralRatios(names, power / reference)


def _band_names(count: int, highest: int) -> tuple[str, ...]:
    ends = [(2**i // 2 + 1, min(2**i, highest)) for i in range(1, count - 1)]
    return ("mean colour", "1 cycle", *(f"{a}-{b} cycles" if a < b else f"{a} cycles" for a, b in ends))[:count]


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How near generated images are to their nearest training images, against images that are no copies.

    Attributes:
        distances: of each generated image to its nearest training image, float64 [n].
        nearest: which training image that is, int [n].
        median: of `distances`.
        reference_median: of the same distance of images that are no copies.
        near_share: of generated images nearer than 95 % of those; 0.05 if the generator draws new images of the same kind.
        nearer_probability: that a generated image is nearer to the training images than one that is no copy is, ties half
            counted (Meehan, Chaudhuri & Dasgupta 2020): 0.5 for new images, 1 for copies, 0 for images of another kind.
    """

    distances: Float[np.ndarray, "n"]
    nearest: Int[np.ndarray, "n"]
    median: float
    reference_median: float
    near_share: float
    nearer_probability: float


def memorisation(
    generated: Float[np.ndarray, "n d"],
    training: Float[np.ndarray, "m _"],
    held_out: Float[np.ndarray, "k _"] | None = None,
) -> Memorisation:
    """Compares distances to the nearest training image, in a feature space.

    Args:
        generated, training: features. Give all training images: of those left out copies are not found.
        held_out: features of images of the same kind that were not trained on: the images that are no copies. Without
            them, each training image and its nearest other one stand in; duplicates among them then hide copies.

    Raises:
        InputError: if the features are not of one length, or there are fewer than two training images.
    """
    if len(training) < 2:
        raise InputError(f"{len(training)} training image(s) have no neighbours; give two or more")
    distances, indices = nearest(generated, training)
    if held_out is None:
        reference, _ = nearest(training, training, skip_self=True)
    else:
        reference, _ = nearest(held_out, training)
    ordered = np.sort(reference)
    farther = len(ordered) - np.searchsorted(ordered, distances, side="right")
    equal = len(ordered) - np.searchsorted(ordered, distances, side="left") - farther
    return Memorisation(
        distances=distances,
        nearest=indices,
        median=float(np.median(distances)),
        reference_median=float(np.median(reference)),
        near_share=float((distances < np.quantile(reference, NEAR)).mean()),
        nearer_probability=float((farther + equal / 2).mean() / len(ordered)),
    )
