import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.spectrum import (
    frequencies,
    information,
    kept,
    lost_information,
    measured_spectrum,
    natural_spectrum,
    spatiotemporal_spectrum,
)


def test_the_natural_spectrum_is_that_of_periodic_images():
    """Its sorted values are those of the DFT, power ~ k^-2, whatever the axes' parity."""
    size = 8
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2))
    power = np.maximum(k, 1.0) ** -2.0
    spectrum = natural_spectrum((size, size))
    np.testing.assert_allclose(np.sort(spectrum, axis=None), np.sort(0.25 * power / power.mean(), axis=None))
    np.testing.assert_allclose(natural_spectrum((6, 10), slope=3.0, std=0.2).mean(), 0.04)
    assert frequencies((16, 32))[3, 0] == frequencies((16, 32))[0, 7] == 2  # cycles per shortest side


def test_video_is_as_a_frame_over_space_and_falls_over_time_the_sooner_the_slower_it_moves():
    size, frames = 8, 6
    spectrum = spatiotemporal_spectrum((frames, size, size), time_weight=4.0, std=0.2)
    np.testing.assert_allclose(spectrum.mean(), 0.04)
    frame = natural_spectrum((size, size))
    np.testing.assert_allclose(spectrum[0] / spectrum[0, 0, 0], frame / frame[0, 0])
    for w in (1, 2):  # what moves half a side a clip makes one cycle over time for two over space
        np.testing.assert_allclose(spectrum[2 * w - 1, 0, 0], spectrum[0, 2 * (2 * w) - 1, 0])
    np.testing.assert_allclose(1 / spectrum[3, 5, 0], 1 / spectrum[3, 0, 0] + 1 / spectrum[0, 5, 0])
    for shape, weight, message in (((4, 8, 8), 0.0, "time_weight"), ((8,), 1.0, "has frames")):
        with pytest.raises(InputError, match=message):
            spatiotemporal_spectrum(shape, time_weight=weight)


@pytest.mark.parametrize("kind", ["float", "batches", "uint8"])
def test_a_spectrum_is_recovered_from_samples(kind):
    rng = np.random.default_rng(0)
    truth = natural_spectrum((8, 6), std=0.2)
    coefficients = np.sqrt(truth)[..., None] * rng.standard_normal((4000, 8, 6, 3))
    mean = rng.uniform(-0.3, 0.3, (8, 6, 3))  # does not count
    images = mean + np.einsum("ki,nklc,lj->nijc", dct_basis(8), coefficients, dct_basis(6))
    if kind == "uint8":
        images = np.rint(127.5 * (np.clip(images, -1, 1) + 1)).astype(np.uint8)
    measured = measured_spectrum(iter(np.array_split(images, 7)) if kind == "batches" else images)
    np.testing.assert_allclose(measured, truth, rtol=0.08)


def test_a_spectrum_needs_images():
    with pytest.raises(InputError, match=r"on 1 image.*two or more"):
        measured_spectrum(np.zeros((1, 4, 4, 3)))
    with pytest.raises(InputError, match=r"on 0 image"):
        measured_spectrum([])


def test_information_has_the_right_limits():
    spectrum = natural_spectrum((16, 8))
    l = np.array([[-40.0], [-8.0], [0.0], [8.0], [40.0]])
    nats = information(l, spectrum)
    assert nats.shape == (5, 1) and (np.diff(nats[:, 0]) > 0).all()
    np.testing.assert_allclose(nats[0], np.exp(-40) * spectrum.mean() / 2, rtol=1e-6)  # weak signal: SNR / 2
    np.testing.assert_allclose(nats[-1], 20 + np.log(spectrum).mean() / 2, rtol=1e-9)  # strong: half a nat per nat
    assert information(0.0, spectrum).shape == ()


def test_lost_and_kept_information_add_up():
    spectrum = natural_spectrum((16, 8))
    l = np.linspace(-10, 10, 5)
    for smaller in ((16, 8), (16, 4), (4, 2), (2, 1)):
        keep = kept((16, 8), smaller)
        assert keep.sum() == smaller[0] * smaller[1]
        rest = information(l, spectrum[keep]) * keep.mean()
        np.testing.assert_allclose(lost_information(l, spectrum, smaller) + rest, information(l, spectrum))
    np.testing.assert_array_equal(lost_information(l, spectrum, (16, 8)), 0)
