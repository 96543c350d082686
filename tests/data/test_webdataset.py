"""Tar files that the library `webdataset` wrote."""

import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_jax.data import DataConfig, make_source
from ssd_jax.errors import InputError

webdataset = pytest.importorskip("webdataset")
RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 256, (9 + i, 12, 3), np.uint8) for i in range(7)]


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def write(tar: Path, *examples: dict) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(tar)) as writer:
        for example in examples:
            writer.write(example)
    return tar


def source(folder: Path) -> Any:
    return make_source(DataConfig(source="webdataset", folder=str(folder)), (9, 12))


def test_shards(tmp_path):
    """Over several tar files, in sub-folders of them, with what is no image beside the images."""
    (tmp_path / "data").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "data" / "%05d.tar"), maxcount=3, verbose=0) as writer:
        for i, image in enumerate(IMAGES):
            writer.write({"__key__": f"n{i % 2}/im.{i}".replace(".", "_"), "png": png(image), "cls": i % 4, "txt": "words"})
    found = source(tmp_path)
    assert len(found) == 7 and found.class_names == ("0", "1", "2", "3") and found.channels == 3
    np.testing.assert_array_equal(found.labels, [0, 1, 2, 3, 0, 1, 2])
    np.testing.assert_array_equal(found[0]["image"], IMAGES[0])
    for i in range(7):
        assert found[i]["label"] == i % 4 and found[i]["image"].shape == (9, 12, 3)
    plain = source(write(tmp_path / "plain" / "x.tar", {"__key__": "a", "png": png(IMAGES[0])}).parent)
    assert plain.class_names == () and plain[0]["label"] == 0 and plain.fingerprint != found.fingerprint


def test_what_cannot_be_read_is_left_out(tmp_path, caplog):
    found = source(
        write(tmp_path / "x.tar", {"__key__": "a", "jpg": b"\xff\xd8"}, {"__key__": "b", "jpg": png(IMAGES[0])}).parent
    )
    assert found[0] is None and found[1] is not None
    assert "x.tar/a.jpg' is left out: it is corrupt or truncated" in caplog.text
    source(
        write(tmp_path / "tiff" / "x.tar", {"__key__": "a", "jpg": png(IMAGES[0])}, {"__key__": "b", "tiff": b"II*"}).parent
    )
    assert "left out images that are not read: 1 .tiff; convert them to use them" in caplog.text


def test_what_cannot_be_used_is_said(tmp_path):
    image = png(IMAGES[0])
    write(tmp_path / "some" / "x.tar", {"__key__": "a", "png": image, "cls": 1}, {"__key__": "b", "png": image})
    write(tmp_path / "word" / "x.tar", {"__key__": "a", "png": image, "cls": b"cat"})
    write(tmp_path / "two" / "x.tar", {"__key__": "a", "png": image, "seg.png": image})
    write(tmp_path / "none" / "x.tar", {"__key__": "a", "txt": "words"})
    write(tmp_path / "dotted" / "x.tar", {"__key__": "a", "png": image, "01.cls": 1})
    write(tmp_path / "huge" / "x.tar", {"__key__": "a", "png": image, "cls": b"1234567890"})
    whole = write(tmp_path / "whole" / "x.tar", *({"__key__": str(i), "png": image} for i in range(3))).read_bytes()
    with tarfile.open(tmp_path / "whole" / "x.tar") as file:
        second = file.getmembers()[1].offset
    for name, content in {
        "header": whole[:second] + b"?" + whole[second + 1 :],
        "boundary": whole[:second],
        "within": whole[: second + 100],
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tar").write_bytes(content)
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "x.tar").write_bytes(b"no tar file at all" * 100)
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "x.tar", "w:gz") as packed:
        packed.add(__file__)
    for name, message in {
        "some": r"1 of 2 images of .* have no class, a number from 0 in a \.cls file",
        "word": "1 of 1 images of .* have no class",
        "two": r"has several images of one example: a\.png, a\.seg\.png",
        "none": r"hold no image \(\.png, ",
        "empty": r"holds no \.tar file at any depth",
        "nowhere": r"holds no \.tar file at any depth",
        "dotted": r"x\.tar' has a\.01\.cls, but a name must have no dot before \.cls; rename it",
        "huge": "has class 1234567890, but classes are numbers from 0 to",
        "header": "cannot be read as a tar file without compression: it is damaged or cut short",
        "boundary": "cannot be read as a tar file without compression: it is damaged or cut short",
        "within": "cannot be read as a tar file without compression: it is damaged or cut short",
        "half": r"x\.tar' cannot be read as a tar file without compression",
        "packed": r"x\.tar' cannot be read as a tar file without compression",
    }.items():
        with pytest.raises(InputError, match=message) as error:
            source(tmp_path / name)
        assert "\n" not in str(error.value)
