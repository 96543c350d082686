import numpy as np
import pytest
from PIL import Image, ImageSequence

from ssd_jax.errors import InputError
from ssd_jax.files.decode import decode
from ssd_jax.files.images import (
    denoising_strip,
    enlarge,
    enlarged_grid,
    grid,
    growing,
    read_image,
    write_animation,
    write_npz,
    write_png,
)
from ssd_jax.files.paths import write_atomically


def test_grid_places_images_row_by_row():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 6, 3), np.uint8)
    picture = grid(images, padding=1)
    assert picture.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
    assert [picture[2, 2, 0], picture[2, 9, 0], picture[7, 2, 0], picture[7, 16, 0]] == [0, 1, 3, 255]


def transparent(*shape: int) -> np.ndarray:
    """Red, half transparent: uint8 [*shape, 4]."""
    return np.broadcast_to(np.array([255, 0, 0, 128], np.uint8), (*shape, 4))


def test_grids_of_grey_and_of_transparent_images():
    grey = grid(np.full((3, 4, 6, 1), 7, np.uint8), padding=1)
    assert grey.shape == (11, 15, 1) and set(np.unique(grey)) == {7, 255}
    on_black = grid(transparent(3, 4, 6), padding=1, background=(0, 0, 0))
    assert on_black.shape == (11, 15, 3)
    np.testing.assert_array_equal(on_black[1, 1], [128, 0, 0])
    np.testing.assert_array_equal(on_black[0, 0], [255, 255, 255])  # between them the page
    np.testing.assert_array_equal(grid(transparent(3, 4, 6), padding=1)[1, 1], [255, 127, 127])


def test_pixels_are_enlarged():
    images = np.arange(12, dtype=np.uint8).reshape(1, 2, 3, 2)
    large = enlarge(images, (4, 9))
    assert large.shape == (1, 4, 9, 2)
    np.testing.assert_array_equal(large[:, ::2, ::3], images)
    np.testing.assert_array_equal(large[:, 1::2, 2::3], images)


def test_grids_are_enlarged_until_they_are_wide():
    for count, height, width, columns, factor in ((4, 8, 8, 2, 48), (3, 32, 48, 2, 8), (9, 300, 300, 3, 1)):
        images = np.zeros((count, height, width, 3), np.uint8)
        rows = -(-count // columns)
        expected = rows * (factor * height + 2) + 2, columns * (factor * width + 2) + 2, 3
        assert enlarged_grid(images).shape == expected and expected[1] >= 768
    assert enlarged_grid(np.zeros((4, 8, 12, 1), np.uint8), columns=4).shape == (16 * 8 + 4, 4 * 16 * 12 + 10, 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_denoising_strip_enlarges_to_one_size(channels):
    states = [np.full((2, 2, 3, channels), 128, np.uint8), np.full((2, 4, 6, channels), 255, np.uint8)]
    strip = denoising_strip(states, states, background=(0, 0, 0))
    factor = 768 // 12
    pitch = 4 * factor + 2
    assert strip.shape == (4 * pitch + 2, 2 * (6 * factor + 2) + 2, min(channels, 3))
    noisy, clean = strip[3, 3, 0], strip[3, 6 * factor + 5, 0]
    assert noisy == (64 if channels == 4 else 128) and clean == 255
    half = strip[2 : 2 + 4 * factor : 2 * factor, 2 : 2 + 6 * factor : 2 * factor]
    assert (half == noisy).all() and half.shape[:2] == (2, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_round_trip(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    write_png(tmp_path / "new" / "x.png", image)
    np.testing.assert_array_equal(decode((tmp_path / "new" / "x.png").read_bytes()), image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "x.png"), image)
    for others in {1, 3, 4} - {channels}:
        assert read_image(tmp_path / "new" / "x.png", others).shape == (5, 7, others)


def test_reading_what_is_no_image(tmp_path):
    (tmp_path / "x.png").write_text("text")
    for name in ("x.png", "missing.png"):
        with pytest.raises(InputError, match=f"{name} is no image"):
            read_image(tmp_path / name)


def test_transparent_images_are_read_on_a_background(tmp_path):
    write_png(tmp_path / "x.png", transparent(4, 6))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 3)[0, 0], [255, 127, 127])
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", 3, (0, 0, 200))[0, 0], [128, 0, 100])


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


@pytest.mark.parametrize("channels", [1, 4])
def test_animations_of_grey_and_of_transparent_images(tmp_path, channels):
    states = [np.full((4, n, 2 * n, channels), 40 * n, np.uint8) for n in (1, 2, 4)]
    frames = growing(states, width=44, background=(0, 0, 0))
    assert frames.shape == (3, 28, 44, min(channels, 3))
    write_animation(tmp_path / "x.webp", frames)
    animation = Image.open(tmp_path / "x.webp")
    animation.seek(2)
    expected = 160 if channels == 1 else round(160 * 160 / 255)
    np.testing.assert_array_equal(np.asarray(animation.convert("RGB"))[5, 5], [expected] * 3)


def test_a_transparent_animation_is_shown_on_the_background(tmp_path):
    write_animation(tmp_path / "x.webp", np.stack([transparent(4, 6)] * 2), background=(0, 0, 0))
    image = np.asarray(Image.open(tmp_path / "x.webp").convert("RGBA"))
    np.testing.assert_array_equal(image[0, 0], [128, 0, 0, 255])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_npz_of_a_stream(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), np.uint8)
    write_npz(tmp_path / "x.npz", iter(images), images.shape)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["images"], images)
