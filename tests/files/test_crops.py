import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_jax.errors import InputError
from ssd_jax.files.crops import CROPS, adm, area

RANDOM = np.random.default_rng(0)


def squares(image: np.ndarray, size: int) -> np.ndarray:
    """What `area` was for squares alone."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    image = image[top : top + side, left : left + side]
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [5, 9, 16])
def test_area_to_squares(size):
    for shape in ((9, 9), (9, 30), (31, 12), (100, 77)):
        image = RANDOM.integers(0, 256, (*shape, 3), np.uint8)
        np.testing.assert_array_equal(area(image, (size, size)), squares(image, size))


@pytest.mark.parametrize(
    ("given", "shape", "rows", "columns"),
    [
        ((24, 48), (12, 24), (0, 24), (0, 48)),
        ((30, 48), (12, 24), (3, 27), (0, 48)),
        ((24, 60), (12, 24), (0, 24), (6, 54)),
        ((5, 7), (20, 10), (0, 5), (2, 4)),
    ],
)
def test_area_crops_to_the_proportions(given, shape, rows, columns):
    image = np.zeros((*given, 1), np.uint8)
    image[slice(*rows), slice(*columns)] = 200
    found = area(image, shape)
    assert found.shape == (*shape, 1) and (found == 200).all()
    image[slice(*rows), slice(*columns)] += 55 * (np.arange(rows[1] - rows[0]) % 2 == 0).astype(np.uint8)[:, None, None]
    assert area(image, shape).mean() > 200


def test_areas_are_averaged_downwards():
    image = RANDOM.integers(0, 256, (12, 24, 3), np.uint8)
    means = image.reshape(4, 3, 8, 3, 3).mean((1, 3))
    np.testing.assert_allclose(area(image, (4, 8)), means, atol=0.51)


@pytest.mark.parametrize("shape", [(4, 6), (5, 9), (30, 45)])
def test_hidden_colours_do_not_bleed(shape):
    image = np.zeros((12, 18, 4), np.uint8)
    image[..., 1] = 255  # green, and hidden
    image[4:8, 4:11] = (200, 0, 0, 255)
    found = area(image, shape)
    assert (found[found[..., 3] > 0][:, 1] == 0).all() and (found[found[..., 3] > 40][:, 0] > 195).all()
    np.testing.assert_allclose(found[..., 3], area(image[..., 3:], shape)[..., 0], atol=1)


def test_opaque_images_are_resized_alike_with_and_without_alpha():
    image = RANDOM.integers(0, 256, (12, 18, 4), np.uint8)
    image[..., 3] = 255
    for shape in ((4, 6), (7, 5), (12, 18), (30, 45)):
        np.testing.assert_allclose(area(image, shape)[..., :3], area(image[..., :3].copy(), shape), atol=1)
        assert (area(image, shape)[..., 3] == 255).all()


def test_adm_is_the_published_loader():
    """Worked by hand for one size: 203 x 125 -> halved once, 101 x 62 -> bicubic, 52 x 32 -> the middle 32 x 32."""
    image = RANDOM.integers(0, 256, (203, 125, 3), np.uint8)
    halved = Image.fromarray(image).resize((62, 101), Image.Resampling.BOX)
    expected = np.asarray(halved.resize((32, 52), Image.Resampling.BICUBIC))[10:42]
    np.testing.assert_array_equal(adm(image, (32, 32)), expected)
    np.testing.assert_array_equal(adm(image[:64, :64], (64, 64)), image[:64, :64])  # what fits is left as it is
    assert np.abs(adm(image, (32, 32)).astype(int) - area(image, (32, 32))).max() > 8  # another filter


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("given", [(7, 9), (40, 90), (100, 33), (16, 16)])
@pytest.mark.parametrize("name", CROPS)
def test_crops_have_the_shape_and_the_middle(name, given, channels):
    image = np.full((*given, channels), 90, np.uint8)
    for shape in ((16, 16), (12, 20)):
        found = CROPS[name](image, shape)
        assert found.shape == (*shape, channels) and found.dtype == np.uint8 and (found == 90).all()


def test_what_is_too_thin_for_adm_is_refused_before_memory_is_taken():
    with pytest.raises(InputError, match="it is 1048576x1, too thin to be cut by adm; take area"):
        adm(np.zeros((1, 2**20, 3), np.uint8), (64, 64))


def test_adm_hides_what_is_transparent():
    image = np.zeros((40, 40, 4), np.uint8)
    image[..., 1] = 255  # green, and hidden
    image[10:30, 10:30] = (200, 0, 0, 255)
    found = adm(image, (16, 16))
    assert (found[found[..., 3] > 40][:, 1] == 0).all()
