"""What is prepared is what the source holds, bit for bit, whatever happened on the way."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from ssd_jax.data import ArraySource, DataConfig, make_iterator, make_source, preparation
from ssd_jax.data.array_record import MANIFEST, decode_record, encode_record, read_manifest
from ssd_jax.data.preparation import prepare
from ssd_jax.data.protocol import Source
from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE
from ssd_jax.files.clips import write_clip

RANDOM = np.random.default_rng(0)
SHAPE = (8, 12)


def written(folder: Path, channels: int = 3, count: int = 11) -> Path:
    """Photographs of several sizes in two classes."""
    for i in range(count):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), RANDOM.integers(0, 256, (20 + i, 40 - i, channels), np.uint8))
    return folder


def prepared(config: DataConfig, out: Path, shape: tuple[int, ...] = SHAPE):
    return prepare(make_source(config, shape), out, shape=shape, crop=config.crop, background=config.background)


def of_folder(folder: Path, **settings) -> DataConfig:
    return DataConfig(source="folder", folder=str(folder), **settings)


def of_shards(out: Path, **settings) -> DataConfig:
    return DataConfig(source="array_record", folder=str(out), **settings)


def assert_same(found: Source, expected: Source) -> None:
    assert len(found) == len(expected) and found.class_names == expected.class_names
    assert found.channels == expected.channels
    np.testing.assert_array_equal(found.labels, expected.labels)
    for i in range(len(found)):
        ours, theirs = found[i], expected[i]
        assert ours is not None and theirs is not None
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        assert ours["label"] == theirs["label"] and ours["label"].dtype == np.int32


@pytest.fixture
def small_shards(monkeypatch):
    """Four images a shard."""
    monkeypatch.setattr(preparation, "SHARD", 4 * 8 * 12 * 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_records_keep_images_and_labels(channels):
    """Colours of transparent pixels, opaque alpha and labels of no class among them."""
    image = RANDOM.integers(0, 256, (5, 7, channels), np.uint8)
    opaque = image.copy()
    opaque[..., -1] = 255
    for each in (image, opaque):
        for label in (0, 70_000, -1):
            found, number = decode_record(encode_record(each, label), each.shape[:-1], channels)
            np.testing.assert_array_equal(found, each)
            assert number == label


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("crop", ["area", "adm"])
def test_a_folder(tmp_path, small_shards, crop, channels):
    config = of_folder(written(tmp_path / "given", channels), crop=crop)
    made = prepared(config, tmp_path / "out")
    assert made.images == 11 and made.class_counts == (6, 5) and made.left_out == 0 and made.channels == channels
    assert len(made.shards) == {1: 1, 3: 3, 4: 4}[channels]
    found = make_source(of_shards(tmp_path / "out", crop=crop), SHAPE)
    assert_same(found, make_source(config, SHAPE))
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".array_record", ".json", ".npy"}
    assert [path.name for path in (tmp_path / "out").glob("*.json")] == [MANIFEST]


def test_it_goes_on_where_it_stopped(tmp_path, small_shards, monkeypatch):
    """Killed in the second shard: the first is kept, nothing is taken for whole, and the end is the same."""
    config = of_folder(written(tmp_path / "given"))
    whole, out = prepared(config, tmp_path / "whole"), tmp_path / "out"
    encode = preparation.encode_record
    left = iter(range(6))

    def fails(image, label):
        next(left)  # StopIteration, at the seventh image
        return encode(image, label)

    monkeypatch.setattr(preparation, "encode_record", fails)
    with pytest.raises(RuntimeError):  # what a generator makes of StopIteration: no fault of the disk's
        prepared(config, out)
    monkeypatch.setattr(preparation, "encode_record", encode)
    first = out / "images-00000-of-00003.array_record"
    before = first.stat().st_mtime_ns
    assert {path.name for path in out.glob("*.array_record")} == {first.name}
    with pytest.raises(InputError, match=r"holds no dataset\.json, which launch\.prepare writes last"):
        make_source(of_shards(out), SHAPE)
    with pytest.raises(InputError, match="was begun with other data: crop was 'area' and is 'adm'; choose another folder"):
        prepared(replace(config, crop="adm"), out)
    (out / "images-00001-of-00003.array_record").write_bytes(b"half")  # renamed, but what is beside it not yet written
    assert prepared(config, out).shards == whole.shards and first.stat().st_mtime_ns == before
    assert_same(make_source(of_shards(out), SHAPE), make_source(config, SHAPE))
    assert prepared(config, out).shards == whole.shards  # finished: nothing to do
    written(tmp_path / "given", count=2)  # two of its images are others now
    with pytest.raises(InputError, match="was begun with other data: source was 'folder"):
        prepared(config, out)
    with pytest.raises(InputError, match="is not an empty folder"):
        prepared(config, tmp_path / "given")


def test_what_cannot_be_read_is_left_out(tmp_path, caplog):
    given = written(tmp_path / "given")
    (given / "a" / "00.png").write_bytes(b"\x89PNG and nothing more")
    made = prepared(of_folder(given), tmp_path / "out")
    assert (made.images, made.left_out, made.class_counts) == (10, 1, (5, 5))
    assert "a/00.png' is left out: it is corrupt or truncated" in caplog.text
    for path in given.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 11 images of the data can be read"):
        prepared(of_folder(given), tmp_path / "none")
    assert not (tmp_path / "none" / MANIFEST).exists()


def test_training_reads_it_in_the_same_order(tmp_path, small_shards):
    config = of_folder(written(tmp_path / "given"))
    prepared(config, tmp_path / "out")
    batches = []
    for each in (config, of_shards(tmp_path / "out")):
        batches.append(list(islice(make_iterator(make_source(each, SHAPE), batch_size=4, seed=1, flip=True), 7)))
    for ours, theirs in zip(*batches, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])


def test_other_sources(tmp_path):
    """Images in memory, without classes; TFDS."""
    images = RANDOM.integers(0, 256, (5, *SHAPE, 3), np.uint8)
    made = prepare(ArraySource(images), tmp_path / "array", shape=SHAPE, crop="area", background=WHITE)
    assert made.class_names == () and made.class_counts == ()
    assert_same(make_source(of_shards(tmp_path / "array"), SHAPE), ArraySource(images))
    with tfds.testing.mock_data(num_examples=3):
        source: Any = make_source(DataConfig(source="tfds", name="mnist"), (8, 8))
        made = prepare(source, tmp_path / "tfds", shape=(8, 8), crop="area", background=WHITE)
        found: Any = make_source(of_shards(tmp_path / "tfds"), (8, 8))
        assert found.class_names == tuple(map(str, range(10))) and sum(made.class_counts) == 3
        for i in range(3):
            np.testing.assert_array_equal(found[i]["image"], source[i]["image"])
            assert found[i]["label"] == source[i]["label"]


@pytest.mark.parametrize("shape, channels", [((3, 8, 10), 4), ((3, 8, 10), 1), ((12,), 1)])
def test_records_of_other_axes(shape, channels):
    array = RANDOM.integers(0, 256, (*shape, channels), np.uint8)
    found, number = decode_record(encode_record(array, 7), shape, channels)
    np.testing.assert_array_equal(found, array)
    assert number == 7
    with pytest.raises(ValueError, match="cannot reshape"):
        decode_record(encode_record(array, 7), (5, 8, 10), channels)


def test_videos_are_read_as_clips(tmp_path, monkeypatch):
    """One record a clip, in any order, as the videos themselves give them."""
    monkeypatch.setattr(preparation, "SHARD", 2 * 3 * 8 * 12 * 3)
    for i, name in enumerate(("a/1.webp", "b/2.webp")):
        (tmp_path / "given" / name).parent.mkdir(parents=True)
        write_clip(tmp_path / "given" / name, RANDOM.integers(0, 256, (7 - 3 * i, 20, 30, 3), np.uint8))
    config, shape = DataConfig(source="video", folder=str(tmp_path / "given")), (3, 8, 12)
    made = prepared(config, tmp_path / "out", shape)
    assert (made.images, made.shape, made.class_counts, len(made.shards)) == (3, shape, (2, 1), 2)
    expected, found = make_source(config, shape), make_source(of_shards(tmp_path / "out"), shape)
    assert_same(found, expected)
    ours, theirs = (next(make_iterator(each, batch_size=3, seed=2, flip=True)) for each in (found, expected))
    np.testing.assert_array_equal(ours["image"], theirs["image"])
    for wrong in ((4, 8, 12), (8, 12)):
        with pytest.raises(InputError, match=r"was prepared with process.shape \(3, 8, 12\), but it is"):
            make_source(of_shards(tmp_path / "out"), wrong)
    with pytest.raises(InputError, match="of 16384 rows of 4 pixels, but a record holds at most 16383 of either"):
        prepare(expected, tmp_path / "other", shape=(64, 256, 4), crop="area", background=WHITE)


def test_damage_is_said(tmp_path, small_shards, caplog):
    out = tmp_path / "out"
    prepared(of_folder(written(tmp_path / "given")), out)
    shard = out / "images-00001-of-00003.array_record"
    whole, labels = shard.read_bytes(), (out / "labels.npy").read_bytes()
    flipped = bytearray(whole)
    flipped[whole.rindex(b"WEBP") + 20] ^= 255
    shard.write_bytes(flipped)
    source = make_source(of_shards(out), SHAPE)
    readable = [source[i] is not None for i in range(11)]
    assert readable.count(False) >= 1 and all(readable[:4]) and all(readable[8:])
    assert f"of '{out}' is left out" in caplog.text
    for damage, message in (
        (
            lambda: shard.write_bytes(whole[:-1]),
            rf"has {len(whole) - 1} bytes, but {len(whole)} were written; copy it again",
        ),
        (lambda: shard.unlink(), "is missing; copy it again"),
    ):
        damage()
        with pytest.raises(InputError, match=message):
            make_source(of_shards(out), SHAPE)
    shard.write_bytes(whole)
    for content, message in ((b"", "cannot be read"), (labels[:-4], "cannot be read")):
        (out / "labels.npy").write_bytes(content)
        with pytest.raises(InputError, match=rf"labels\.npy' {message}"):
            make_source(of_shards(out), SHAPE)
    (out / "labels.npy").write_bytes(labels)
    told = json.loads((out / MANIFEST).read_text())
    for change, message in (
        ({"format": 2}, "is of another version"),
        ({"images": "many"}, r"is damaged \(images is 'many'"),
        ({"channels": None}, r"is damaged \(channels"),
        ({"shards": [{"file": "x"}]}, r"is damaged \('images'\)"),
    ):
        (out / MANIFEST).write_text(json.dumps(told | change))
        with pytest.raises(InputError, match=message):
            read_manifest(out)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (8, 8), r"was prepared with process\.shape \(8, 12\), but it is \(8, 8\); set --config\.process\.shape"),
        ({"background": (0, 0, 0)}, SHAPE, r"with data\.background \(255, 255, 255\), but it is \(0, 0, 0\)"),
        ({"crop": "adm"}, SHAPE, r"with data\.crop area, but it is adm; set --config\.data\.crop=area"),
        ({"channels": 4}, SHAPE, r"data\.channels is 4, but .* was prepared with 3; set it to 3 or 1"),
        ({"classes": ("b", "a")}, SHAPE, "have other classes.*moved: a from 1 to 0"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, settings, shape, message):
    prepared(of_folder(written(tmp_path / "given")), tmp_path / "out")
    with pytest.raises(InputError, match=message):
        make_source(of_shards(tmp_path / "out", **settings), shape)
    grey: Any = make_source(of_shards(tmp_path / "out", channels=1), SHAPE)
    assert grey[0]["image"].shape == (*SHAPE, 1)


def test_many_shards_and_classes_are_read(tmp_path, monkeypatch):
    """More than a config's tuples may have: ImageNet at 256 px has 1,879 shards."""
    monkeypatch.setattr(preparation, "SHARD", 1)
    images, names = np.zeros((1100, 2, 2, 1), np.uint8), tuple(map(str, range(1100)))
    source = ArraySource(images, np.arange(1100), names)
    made = prepare(source, tmp_path / "out", shape=(2, 2), crop="area", background=WHITE)
    assert len(made.shards) == 1100 and made.class_names == names
    assert_same(make_source(of_shards(tmp_path / "out"), (2, 2)), source)


def test_data_without_a_fingerprint_are_prepared_in_one_go(tmp_path):
    source: Any = ArraySource(np.zeros((3, 4, 4, 3), np.uint8))
    source.fingerprint = None
    settings: Any = {"shape": (4, 4), "crop": "area", "background": WHITE}
    assert prepare(source, tmp_path / "out", **settings).source is None
    with pytest.raises(InputError, match="these data have no fingerprint to tell whether they are the same"):
        prepare(source, tmp_path / "out", **settings)


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    config, encode, tried = of_folder(written(tmp_path / "given")), preparation.encode_record, []

    def while_it_prepares(image, label):
        if not tried:
            tried.append(True)
            with pytest.raises(InputError, match="is in use by process"):
                prepared(config, tmp_path / "out")
        return encode(image, label)

    monkeypatch.setattr(preparation, "encode_record", while_it_prepares)
    assert prepared(config, tmp_path / "out").images == 11 and tried
