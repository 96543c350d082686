"""Clips in animated WebP files."""

import numpy as np
import pytest
from PIL import Image

from ssd_jax.errors import InputError
from ssd_jax.files.channels import with_channels
from ssd_jax.files.clips import MILLISECONDS, clip_shape, is_clip, read_clip, write_clip

RANDOM = np.random.default_rng(0)


def clip(channels: int, frames: int = 5, height: int = 7, width: int = 9) -> np.ndarray:
    """Noise, transparent here and there, two frames alike and one empty."""
    found = RANDOM.integers(0, 256, (frames, height, width, channels), np.uint8)
    if channels == 4:
        found[..., 3] = np.where(found[..., 3] < 100, 0, found[..., 3])
    found[2:4], found[-1] = found[1], 0
    return found


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_clips_are_read_as_they_were_written(tmp_path, channels):
    """To the bit: frames that are alike, and colours where they are transparent."""
    written = clip(channels)
    write_clip(tmp_path / "new" / "x.webp", written)
    np.testing.assert_array_equal(read_clip(tmp_path / "new" / "x.webp", channels), written)
    own = read_clip(tmp_path / "new" / "x.webp")
    np.testing.assert_array_equal(own, with_channels(written, max(channels, 3)))
    assert clip_shape(tmp_path / "new" / "x.webp") == (5, 7, 9) and is_clip(tmp_path / "new" / "x.webp")


def test_others_see_an_endless_animation(tmp_path):
    write_clip(tmp_path / "x.webp", clip(4))
    with Image.open(tmp_path / "x.webp") as animation:
        assert (animation.format, animation.mode, animation.size) == ("WEBP", "RGBA", (9, 7))
        assert getattr(animation, "n_frames", 0) == 5
        animation.seek(3)
        animation.load()
        assert animation.info["loop"] == 0 and animation.info["duration"] == MILLISECONDS


def test_clips_of_one_frame_and_of_one_pixel(tmp_path):
    for shape in ((1, 4, 4, 3), (3, 1, 1, 3)):
        written = RANDOM.integers(0, 256, shape, np.uint8)
        write_clip(tmp_path / "x.webp", written)
        np.testing.assert_array_equal(read_clip(tmp_path / "x.webp"), written)
        assert clip_shape(tmp_path / "x.webp") == shape[:3] and is_clip(tmp_path / "x.webp")


def test_what_is_no_clip(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "still.webp", lossless=True)
    assert not is_clip(tmp_path / "still.webp") and not is_clip(tmp_path / "missing.webp")
    write_clip(tmp_path / "whole.webp", clip(3))
    encoded = (tmp_path / "whole.webp").read_bytes()
    for kept in (0, 12, 30, 60, len(encoded) // 2, len(encoded) - 1):
        (tmp_path / "part.webp").write_bytes(encoded[:kept])
        for read in (read_clip, clip_shape):
            with pytest.raises(InputError, match="part.webp is no clip that can be read .*; give an animated WebP"):
                read(tmp_path / "part.webp")
