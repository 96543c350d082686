"""The numbers of classes are part of a model: they never change their meaning without a word."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import ssd_jax
from ssd_jax.build import build
from ssd_jax.config import config_from_json, config_json, from_config_dict, to_config_dict
from ssd_jax.data.arrays import ArraySource, balanced
from ssd_jax.data.classes import check_classes
from ssd_jax.data.sources import DataConfig, make_source, python_source, recorded
from ssd_jax.errors import InputError
from ssd_jax.run.trained import Trained
from ssd_jax.run.workdir import claim_workdir, load_config, load_data
from tests.conftest import tiny_config

NAMES = ("ant", "bee", "cat")


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((8, 8), np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "data", *(f"{name}/{i}.png" for name in NAMES for i in range(2)))
    return tmp_path / "data"


def source(folder: Path, **settings):
    return make_source(DataConfig(source="folder", folder=str(folder), channels=1, **settings), (8, 8))


def labelled(folder: Path | None, num_classes: int = 3, **data) -> ssd_jax.Config:
    config = tiny_config(folder)
    return replace(config, model=replace(config.model, num_classes=num_classes), data=replace(config.data, **data))


def named(classes: tuple[str, ...] | None, num_classes: int) -> Trained:
    experiment = build(labelled(None, num_classes, classes=classes))
    return Trained(experiment, experiment.denoiser(experiment.abstract_parameters), 0)


def test_a_split_file_leaves_numbers_alone(folder, tmp_path, caplog):
    (tmp_path / "split.txt").write_text("cat/1.png\nant/0.png")
    found = source(folder, split_file=str(tmp_path / "split.txt"))
    assert found.class_names == NAMES and found.labels is not None and found.labels.tolist() == [2, 0]
    (record,) = caplog.records
    assert "classes without an image in data.split_file: bee" in record.getMessage()


def test_doubtful_folders_are_named(folder, caplog):
    write(folder, "stray.png", "Bee/1.png")
    (folder / "dog").mkdir()
    found = source(folder)
    assert found.class_names == ("Bee", *NAMES)
    assert found.labels is not None and found.labels[-1] == -1 and found.labels[0] == 0
    told = " ".join(record.getMessage() for record in caplog.records)
    for part in ("no classes: dog", "in no class: stray.png", "alone: Bee, bee"):
        assert part in told
    check_classes(found, 0)
    for refused in (lambda: check_classes(found, 4), lambda: balanced(found)):
        with pytest.raises(InputError, match="1 of 8 images of the data are in no class.*move them"):
            refused()


def test_a_folder_without_classes_has_label_0(tmp_path):
    write(tmp_path, "0.png", "1.png")
    found = source(tmp_path)
    assert found.labels is not None and found.labels.tolist() == [0, 0] and found.class_names == ()


def test_the_number_of_classes_must_be_the_models(folder):
    for wrong in (2, 4):
        message = rf"labels 0\.\.2 \(ant, bee, cat\), but model.num_classes is {wrong}; set --config.model.num_classes=3"
        with pytest.raises(InputError, match=message):
            check_classes(source(folder), wrong)
    check_classes(source(folder), 3)


def test_splits_are_no_classes(tmp_path, caplog):
    write(tmp_path, "train/a/0.png", "VAL/a/0.png")
    with pytest.raises(InputError, match=r"VAL, train, which are splits .*; set --config.data.folder to one of these"):
        check_classes(source(tmp_path), 2)
    assert not caplog.records
    check_classes(source(tmp_path), 0)
    assert "VAL, train, which are splits" in caplog.records[0].getMessage()
    write(tmp_path, "whale/0.png")
    check_classes(source(tmp_path), 3)


def test_labels_of_ones_own_sources_are_checked():
    images, labels = np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1])
    with pytest.raises(InputError, match="the data names x more than once"):
        check_classes(ArraySource(images, labels, ("x", "x")), 2)

    class Unlabelled:
        """As a split of TFDS without labels: they are not known beforehand, and wrong."""

        channels, class_names, labels = 1, ("x", "y"), None

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"image": images[0], "label": np.int32(-1)}

    with pytest.raises(InputError, match="with labels such as -1"):
        check_classes(Unlabelled(), 2)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (("ant", "bee", "cat", "dog"), r"\(gone: dog\)"),
        (("ant", "cat"), r"\(new: bee; moved: cat from 1 to 2\)"),
        (("ant", "bee", "Cat"), r"\(new: cat; gone: Cat\)"),
        (("cat", "bee", "ant"), r"\(moved: ant from 2 to 0, cat from 0 to 2\)"),
        ((), "new: ant, bee, cat"),
    ],
)
def test_other_classes_are_refused_by_name(folder, before, message):
    for make in (
        lambda: source(folder, classes=before),
        lambda: source(folder, classes=before, balance=True),
        lambda: python_source(
            ArraySource(np.zeros((3, 8, 8, 1), np.uint8), np.arange(3), NAMES), DataConfig(classes=before), (8, 8)
        ),
    ):
        with pytest.raises(InputError, match=f"other classes than data.classes.*{message}.*restore them, or train anew"):
            make()


def test_names_are_compared_as_they_are_read(tmp_path):
    """File systems write accents in one of two ways."""
    write(tmp_path, "caf\u00e9/0.png")
    assert source(tmp_path, classes=("cafe\u0301",)).class_names == ("caf\u00e9",)


def test_a_run_keeps_and_compares_names(folder, tmp_path, caplog):
    config, workdir = labelled(folder), tmp_path / "run"
    kept = recorded(config.data, source(folder), labelled=True)
    assert kept.classes == NAMES and recorded(config.data, source(folder), labelled=False).classes is None
    claim_workdir(workdir, replace(config, data=kept))
    (workdir / "checkpoints" / "1" / "ema").mkdir(parents=True)
    assert load_config(workdir).data.classes == NAMES
    assert load_data(workdir, config.data) == kept
    (folder / "bee").rename(folder / "bumblebee")
    with pytest.raises(InputError, match="new: bumblebee; gone: bee"):
        ssd_jax.train(config, workdir)
    with pytest.raises(InputError, match="new: bumblebee; gone: bee"):  # as evaluation, and sampling from data, read it
        make_source(load_config(workdir).data, (8, 8))
    given = replace(config.data, classes=("ant", "bumblebee", "cat"))
    with pytest.raises(InputError, match=r"run with data.classes = .*, but this config says"):
        claim_workdir(workdir, replace(config, data=replace(given, channels=1)))
    assert not caplog.records


def test_runs_without_names_go_on(folder, tmp_path, caplog):
    config = labelled(folder)
    for name, num_classes in (("old", 3), ("plain", 0)):
        run = replace(config, model=replace(config.model, num_classes=num_classes), data=replace(config.data, channels=1))
        plain = json.loads(config_json(run))
        del plain["data"]["classes"]
        (tmp_path / name / "checkpoints" / "1" / "ema").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(plain))
        data = load_data(tmp_path / name, config.data)
        assert data.classes is None
        run = replace(run, data=recorded(data, source(folder), labelled=num_classes > 0))
        claim_workdir(tmp_path / name, run)
        assert load_config(tmp_path / name).data.classes == (NAMES if num_classes else None)
    (record,) = caplog.records
    assert "old keeps no names of classes" in record.getMessage()


def test_names_in_configs():
    config: Any = to_config_dict(ssd_jax.Config())
    with config.unlocked():
        config.data.classes = ("a", "b")
    assert from_config_dict(config).data.classes == ("a", "b")
    assert config_from_json(config_json(from_config_dict(config))).data.classes == ("a", "b")
    assert config_from_json(config_json(ssd_jax.Config())).data.classes is None
    with pytest.raises(InputError, match="data.classes names a more than once"):
        DataConfig(classes=("a", "a"))
    with pytest.raises(InputError, match="data.classes"):
        from_config_dict({"data": {"classes": "ab"}})


def test_classes_are_asked_for_by_name_or_number():
    trained = named(("food", "1", "caf\u00e9"), 3)
    for label, number in {"food": 0, "1": 1, 1: 1, "2": 2, "cafe\u0301": 2}.items():
        found = trained.labels(label, 2)
        assert found is not None and found.tolist() == [number, number]
    found = trained.labels(["caf\u00e9", "food"], 2)
    assert found is not None and found.tolist() == [2, 0]
    for label in ("foot", "3", "-1", "", "\u0661", "9" * 500):
        with pytest.raises(InputError, match="must be one of the classes food, 1, café, or a number in 0..2"):
            trained.labels(label, 2)
    with pytest.raises(InputError, match=r"must be one of the classes 0, 1, .* and 992 more, or a number in 0\.\.999"):
        named(tuple(map(str, range(1000))), 1000).labels("food", 1)
    with pytest.raises(InputError, match="'food', but must be a number \\(the run keeps no names of classes\\)"):
        named(None, 3).labels("food", 1)


def test_a_model_lists_its_classes():
    assert "3 classes: ant, bee, cat\n" in repr(named(NAMES, 3))
    assert "1000 classes: 0, 1, 2, 3, 4, 5, 6, 7 and 992 more\n" in repr(named(tuple(map(str, range(1000))), 1000))
    assert "0 classes\n" in repr(named(None, 0))
