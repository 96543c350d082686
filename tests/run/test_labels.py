"""Labels that are vectors, through a run: of data of one's own, and of words."""

import logging
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax.data import ArraySource, DataConfig, check_classes, make_source
from ssd_jax.data.preparation import prepare
from ssd_jax.data.words import hashed
from ssd_jax.errors import InputError
from ssd_jax.interop.bundle import write_bundle
from ssd_jax.run.labels import kept_labels
from tests.conftest import tiny_config
from tests.networks import random_trained

SIZE, KEY = 6, jax.random.key(0)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(24, SIZE)).astype(np.float32)


def config(label_size: int = SIZE, name_size: int = 0, **model: Any) -> ssd_jax.Config:
    tiny = tiny_config(steps=2, sample_every=2)
    network = replace(tiny.model, widths=(8,), label_size=label_size, label_dropout=0.1, **model)
    process = replace(tiny.process, num_levels=1)
    return replace(tiny, data=DataConfig(name_size=name_size), process=process, model=network)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two steps on vectors, with a grid."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    given = replace(config(), sample=replace(config().sample, guidance=2.0))
    ssd_jax.train(given, workdir, source=ArraySource(IMAGES, VECTORS))
    return workdir


def test_a_run_is_trained_and_drawn_from(run):
    trained = ssd_jax.load(run)
    known = kept_labels(run, trained.config.model)
    assert known is not None and sorted(map(tuple, known)) == sorted(map(tuple, VECTORS))
    np.testing.assert_array_equal(trained.labels(None, 3, 23), known[[23, 0, 1]])
    drawn = trained.sample(KEY, 2)  # guided
    np.testing.assert_array_equal(drawn, trained.sample(KEY, 2, label=known[:2]))
    assert np.abs(drawn - trained.sample(KEY, 2, label=known[5])).max() > 0
    assert (run / "samples" / "step_0000002.png").exists() and "labels of 6 numbers" in str(trained)
    with pytest.raises(
        InputError, match=r"label is float32 \[2, 4\]|label is float32 \(2, 4\), but labels of the model are"
    ):
        trained.sample(KEY, 2, label=VECTORS[:2, :4])
    for label in (3, "red heart"):
        with pytest.raises(InputError, match=f"label is {label!r}, but labels of the model are vectors"):
            trained.sample(KEY, 2, label=label)
    with pytest.raises(InputError, match="label holds NaN"):
        trained.labels(np.full(SIZE, np.nan), 2)
    with pytest.raises(InputError, match="vectors of 6 numbers, but a bundle takes classes alone"):
        write_bundle(trained, trained.denoiser, trained.plan(), run / "bundle")


def test_damaged_labels_are_named(run, tmp_path):
    model = config().model
    (tmp_path / "labels.npy").write_bytes((run / "labels.npy").read_bytes()[:200])
    with pytest.raises(InputError, match="labels.npy' cannot be read"):
        kept_labels(tmp_path, model)
    np.save(tmp_path / "labels.npy", VECTORS[:, :3])
    with pytest.raises(InputError, match="does not hold vectors of 6 numbers"):
        kept_labels(tmp_path, model)


def test_words_are_hashed_as_the_names_were():
    trained = random_trained(config(name_size=SIZE))
    for label, words in (("red heart", ["red heart"] * 2), (["red heart", "dog"], ["red heart", "dog"])):
        np.testing.assert_array_equal(trained.labels(label, 2), [hashed(text, SIZE) for text in words])
    with pytest.raises(InputError, match="must have words in it"):
        trained.labels("!", 2)
    with pytest.raises(InputError, match="label is missing, but those of the model are vectors"):
        trained.labels(None, 2)
    with pytest.raises(InputError, match=r"label is float32 \(6,\), but must be one int"):
        random_trained(config(0, num_classes=3)).labels(VECTORS[0], 2)


def test_labels_of_data_and_model_must_be_of_one_kind(tmp_path):
    vectors, classes = ArraySource(IMAGES, VECTORS), ArraySource(IMAGES, np.arange(24) % 2, ("a", "b"))
    check_classes(vectors, 0, SIZE)
    check_classes(vectors, 0)
    for source, wanted, message in [
        (
            vectors,
            (0, 4),
            "model.label_size is 4, but the labels of the data are vectors of 6 numbers; set --config.model.la",
        ),
        (vectors, (2, 0), "model.num_classes is 2, but the labels of the data are vectors of 6 numbers"),
        (classes, (0, 6), "model.label_size is 6, but the labels of the data are the numbers of 2 classes"),
        (ArraySource(IMAGES), (0, 6), "but the labels of the data are none"),
        (ArraySource(IMAGES, VECTORS * np.inf), (0, 6), "hold NaN or infinity"),
    ]:
        with pytest.raises(InputError, match=message):
            check_classes(source, *wanted)
    with pytest.raises(
        InputError, match="labels of the data are vectors of 6 numbers, but records hold numbers of classes"
    ):
        prepare(vectors, tmp_path / "out", shape=(8, 8), crop="area", background=(255, 255, 255))
    with pytest.raises(
        InputError, match="data.name_size is 5, but model.label_size is 6 and model.num_classes 0; set --config"
    ):
        config(name_size=5)
    with pytest.raises(InputError, match="data.name_size is 5, but images of data.source 'folder' have no names"):
        DataConfig(source="folder", name_size=5)


def test_emoji_have_their_names_for_labels():
    source = make_source(DataConfig(name_size=32), (8, 8))
    labels = source.labels
    assert labels is not None and labels.shape == (len(source), 32) and not source.class_names
    assert any(np.array_equal(label, hashed("red heart", 32)) for label in labels)


def test_the_matrix_is_taken_over(run, tmp_path, caplog):
    """By a run on vectors of the same size; that they mean something else is said."""
    with caplog.at_level(logging.INFO, "ssd_jax"):
        ssd_jax.train(config(name_size=SIZE), tmp_path / "run", source=ArraySource(IMAGES, VECTORS), init_from=run)
    before, after = (ssd_jax.load(each).network.parameters["embed_label"] for each in (run, tmp_path / "run"))
    assert np.abs(before["linear"]["kernel"] - after["linear"]["kernel"]).max() < 0.1
    assert "data.name_size was 0 there and is 6" in caplog.text
