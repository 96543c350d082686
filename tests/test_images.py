import numpy as np
import pytest

from ssd_jax.data.decode import decode
from ssd_jax.files import write_atomically
from ssd_jax.images import denoising_strip, grid, to_uint8, write_png


def test_to_uint8_inverts_the_pipeline():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(pixels / np.float32(127.5) - 1), pixels)
    np.testing.assert_array_equal(to_uint8([-3.0, 3.0]), [0, 255])


def test_grid_places_images_row_by_row():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    picture = grid(images, padding=1)
    assert picture.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
    assert [picture[2, 2, 0], picture[2, 9, 0], picture[7, 2, 0], picture[7, 16, 0]] == [0, 1, 3, 255]


def test_denoising_strip_enlarges_to_one_size():
    states = [np.zeros((2, 2, 2, 3)), np.ones((2, 4, 4, 3))]
    strip = denoising_strip(states, states, size=4)
    assert strip.shape == (4 * 6 + 2, 2 * 6 + 2, 3)
    assert strip[3, 3, 0] == 128 and strip[3, 9, 0] == 255


def test_png_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_png(tmp_path / "new" / "x.png", image)
    np.testing.assert_array_equal(decode((tmp_path / "new" / "x.png").read_bytes()), image)


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []
