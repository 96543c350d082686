import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.channels import shown, with_channels

RANDOM = np.random.default_rng(0)


def test_transparent_images_are_composited():
    images = RANDOM.integers(0, 256, (3, 4, 5, 4), np.uint8)
    colour, alpha = images[..., :3].astype(float), images[..., 3:] / 255
    for background in ((255, 255, 255), (0, 100, 200)):
        expected = np.rint(alpha * colour + (1 - alpha) * np.array(background))
        np.testing.assert_array_equal(shown(images, background), expected)
    np.testing.assert_array_equal(shown(images), shown(images, (255, 255, 255)))
    np.testing.assert_array_equal(shown(images[0]), shown(images)[0])  # one image or several


def test_opaque_and_grey_images_are_shown_as_they_are():
    colour, grey = RANDOM.integers(0, 256, (2, 4, 5, 3), np.uint8), RANDOM.integers(0, 256, (2, 4, 5, 1), np.uint8)
    assert shown(colour) is colour
    np.testing.assert_array_equal(shown(grey), np.concatenate([grey] * 3, axis=-1))
    opaque = with_channels(colour, 4)
    assert (opaque[..., 3] == 255).all()
    np.testing.assert_array_equal(shown(opaque, (1, 2, 3)), colour)
    np.testing.assert_array_equal(with_channels(grey, 4)[..., :3], shown(grey))


def test_brightness():
    values = np.arange(256, dtype=np.uint8)[:, None, None]
    np.testing.assert_array_equal(with_channels(shown(values), 1), values)
    primaries = np.eye(3, dtype=np.uint8)[None] * 255
    np.testing.assert_array_equal(with_channels(primaries, 1)[0, :, 0], [76, 150, 29])
    clear = np.zeros((1, 1, 4), np.uint8)
    assert with_channels(clear, 1) == 255 and with_channels(clear, 1, (0, 0, 0)) == 0
    for channels in (1, 3, 4):
        images = RANDOM.integers(0, 256, (2, 2, channels), np.uint8)
        assert with_channels(images, channels) is images


def test_other_numbers_of_channels():
    with pytest.raises(InputError, match="images have 2 channels, but must have 1"):
        shown(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(InputError, match="channels is 2, but must be 1"):
        with_channels(np.zeros((4, 4, 3), np.uint8), 2)
