"""Folders of clips and of signals: filled, filled again where there are holes, and read."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from launch.common import folders
from ssd_jax.data.encoding import PixelEncoding
from ssd_jax.errors import InputError
from ssd_jax.files.images import write_png
from ssd_jax.files.pictures import read_array, write_array

CLIPS = np.random.default_rng(0).integers(0, 256, (70, 3, 4, 6, 4), np.uint8)


@pytest.mark.parametrize("shape", [(3, 4, 6), (4, 6), (72,)])
def test_a_folder_is_filled_and_only_its_holes_again(tmp_path, shape):
    """With one file each, of which what is half or gone is drawn again, in whole batches."""
    arrays = CLIPS.reshape(70, -1)[:, : np.prod(shape) * 4].reshape(70, *shape, 4)[:20]
    encoding, drawn = PixelEncoding(shape, 4), []

    def draw(num: int, first: int) -> Iterator[Any]:
        drawn.append((first, num))
        yield SimpleNamespace(x=encoding.encode(arrays[first : first + num]), calls=1)

    def fill() -> list:
        drawn.clear()
        return folders.fill(tmp_path, 20, 8, encoding, 1, draw)

    paths = fill()
    assert drawn == [(0, 8), (8, 8), (16, 8)] and paths[3].suffix == (".webp" if len(shape) > 2 else ".png")
    for path, array in zip(paths, arrays, strict=True):
        np.testing.assert_array_equal(read_array(path, shape, 4), array)
    assert fill() == paths and not drawn
    paths[9].write_bytes(paths[9].read_bytes()[:60])
    paths[17].unlink()
    times = [path.stat().st_mtime_ns for path in paths if path not in (paths[9], paths[17])]
    assert fill() == paths and drawn == [(9, 8), (17, 8)]
    assert times == [path.stat().st_mtime_ns for path in paths if path not in (paths[9], paths[17])]
    np.testing.assert_array_equal(read_array(paths[9], shape, 4), arrays[9])


def test_clips_of_another_shape_are_named(tmp_path):
    write_array(tmp_path / "000002.webp", CLIPS[0])
    with pytest.raises(InputError, match="000002.webp is 3 frames of 6x4 pixels, but the images drawn are 5 frames of 6x4"):
        folders.check_sizes(tmp_path, 4, PixelEncoding((5, 4, 6), 4))
    folders.check_sizes(tmp_path, 4, PixelEncoding((4, 6), 4))  # which are in other files


def test_folders_and_files_of_clips_are_opened(tmp_path):
    """By their first file, or as asked for: in a folder of images an animation is its first frame."""
    for i, clip in enumerate(CLIPS):
        write_array(tmp_path / "clips" / f"{i:06d}.webp", clip)
    np.savez(tmp_path / "clips.npz", images=CLIPS)
    for path in (tmp_path / "clips", tmp_path / "clips.npz"):
        found = folders.open_images(path)
        assert (found.count, found.shape) == (70, (3, 4, 6))
        np.testing.assert_array_equal(np.concatenate(list(found.batches())), CLIPS)
        with pytest.raises(InputError, match="3 frames of 6x4 pixels, but the images are 2 frames of 6x4"):
            folders.open_images(path, (2, 4, 6))
    images = folders.open_images(tmp_path / "clips", (4, 6))
    np.testing.assert_array_equal(np.concatenate(list(images.batches())), CLIPS[:, 0])
    write_png(tmp_path / "clips" / "000009.png", CLIPS[0, 0])
    with pytest.raises(InputError, match="000009.png is 6x4 pixels, but .*000000.webp is 3 frames of 6x4"):
        folders.open_images(tmp_path / "clips")
