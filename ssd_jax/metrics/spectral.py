"""Which detail generated images lack, or which motion generated clips: their spectrum against that of real ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour, shown
from ssd_jax.process.spectrum import frequencies, measured_spectrum


@dataclass(frozen=True, eq=False)
class SpectralRatios:
    """Variance of generated images over variance of real ones, by spatial frequency, or by that in time.

    Attributes:
        bands: what each band holds, the lowest first: "mean colour", "1 cycle", "2 cycles", "3-4 cycles", "5-8 cycles", ..
            per shortest side, up to its highest frequency; in time "mean over time" and cycles per clip.
        ratios: float64 [bands]; 1 is perfect, below 1 the generated images have too little of it.
    """

    bands: tuple[str, ...]
    ratios: Float[np.ndarray, "bands"]

    @property
    def distance(self) -> float:
        """Root mean square over the bands of the ratios' natural logarithms: 0 is perfect, 0.1 is about 10 % off."""
        with np.errstate(divide="ignore"):  # infinite if the generated images lack a band altogether
            return float(np.sqrt(np.square(np.log(self.ratios)).mean()))


def spectral_ratios(
    generated: Iterable[UInt8[np.ndarray, "_ *frames h w _"]],
    real: Iterable[UInt8[np.ndarray, "_ *frames h w _"]],
    background: Colour = WHITE,
) -> SpectralRatios:
    """Compares the radially averaged power of two sets of images as they are `shown`, each less its mean image.

    Args:
        generated, real: batches of uint8 images, read once; of clips every frame is an image.
        background: seen through transparent images.

    Raises:
        InputError: if there are fewer than two images of either, their sizes differ, or the real ones are all alike.
    """
    sets = (generated, real)
    ours, theirs = (measured_spectrum(_frames(shown(batch, background)) for batch in batches) for batches in sets)
    if ours.shape != theirs.shape:
        raise InputError(f"generated images have {ours.shape} pixels and real ones {theirs.shape}; resize one of them")
    return _ratios(bands(theirs.shape)[0], ours, theirs)


def temporal_ratios(
    generated: Iterable[UInt8[np.ndarray, "_ *frames h w _"]],
    real: Iterable[UInt8[np.ndarray, "_ *frames h w _"]],
    background: Colour = WHITE,
) -> SpectralRatios:
    """Compares the power over time of two sets of clips as they are `shown`, each less its mean clip: that of every pixel's
    orthonormal DCT along the frames, averaged over pixels. What `spectral_ratios` does not see: the order of the frames.

    Args:
        generated, real: batches of uint8 clips, read once; of several axes before the height, the last is time.
        background: seen through transparent frames.

    Raises:
        InputError: if there are fewer than two clips of either, their lengths differ, or the real ones are all alike.
    """
    sets = (generated, real)
    ours, theirs = (measured_spectrum(_pixels(shown(batch, background)) for batch in batches) for batches in sets)
    if ours.shape != theirs.shape:
        raise InputError(f"generated clips have {ours.size} frames and real ones {theirs.size}; cut one of them")
    return _ratios(("mean over time", *bands(theirs.shape)[0][1:]), ours, theirs)


def _frames(clips: UInt8[np.ndarray, "n *frames h w c"]) -> UInt8[np.ndarray, "_ h w c"]:
    return clips.reshape(-1, *clips.shape[-3:])


def _pixels(clips: UInt8[np.ndarray, "n *frames h w c"]) -> UInt8[np.ndarray, "n frames _"]:
    """Every pixel as a channel of a signal in time, those of other axes too."""
    n, *_, frames, height, width, channels = clips.shape
    return np.moveaxis(clips.reshape(n, -1, frames, height * width * channels), 1, -1).reshape(n, frames, -1)


def _ratios(
    names: tuple[str, ...], ours: Float[np.ndarray, "*shape"], theirs: Float[np.ndarray, "*shape"]
) -> SpectralRatios:
    power, reference = band_means(ours), band_means(theirs)
    if not reference.all():
        raise InputError(f"the real images do not differ in {names[int(reference.argmin())]}; give more of them")
    return SpectralRatios(names, power / reference)


def bands(shape: tuple[int, ...]) -> tuple[tuple[str, ...], Int[np.ndarray, "..."]]:
    """The names of the bands of images of spatial `shape`, and which one each DCT coefficient is in: 0, 1, .., or -1."""
    highest = min(shape) // 2
    cycles = np.rint(frequencies(shape)).astype(int)
    band = np.where(cycles <= highest, np.ceil(np.log2(np.maximum(cycles, 0.5))).astype(int) + 1, -1)  # 0, 1, 2, 3-4, ..
    return _band_names(int(band.max()) + 1, highest), band


def band_means(spectrum: Float[np.ndarray, "..."]) -> Float[np.ndarray, "bands"]:
    """The mean of a spectrum, [*spatial], over the coefficients of each band."""
    _, band = bands(spectrum.shape)
    counted = band[band >= 0]
    return np.bincount(counted, spectrum[band >= 0]) / np.bincount(counted)


def _band_names(count: int, highest: int) -> tuple[str, ...]:
    ends = [(2**i // 2 + 1, min(2**i, highest)) for i in range(1, count - 1)]
    return ("mean colour", "1 cycle", *(f"{a}-{b} cycles" if a < b else f"{a} cycles" for a, b in ends))[:count]
