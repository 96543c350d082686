"""Labels that are vectors, through a run: of data of one's own, and of words."""

import logging
import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.data import ArraySource, DataConfig, check_classes, make_source
from ssd_jax.data.preparation import prepare
from ssd_jax.data.words import hashed
from ssd_jax.errors import InputError
from ssd_jax.interop.bundle import write_bundle
from ssd_jax.run.labels import keep_labels, kept_labels
from ssd_jax.sampling.guidance import classifier_free
from ssd_jax.training.loss import stage_loss
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


@pytest.mark.nightly
def test_a_run_is_trained_and_drawn_from(run):
    trained = ssd_jax.load(run)
    known = kept_labels(run, trained.config.model)
    assert known is not None and sorted(map(tuple, known)) == sorted(map(tuple, VECTORS))
    np.testing.assert_array_equal(trained.labels(None, 3, 23), known[[23, 0, 1]])
    drawn = trained.sample(KEY, 2)  # guided
    np.testing.assert_array_equal(drawn, trained.sample(KEY, 2, label=known[:2]))
    assert np.abs(drawn - trained.sample(KEY, 2, label=known[5])).max() > 0
    assert (run / "samples" / "step_0000002.png").exists() and "labels of 6 numbers" in str(trained)


def test_labels_that_are_no_such_vectors_are_refused(tmp_path):
    trained = random_trained(config())
    trained = replace(trained, experiment=replace(trained.experiment, labels=VECTORS))
    np.testing.assert_array_equal(trained.labels(None, 3, 23), VECTORS[[23, 0, 1]])
    with pytest.raises(InputError, match=r"label is float32 \(2, 4\), but labels of the model are vectors"):
        trained.sample(KEY, 2, label=VECTORS[:2, :4])
    for label in (3, "red heart"):
        with pytest.raises(InputError, match=f"label is {label!r}, but labels of the model are vectors"):
            trained.sample(KEY, 2, label=label)
    with pytest.raises(InputError, match="label holds NaN"):
        trained.labels(np.full(SIZE, np.nan), 2)
    with pytest.raises(InputError, match="vectors of 6 numbers, but a bundle takes classes alone"):
        write_bundle(trained, trained.denoiser, trained.plan(), tmp_path / "bundle")


def test_labels_are_kept_and_damaged_ones_named(tmp_path):
    model = config().model
    assert kept_labels(tmp_path, model) is None
    keep_labels(tmp_path, VECTORS)
    np.testing.assert_array_equal(kept_labels(tmp_path, model), VECTORS)
    (tmp_path / "labels.npy").write_bytes((tmp_path / "labels.npy").read_bytes()[:200])
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
        (vectors, (0, 4), "model.label_size is 4, but the labels of the data are vectors of 6 numbers; set --config"),
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


@pytest.mark.nightly
def test_the_matrix_is_taken_over(run, tmp_path, caplog):
    """By a run on vectors of the same size; that they mean something else is said."""
    with caplog.at_level(logging.INFO, "ssd_jax"):
        ssd_jax.train(config(name_size=SIZE), tmp_path / "run", source=ArraySource(IMAGES, VECTORS), init_from=run)
    before, after = (ssd_jax.load(each).network.parameters["embed_label"] for each in (run, tmp_path / "run"))
    assert np.abs(before["linear"]["kernel"] - after["linear"]["kernel"]).max() < 0.1
    assert "data.name_size was 0 there and is 6" in caplog.text


def told(x, t, label, *, stage, dropout_keys=None):
    """0 where a label is given, 1 where it is not."""
    return jnp.isnan(label).all(1)[:, None, None, None] + jnp.zeros_like(x)


@pytest.mark.parametrize(("training", "share"), [(True, 0.25), (False, 0)])
def test_whole_vectors_are_dropped(training, share):
    process = ssd_jax.make_process(ssd_jax.ProcessConfig(image_size=2, num_levels=1, num_timesteps=20))
    keys, images = jax.random.split(KEY, 2000), jnp.zeros((2000, 2, 2, 1))
    label = jnp.ones((2000, 3))
    loss = partial(stage_loss, told, process, process.stages[0], images, label, keys, "constant")
    found = loss(label_dropout=0.25, null_label=math.nan, training=training)
    assert abs(found - share) < 4 * math.sqrt(0.25 * 0.75 / 2000) * training + 1e-7


def test_guidance_goes_away_from_the_null_vector():
    process = ssd_jax.make_process(ssd_jax.ProcessConfig(image_size=2, num_levels=1, num_timesteps=20))
    guided = classifier_free(told, 3.0, null_label=math.nan)
    z = guided(jnp.zeros((4, 2, 2, 1)), jnp.zeros(4, int), jnp.ones((4, 3)), stage=process.stages[0])
    np.testing.assert_array_equal(z, np.full((4, 2, 2, 1), 1 + 3.0 * (0 - 1)))
