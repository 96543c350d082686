import numpy as np
import pytest
from scipy.fft import idctn

from ssd_jax.errors import InputError
from ssd_jax.metrics import spectral_ratios
from ssd_jax.process.spectrum import frequencies


def pictures(seed: int, size: int, gains=None) -> np.ndarray:
    """Images of one power at every frequency, times `gains` [size, size]: uint8 [400, size, size, 3]."""
    white = np.random.default_rng(seed).normal(size=(400, size, size, 3)) * 25
    coefficients = white if gains is None else white * gains[..., None]
    return np.clip(np.rint(128 + np.asarray(idctn(coefficients, axes=(1, 2), norm="ortho"))), 0, 255).astype(np.uint8)


def test_ratios_show_the_band_that_is_weak():
    cycles = np.rint(frequencies((16, 16)))
    gains = np.where((cycles >= 3) & (cycles <= 4), 0.5, np.where(cycles == 0, 2.0, 1.0))
    ratios = spectral_ratios(iter(np.split(pictures(0, 16, gains), 4)), iter([pictures(1, 16)]))
    assert ratios.bands == ("mean colour", "1 cycle", "2 cycles", "3-4 cycles", "5-8 cycles")
    np.testing.assert_allclose(ratios.ratios, [4, 1, 1, 0.25, 1], rtol=0.15)
    same = spectral_ratios(iter([pictures(0, 16)]), iter([pictures(0, 16)]))
    np.testing.assert_array_equal(same.ratios, 1)
    assert same.distance == 0
    expected = np.sqrt((np.log(ratios.ratios) ** 2).mean())
    assert abs(ratios.distance - expected) < 1e-12 and abs(expected - np.log(4) * np.sqrt(2 / 5)) < 0.1


@pytest.mark.parametrize(
    ("size", "last"),
    [(2, "1 cycle"), (4, "2 cycles"), (6, "3 cycles"), (8, "3-4 cycles"), (24, "9-12 cycles"), (10, "5 cycles")],
)
def test_bands_end_at_the_highest_frequency(size, last):
    images = pictures(0, size)
    ratios = spectral_ratios(iter([images]), iter([images]))
    assert ratios.bands[-1] == last and len(ratios.bands) == len(ratios.ratios)


def test_images_are_compared_as_they_are_shown():
    grey = pictures(0, 8)[..., :1]
    colour = np.repeat(grey, 3, axis=-1)
    transparent = np.concatenate([colour, np.full_like(grey, 128)], axis=-1)
    np.testing.assert_array_equal(spectral_ratios([grey], [colour]).ratios, 1)
    np.testing.assert_allclose(spectral_ratios([transparent], [colour], (0, 0, 0)).ratios, (128 / 255) ** 2, rtol=0.01)


def test_spectra_that_cannot_be_compared():
    with pytest.raises(InputError, match=r"generated images have \(8, 8\) pixels and real ones \(16, 16\)"):
        spectral_ratios(iter([pictures(0, 8)]), iter([pictures(0, 16)]))
    with pytest.raises(InputError, match="real images do not differ in mean colour"):
        spectral_ratios(iter([pictures(0, 8)]), iter([np.zeros((4, 8, 8, 3), np.uint8)]))
