"""Clips of GIF, WebP and MP4 files. Frame i of every video is flat, with grey level 10 i."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_jax.data import DataConfig, Source, make_source
from ssd_jax.data.encoded import ImageLook
from ssd_jax.data.video import VideoSource
from ssd_jax.errors import InputError
from ssd_jax.files.images import write_animation

SHAPE = (3, 8, 8)


def frames(count: int, height: int = 20, width: int = 32, channels: int = 3) -> np.ndarray:
    levels = np.arange(count, dtype=np.uint8)[:, None, None, None] * 10
    return np.broadcast_to(levels, (count, height, width, channels)).copy()


def write_movie(path: Path, clip: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, clip.shape[2:0:-1])
    for frame in clip:
        writer.write(frame[..., ::-1])
    writer.release()


@pytest.fixture
def folder(tmp_path):
    """7, 6 and 8 frames, in two classes."""
    write_animation(tmp_path / "a" / "0.gif", frames(7))
    write_animation(tmp_path / "a" / "1.webp", frames(6))
    write_movie(tmp_path / "b" / "2.mp4", frames(8, 32, 48))
    return tmp_path


def opened(folder, shape=SHAPE, **look) -> VideoSource:
    source = make_source(DataConfig(source="video", folder=str(folder), **look), shape)
    assert isinstance(source, VideoSource) and isinstance(source, Source)
    return source


def levels(source: VideoSource) -> list[list[int]]:
    """The grey levels of every clip's frames, over 10, rounded."""
    items = [source[i] for i in range(len(source))]
    return [np.rint(item["image"].mean(axis=(1, 2, 3)) / 10).astype(int).tolist() for item in items if item is not None]


def test_videos_are_clips_one_after_the_other(folder):
    source = opened(folder)
    assert len(source) == 6 and source.class_names == ("a", "b") and source.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert levels(source) == [[0, 1, 2], [3, 4, 5]] * 3
    items = [source[i] for i in range(6)]
    assert all(item is not None and item["image"].shape == (*SHAPE, 3) for item in items)
    assert source.fingerprint == opened(folder).fingerprint != opened(folder, (2, 8, 8)).fingerprint
    assert len(opened(folder, (8, 8, 8))) == 1 and len(opened(folder, (1, 8, 8))) == 21


def test_colours_stay(tmp_path):
    clip = frames(4)
    clip[:, :, :16] = (200, 40, 40)
    write_animation(tmp_path / "x.webp", clip)
    write_movie(tmp_path / "y.mp4", clip)
    source = opened(tmp_path, (4, 8, 12))
    for i in range(2):
        item = source[i]
        assert item is not None
        np.testing.assert_allclose(item["image"][:, :, :5], np.broadcast_to([200, 40, 40], (4, 8, 5, 3)), atol=12)


def test_transparent_videos(tmp_path):
    pictures = [Image.new("RGBA", (8, 8), (10 * i, 0, 0, 128)) for i in range(3)]
    pictures[0].save(tmp_path / "x.webp", save_all=True, append_images=pictures[1:], lossless=True)
    (clear, seen) = (opened(tmp_path, channels=channels, background=(0, 0, 200))[0] for channels in (4, 3))
    assert clear is not None and seen is not None and (clear["image"][..., 3] == 128).all()
    np.testing.assert_allclose(seen["image"][1, 0, 0], [5, 0, 100], atol=1)


def test_what_is_short_or_cannot_be_opened_is_left_out_by_name(folder, caplog):
    write_animation(folder / "a" / "short.gif", frames(2))
    (folder / "b" / "text.mp4").write_text("text")
    (folder / "b" / "empty.gif").touch()
    (folder / "b" / "film.mkv").touch()
    with caplog.at_level(logging.WARNING):
        assert levels(opened(folder)) == [[0, 1, 2], [3, 4, 5]] * 3
    for said in ("fewer than 3 frames: a/short.gif (2)", "text.mp4' is left out: it is corrupt", "empty.gif' is left out"):
        assert said in caplog.text
    assert "left out videos that are not read: 1 .mkv" in caplog.text


def test_what_cannot_be_read_later_is_none(folder, caplog):
    source, file = opened(folder), folder / "a" / "1.webp"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        assert source[3] is None and source[0] is not None
    assert "1.webp' is left out: it is corrupt or of an unknown format" in caplog.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no video (.gif, .webp, .mp4) at any depth"),
        ({"x.mp4": b"text", "y.gif": b""}, "can be opened; the warnings say why"),
        ({"x.gif": 2}, "have fewer than 3 frames, which process.shape asks for: x.gif (2); set --config.process.shape"),
    ],
)
def test_folders_without_a_clip(tmp_path, files, message):
    for name, content in files.items():
        if isinstance(content, int):
            write_animation(tmp_path / name, frames(content))
        else:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        opened(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_must_be_there(tmp_path):
    with pytest.raises(InputError, match="must be set.*--config.data.folder"):
        make_source(DataConfig(source="video"), SHAPE)
    with pytest.raises(InputError, match="is not a folder that can be read; give a folder of videos"):
        VideoSource(str(tmp_path / "nowhere"), ImageLook(SHAPE))
