"""What arrays of one, two, three and four axes look like, and their files."""

import numpy as np
import pytest
from PIL import Image

from ssd_jax.errors import InputError
from ssd_jax.files.images import enlarged_grid, grid, write_png
from ssd_jax.files.pictures import (
    CURVE,
    frames_of,
    is_whole,
    picture,
    read_array,
    shape_of,
    strip,
    suffix_of,
    write_array,
    write_picture,
)

RANDOM = np.random.default_rng(0)


def arrays(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def test_images_are_their_grid():
    images = arrays(5, 4, 6, 3)
    np.testing.assert_array_equal(picture(images), grid(images)[None])
    np.testing.assert_array_equal(picture(images, arrange=enlarged_grid), enlarged_grid(images)[None])
    np.testing.assert_array_equal(strip(images), enlarged_grid(images))


def test_clips_are_grids_that_move():
    clips = arrays(5, 3, 4, 6, 4)
    seen = picture(clips, (9, 8, 7))
    assert len(seen) == 3
    for frame in range(3):
        np.testing.assert_array_equal(seen[frame], grid(clips[:, frame], background=(9, 8, 7)))
    more = arrays(2, 3, 2, 4, 6, 3)  # through all of the axes before height and width
    np.testing.assert_array_equal(frames_of(more)[3], more[:, 1, 1])


def test_a_strip_has_a_row_a_clip():
    clips = arrays(3, 4, 8, 6, 3)
    np.testing.assert_array_equal(strip(clips), enlarged_grid(clips.reshape(12, 8, 6, 3), columns=4))
    long = arrays(10, 40, 2, 2, 1)  # of which only some frames of some
    np.testing.assert_array_equal(np.unique(strip(long)[2::50]), np.unique(strip(long[:8])[2::50]))
    assert strip(long).shape == strip(arrays(8, 16, 2, 2, 1)).shape


def test_signals_are_curves():
    """High values above, and no gap where they jump."""
    signals = np.array([[0, 0, 255, 255], [128, 128, 128, 128]], np.uint8)[..., None]
    (curves,) = frames_of(signals)
    assert curves.shape == (2, CURVE, 4, 1)
    black = curves[..., 0] == 0
    assert black[0, :, 1].nonzero()[0].tolist() == [CURVE - 1] and black[0, :, 3].nonzero()[0].tolist() == [0]
    assert black[0, :, 2].all()
    np.testing.assert_array_equal(black[1], np.broadcast_to((np.arange(CURVE) == 31)[:, None], (CURVE, 4)))
    assert frames_of(arrays(2, 8, 3)).shape == frames_of(arrays(2, 8, 4)).shape == (1, 2, CURVE, 8, 3)
    assert picture(signals).shape == (1, *grid(curves).shape)


def test_pictures_are_files_of_their_kind(tmp_path):
    assert write_picture(tmp_path / "step_1", picture(arrays(3, 4, 6, 3))) == tmp_path / "step_1.png"
    frames = picture(arrays(3, 5, 4, 6, 3))
    assert write_picture(tmp_path / "a.b", frames) == tmp_path / "a.b.webp"
    with Image.open(tmp_path / "a.b.webp") as animation:
        assert getattr(animation, "n_frames", 0) == 5 and animation.info["loop"] == 0
        animation.seek(4)
        np.testing.assert_array_equal(np.asarray(animation.convert("RGB")), frames[4])


@pytest.mark.parametrize("shape", [(9,), (5, 7), (4, 5, 7), (1, 5, 7), (2, 2, 5, 7)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_are_read_as_they_were_written(tmp_path, shape, channels):
    array, path = arrays(*shape, channels), tmp_path / f"x{suffix_of(shape)}"
    write_array(path, array)
    np.testing.assert_array_equal(read_array(path, shape, channels), array)
    assert is_whole(path, shape, channels) and not is_whole(path, (*shape[:-1], 8), channels)
    assert not is_whole(path, shape, 3 if channels == 4 else 4)
    with pytest.raises(InputError, match="x.* is .*, but must be"):
        read_array(path, (*shape[:-1], 8), channels)
    path.write_bytes(path.read_bytes()[:40])
    assert not is_whole(path, shape, channels) and not is_whole(tmp_path / "y.png", shape, channels)


def test_shapes_of_files(tmp_path):
    """An animation is a clip, or its first frame where images are meant."""
    write_png(tmp_path / "x.png", arrays(4, 6, 3))
    write_array(tmp_path / "x.webp", arrays(3, 4, 6, 3))
    assert shape_of(tmp_path / "x.png") == (4, 6) and shape_of(tmp_path / "x.webp") == (3, 4, 6)
    assert shape_of(tmp_path / "x.webp", 2) == (4, 6) and shape_of(tmp_path / "x.webp", 3) == (3, 4, 6)
