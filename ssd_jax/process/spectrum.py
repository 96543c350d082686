"""Spectra of images, and how much a noisy image tells of its coarse and of its fine detail.

Host functions in float64. A spectrum S_k is the variance of each orthonormal DCT-II coefficient, an array of the images'
spatial shape. Information is counted for Gaussian data of that spectrum (for others it is an upper bound), in nats per
pixel of the full resolution.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy.fft import dctn

from ssd_jax.errors import InputError, check_range
from ssd_jax.process.dct import heat_rate_grid


def frequencies(shape: Sequence[int]) -> Float[np.ndarray, "..."]:
    """|k| of every DCT coefficient of spatial `shape`, in cycles per shortest side.

    Along an axis index j counts as ceil(j / 2) whole cycles, as the j-th frequency of a periodic image, so that powers of
    k are the same model in both bases. (The cosine itself makes j / 2 cycles.)
    """
    axes = np.meshgrid(*[(np.arange(n) + 1) // 2 / n for n in shape], indexing="ij")
    return min(shape) * np.sqrt(np.square(axes).sum(axis=0))


def ring_means(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "rings"]:
    """Means over the coefficients of 0, 1, 2, .. cycles (rounded), to the shortest side's highest: [*shape] -> [rings]."""
    ring = np.rint(frequencies(values.shape)).astype(int).ravel()
    return (np.bincount(ring, values.ravel()) / np.bincount(ring))[: min(values.shape) // 2 + 1]


def fitted_slope(spectrum: Float[np.ndarray, "..."]) -> float:
    """The slope of the power law nearest to a spectrum: least squares in log power over log k, one point per ring."""
    power = ring_means(spectrum)[1:]
    return -float(np.polyfit(np.log(np.arange(len(power)) + 1), np.log(power), 1)[0])


def natural_spectrum(shape: Sequence[int], *, slope: float = 2.0, std: float = 0.5) -> Float[np.ndarray, "..."]:
    """The spectrum of natural images: power ~ k^-slope, k in cycles per shortest side and at least 1.

    Args:
        shape: spatial shape.
        slope: natural images have about 2 (Field 1987).
        std: standard deviation of a pixel.

    Returns:
        float64 [*shape], of mean std^2.

    Raises:
        InputError: for a slope that is not between -10 and 10.
    """
    check_range("slope of the spectrum", slope, low=-10, high=10)
    power = np.maximum(frequencies(shape), 1.0) ** -slope
    return std**2 * power / power.mean()


def spatiotemporal_spectrum(
    shape: Sequence[int], *, time_weight: float = 1.0, std: float = 0.5
) -> Float[np.ndarray, "..."]:
    """The spectrum of natural video: power ~ 1 / (k^2 + c w^2), and at most 1 (after Dong & Atick 1995).

    What moves v of a frame's sides in a clip has k cycles over space and v k over time: c = 1 / v^2.

    Args:
        shape: (frames, *spatial).
        time_weight: c; k in cycles per shortest side of a frame, w in cycles per clip.
        std: standard deviation of a pixel.

    Returns:
        float64 [*shape], of mean std^2.

    Raises:
        InputError: for a weight that is not positive, or fewer than two axes.
    """
    check_range("time_weight of the spectrum", time_weight, low=0, open_low=True)
    if len(shape) < 2:
        raise InputError(f"shape is {tuple(shape)}, but video has frames and at least one spatial axis")
    over_space, over_time = frequencies(shape[1:]), frequencies(shape[:1])
    squares = over_space**2 + time_weight * over_time.reshape(-1, *[1] * over_space.ndim) ** 2
    power = 1 / np.maximum(squares, 1.0)
    return std**2 * power / power.mean()


def measured_spectrum(images: np.ndarray | Iterable[np.ndarray]) -> Float[np.ndarray, "..."]:
    """The spectrum of a data set: mean square of the DCT of images less their mean, over images and channels.

    Args:
        images: [n, *spatial, channels], uint8, or float in [-1, 1]; or an iterable of such batches, read once.

    Returns:
        float64 [*spatial].

    Raises:
        InputError: if there are fewer than two images.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for batch in [images] if isinstance(images, np.ndarray) else images:
        pixels = batch / 127.5 - 1 if batch.dtype == np.uint8 else np.asarray(batch, np.float64)
        coefficients = np.asarray(dctn(pixels, axes=range(1, batch.ndim - 1), norm="ortho"))
        count += len(batch)
        total, squares = total + coefficients.sum(axis=0), squares + (coefficients**2).sum(axis=0)
    if count < 2:
        raise InputError(f"a spectrum cannot be measured on {count} image(s); give two or more")
    return np.maximum(squares / count - (total / count) ** 2, 0).mean(axis=-1)


def information(
    log_snr: Num[np.ndarray, "*t"] | float,
    spectrum: Float[np.ndarray, "..."],
    blur_time: Num[np.ndarray, "*t"] | float = 0.0,
) -> Float[np.ndarray, "*t"]:
    """What a blurred image with noise tells of the image without either, 1/2 mean_k log(1 + e^l e^(-2 tau r_k) S_k).

    Args:
        log_snr: l, any shape.
        spectrum: S.
        blur_time: tau, for how long the heat equation has blurred it, in pixels^2; r are its rates (`dct.heat_rate_grid`).

    Returns:
        Nats per pixel, float64, the shape of log_snr.
    """
    return _mean_information(log_snr, spectrum, blur_time, np.ones(spectrum.shape, bool))


def lost_information(
    log_snr: Num[np.ndarray, "*t"] | float,
    spectrum: Float[np.ndarray, "..."],
    smaller: Sequence[int],
    blur_time: Num[np.ndarray, "*t"] | float = 0.0,
) -> Float[np.ndarray, "*t"]:
    """The part of `information` that an ideal low-pass to a `smaller` shape loses: at DCT indices beyond it on any axis.

    Returns:
        Nats per pixel of the full resolution, float64, the shape of log_snr; 0 for the whole shape.
    """
    return _mean_information(log_snr, spectrum, blur_time, ~kept(spectrum.shape, smaller))


def kept(shape: Sequence[int], smaller: Sequence[int]) -> Bool[np.ndarray, "..."]:
    """bool [*shape]: the DCT coefficients that an ideal low-pass to a `smaller` shape keeps."""
    axes = np.meshgrid(*[np.arange(n) < m for n, m in zip(shape, smaller, strict=True)], indexing="ij")
    return np.logical_and.reduce(axes)


def _mean_information(log_snr, spectrum: np.ndarray, blur_time, chosen: Bool[np.ndarray, "..."]) -> np.ndarray:
    l, time = np.broadcast_arrays(np.asarray(log_snr, np.float64), np.asarray(blur_time, np.float64))
    values, rates = spectrum[chosen], heat_rate_grid(spectrum.shape, spectrum.shape)[chosen]
    pairs = zip(l.ravel(), time.ravel(), strict=True)
    nats = [0.5 * np.log1p(np.exp(each - 2 * tau * rates) * values).sum() / spectrum.size for each, tau in pairs]
    return np.array(nats).reshape(l.shape)
