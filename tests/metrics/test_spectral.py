import numpy as np
import pytest
from scipy.fft import idctn

from ssd_jax.errors import InputError
from ssd_jax.metrics import spectral_ratios, temporal_ratios
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


def drifting(seed: int, count: int = 200) -> np.ndarray:
    """Clips of eight frames that change slowly: uint8 [count, 8, 8, 8, 1]."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(count, 8, 8, 8, 1)) * np.array([40] + [12] * 7)[:, None, None, None]
    return np.clip(np.rint(128 + steps.cumsum(axis=1)), 0, 255).astype(np.uint8)


def shuffled(clips: np.ndarray) -> np.ndarray:
    """The same frames in another order in every clip."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(clips.shape[1]), (len(clips), 1)), axis=1)
    return np.take_along_axis(clips, order[:, :, None, None, None], axis=1)


def test_time_tells_shuffled_frames_from_clips_and_frames_alone_do_not():
    clips, others = drifting(0), drifting(1)
    apart = temporal_ratios(iter(np.split(shuffled(clips), 4)), iter([clips]))
    assert apart.bands == ("mean over time", "1 cycle", "2 cycles", "3-4 cycles")
    assert apart.ratios[1] < 0.6 and apart.ratios[3] > 3 and apart.distance > 0.5
    assert temporal_ratios([others], [clips]).distance < 0.05  # other clips of the same kind
    np.testing.assert_allclose(spectral_ratios([shuffled(clips)], [clips]).ratios, 1, rtol=1e-9)


def test_flicker_of_twice_the_amplitude_has_four_times_the_power():
    """At its own frequency alone: what all of the frames share stays as it is."""
    random, frames = np.random.default_rng(0), np.cos(np.pi * 6 * (np.arange(8) + 0.5) / 8)[:, None, None, None]
    still, moving = random.normal(size=(2, 60, 1, 8, 8, 1)) * np.array([15, 10])[:, None, None, None, None, None]
    others = random.normal(size=(60, 8, 8, 8, 1)) * 2
    once, twice = (np.rint(128 + still + others + factor * moving * frames).astype(np.uint8) for factor in (1, 2))
    ratios = temporal_ratios([twice], [once]).ratios
    np.testing.assert_allclose(ratios[:3], 1, rtol=0.02)
    assert 3.5 < ratios[3] < 4


def test_clips_that_cannot_be_compared():
    with pytest.raises(InputError, match="generated clips have 4 frames and real ones 8; cut one of them"):
        temporal_ratios(iter([drifting(0)[:, :4]]), iter([drifting(0)]))
    with pytest.raises(InputError, match="real images do not differ in mean over time"):
        temporal_ratios(iter([drifting(0)]), iter([np.zeros((4, 8, 8, 8, 3), np.uint8)]))
