import numpy as np
import pytest
from PIL import Image, ImageSequence

from ssd_jax.files.decode import decode
from ssd_jax.files.images import denoising_strip, grid, growing, is_whole, to_uint8, write_animation, write_npz, write_png
from ssd_jax.files.paths import write_atomically


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


def test_pictures_grow_in_an_animation(tmp_path):
    states = [np.full((4, n, n, 3), 40 * n, np.uint8) for n in (1, 2, 4)]
    frames = growing(states, width=28)
    assert frames.shape == (3, 28, 28, 3)  # a grid of 14 pixels, twice as large
    assert [(frame != 255).all(-1).sum() for frame in frames] == [16 * n * n for n in (1, 2, 4)]
    assert growing(states, states, width=28).shape == (3, 28, 56, 3)
    for kind in ("gif", "webp"):
        write_animation(tmp_path / f"x.{kind}", frames, milliseconds=50, hold=700)
        animation = Image.open(tmp_path / f"x.{kind}")
        assert animation.format == kind.upper() and animation.size == (28, 28) and animation.info["loop"] == 0
        assert len(list(ImageSequence.Iterator(animation))) == 3
        animation.seek(2)
        np.testing.assert_allclose(np.asarray(animation.convert("RGB")), frames[2], atol=1)
        assert animation.info["duration"] == 700 or kind == "webp"


def test_npz_of_a_stream(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    write_npz(tmp_path / "x.npz", iter(images), images.shape)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["images"], images)


def test_what_is_whole(tmp_path):
    write_png(tmp_path / "x.png", np.zeros((4, 6, 3), np.uint8))
    assert is_whole(tmp_path / "x.png", (4, 6, 3)) and not is_whole(tmp_path / "x.png", (4, 4, 3))
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:40])
    assert not is_whole(tmp_path / "x.png", (4, 6, 3)) and not is_whole(tmp_path / "y.png", (4, 6, 3))
