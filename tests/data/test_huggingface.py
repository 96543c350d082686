"""Data sets that the library `datasets` wrote; nothing is downloaded."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_jax.data import DataConfig, make_source
from ssd_jax.errors import InputError

datasets = pytest.importorskip("datasets")
RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 256, (9 + i, 12, 3), np.uint8) for i in range(5)]
LABELS = [2, 0, 1, 1, 2]


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def data(**columns):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    features |= {name: feature for name, (feature, _) in columns.items()}
    values = {"image": IMAGES, "label": LABELS} | {name: each for name, (_, each) in columns.items()}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def source(name: Path | str, **settings) -> Any:
    return make_source(DataConfig(source="huggingface", name=str(name), **settings), (9, 12))


def test_parquet_and_saved_data_sets(tmp_path):
    (tmp_path / "parquet").mkdir()
    data().to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    data().save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data(), "test": data().select([3])}).save_to_disk(tmp_path / "splits")
    for name in ("parquet", "saved", "splits"):
        found = source(tmp_path / name)
        assert len(found) == 5 and found.class_names == ("ant", "bee", "cat") and found.channels == 3
        np.testing.assert_array_equal(found.labels, LABELS)
        np.testing.assert_array_equal(found[0]["image"], IMAGES[0])
        assert [int(found[i]["label"]) for i in range(5)] == LABELS and found[4]["image"].shape == (9, 12, 3)
    assert len(source(tmp_path / "splits", split="test")) == 1
    assert found.fingerprint != source(tmp_path / "splits", split="test").fingerprint


def test_what_cannot_be_read_is_left_out(tmp_path, caplog):
    data(label=(datasets.ClassLabel(names=["ant", "bee", "cat"]), [0, None, 1, 2, 0])).save_to_disk(tmp_path / "unlabelled")
    np.testing.assert_array_equal(source(tmp_path / "unlabelled").labels, [0, -1, 1, 2, 0])
    values = {"image": [{"bytes": b"\x89PNG", "path": None}, None]}
    datasets.Dataset.from_dict(values, features=datasets.Features({"image": datasets.Image()})).save_to_disk(tmp_path / "x")
    found = source(tmp_path / "x")
    assert found[0] is None and found[1] is None and found.class_names == ()
    for i in range(2):  # of a folder of images `datasets` keeps the paths alone
        (tmp_path / "folder" / "ab"[i]).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "folder" / "ab"[i] / "x.png"), IMAGES[i])
    found = source(tmp_path / "folder")
    (tmp_path / "folder" / "a" / "x.png").unlink()
    assert found[0] is None and found[1] is not None and found.class_names == ("a", "b")
    for reason in ("it is corrupt or truncated", "it cannot be read: No such file", "it is empty"):
        assert f"is left out: {reason}" in caplog.text


def test_what_cannot_be_opened_is_said(tmp_path):
    data().save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data()}).save_to_disk(tmp_path / "splits")
    data(coarse=(datasets.ClassLabel(names=["x", "y"]), [0] * 5)).rename_column("label", "fine").save_to_disk(
        tmp_path / "two"
    )
    data().remove_columns("image").save_to_disk(tmp_path / "none")
    for name, split, message in (
        (tmp_path / "nowhere", "train", r"split 'train', cannot be opened \("),
        (tmp_path / "splits", "tset", r"split 'tset', cannot be opened \("),
        (tmp_path / "one", "test", "cannot be opened .it is of one split, train; set --config.data.split=train"),
        (tmp_path / "two", "train", "has several columns of ClassLabel: fine, coarse; rename the one to use to 'label'"),
        (tmp_path / "none", "train", "has no column of images, only: label"),
    ):
        with pytest.raises(InputError, match=message) as error:
            source(name, split=split)
        assert "\n" not in str(error.value)
