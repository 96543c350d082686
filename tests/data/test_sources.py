import logging
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from ssd_jax.data import ArraySource, DataConfig, check_classes, image_batches, make_iterator, make_source
from ssd_jax.data.arrays import SelectedSource
from ssd_jax.data.folder import FolderSource
from ssd_jax.data.openmoji import openmoji_names
from ssd_jax.data.openmoji_classes import CLASSES, class_of
from ssd_jax.data.protocol import ReadableSource
from ssd_jax.data.sources import make_split
from ssd_jax.data.tfds import TfdsSource
from ssd_jax.errors import InputError


def read(source, indices) -> list[dict[str, np.ndarray]]:
    return [source[i] for i in indices]


@pytest.fixture
def folder(tmp_path):
    """Six images of three formats, two classes, several sizes; image i is flat with grey level 10 i."""
    for i, name in enumerate(["a/0.png", "a/1.jpg", "a/2.webp", "b/3.PNG", "b/4.jpeg", "b/deep/5.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20 + i, 30 - i, 3), 10 * i, np.uint8))
    return tmp_path


def test_folder(folder):
    source = make_source(DataConfig(source="folder", folder=str(folder)), (8, 8))
    assert len(source) == 6 and source.class_names == ("a", "b") and source.channels == 3
    items = read(source, range(6))
    assert all(item["image"].shape == (8, 8, 3) and item["image"].dtype == np.uint8 for item in items)
    assert [int(item["label"]) for item in items] == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose([item["image"].mean() for item in items], np.arange(6) * 10, atol=2)


def test_sources_have_fingerprints(folder):
    """By which statistics of their images are kept: of the images, the split file and how often each comes."""
    split, images = folder / "split.txt", np.zeros((3, 8, 8, 1), np.uint8)
    config = DataConfig(source="folder", folder=str(folder))

    def of(**settings) -> str:
        source = make_source(replace(config, **settings), (8, 8))
        assert isinstance(source, FolderSource | SelectedSource) and source.fingerprint
        return source.fingerprint

    split.write_text("a/0.png\nb/3.PNG")
    assert of() == of()
    found = [of(), of(split_file=str(split)), of(split_file=str(split), balance=True)]
    split.write_text("b/3.PNG\na/0.png")
    found += [of(split_file=str(split))]
    cv2.imwrite(str(folder / "a" / "0.png"), np.zeros((9, 9, 3), np.uint8))
    found += [of(), ArraySource(images).fingerprint, ArraySource(images + 1).fingerprint]
    assert len(set(found)) == len(found)
    with tfds.testing.mock_data(num_examples=5):
        names = [TfdsSource("mnist", split, (8, 8)).fingerprint for split in ("train", "test")]
    assert "3.0.1 train" in names[0] and names[0] != names[1]


def test_sources_must_be_named():
    for source in ("folder", "tfds"):
        with pytest.raises(InputError, match=r"must be set.*--config\.data\."):
            make_source(DataConfig(source=source), (8, 8))


def test_images_are_cropped_in_the_centre_and_in_rgb(tmp_path):
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = (0, 0, 255)  # BGR: red in the middle third
    cv2.imwrite(str(tmp_path / "x.png"), picture)
    (item,) = read(FolderSource(str(tmp_path), (5, 5)), [0])
    np.testing.assert_array_equal(item["image"], np.full((5, 5, 3), (255, 0, 0)))


def test_split_file(folder):
    split = folder / "split.txt"
    split.write_text("b/3.PNG\n\na/1.jpg\n")
    assert len(FolderSource(str(folder), (8, 8), str(split))) == 2
    split.write_text("a/1.jpg\nmissing.png\n")
    with pytest.raises(InputError, match=r"1 missing file.*missing\.png"):
        FolderSource(str(folder), (8, 8), str(split))
    with pytest.raises(InputError, match="cannot be read as text: No such file"):
        FolderSource(str(folder), (8, 8), str(folder / "nowhere.txt"))


def test_lines_of_a_split_file(folder):
    """Relative or absolute, in any of the folder's names; classes keep their numbers."""
    split, link = folder / "split.txt", folder.parent / "link"
    link.symlink_to(folder)
    split.write_bytes(f"\ufeff./b/3.PNG\r\n{folder}/b/4.jpeg\r\n{link.parent}/link/b/../b/deep/5.png".encode())
    source = FolderSource(str(link), (8, 8), str(split))
    items = [item for item in read(source, range(3)) if item is not None]
    assert [int(item["label"]) for item in items] == [1, 1, 1] and source.class_names == ("a", "b")
    assert [round(float(item["image"].mean()), -1) for item in items] == [30, 40, 50]
    for lines, message in {
        "../x.png\na/0.png": r"1 path\(s\) outside the folder, the first '\.\./x\.png'",
        f"{folder.parent}/x.png": r"outside the folder, the first '/.*x\.png'",
        "a/0.png\n./a/0.png": r"1 path\(s\) more than once, the first 'a/0\.png'",
        "a/split.txt": "missing",
        "\n \n": "is empty",
    }.items():
        split.write_text(lines)
        with pytest.raises(InputError, match=message):
            FolderSource(str(folder), (8, 8), str(split))


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        FolderSource(str(tmp_path / "nowhere"), (8, 8))
    (tmp_path / "text.txt").write_text("no image")
    with pytest.raises(InputError, match="holds no image"):
        FolderSource(str(tmp_path), (8, 8))


def test_corrupt_images_are_named_counted_and_skipped(folder, caplog):
    (folder / "a" / "broken.png").write_bytes(b"not an image")
    (folder / "b" / "cut.png").write_bytes((folder / "a" / "0.png").read_bytes()[:40])
    source = FolderSource(str(folder), (8, 8))
    iterator = make_iterator(source, batch_size=4, seed=0, flip=False)
    (folder / "a" / "away.png").symlink_to(folder / "nowhere.png")
    assert FolderSource(str(folder), (8, 8)).channels == 3  # judged by what can be read
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        batches = [next(iterator) for _ in range(20)]
    assert {round(float(image.mean()), -1) for batch in batches for image in batch["image"]} == {0, 10, 20, 30, 40, 50}
    messages = [record.getMessage() for record in caplog.records if record.name == "ssd_jax.data.encoded"]
    assert len(messages) == 4  # of two sources
    assert any("broken.png' is left out: it is of an unknown format" in m for m in messages)
    assert any("cut.png' is left out: it is corrupt or truncated" in m for m in messages) and "(2 so far)" in messages[1]
    assert next(image_batches(source)).shape == (6, 8, 8, 3)


def test_an_unreadable_image_is_replaced_by_the_next(folder):
    """Whatever was read before, and by whichever process: all others stay where they are in the order."""

    def batches() -> np.ndarray:
        iterator = make_iterator(FolderSource(str(folder), (8, 8)), batch_size=3, seed=0, flip=True)
        return np.concatenate([next(iterator)["image"].mean((1, 2, 3)) for _ in range(8)]).round(-1)

    before = batches()
    (folder / "a" / "2.webp").write_bytes(b"")
    (folder / "b" / "3.PNG").write_bytes(b"")
    np.testing.assert_array_equal(batches(), np.where((before == 20) | (before == 30), 40, before))
    (folder / "b" / "deep" / "5.png").write_bytes(b"")
    np.testing.assert_array_equal(batches() == 0, (before == 0) | (before == 50))
    item = ReadableSource(FolderSource(str(folder), (8, 8)))[5]
    assert item["label"] == 0  # that of the image


def test_a_folder_of_corrupt_images_is_an_error(tmp_path):
    for name in ("x.png", "y.jpg"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of 2 images of the data can be read"):
        next(make_iterator(FolderSource(str(tmp_path), (8, 8)), batch_size=1, seed=0, flip=False))


@pytest.mark.smoke
def test_iterator_shuffles_repeats_and_resumes(folder):
    source = FolderSource(str(folder), (8, 8))

    def make(seed=1):
        return make_iterator(source, batch_size=4, seed=seed, flip=True)

    whole, again = make(), make()
    first = [next(whole) for _ in range(3)]
    means = np.concatenate([batch["image"].mean((1, 2, 3)) for batch in first]).round(-1)
    assert sorted(means[:6]) == [0, 10, 20, 30, 40, 50]
    np.testing.assert_array_equal(next(again)["image"], first[0]["image"])
    assert any(not np.array_equal(next(make(seed))["image"], first[0]["image"]) for seed in (2, 3))
    state, rest = whole.get_state(), [next(whole) for _ in range(3)]
    resumed = make()
    resumed.set_state(state)
    for batch in rest:
        np.testing.assert_array_equal(next(resumed)["image"], batch["image"])


@pytest.mark.smoke
def test_the_number_of_processes_may_change(folder, monkeypatch):
    """Over 1 -> 2 -> 1 processes the batches of all together are those of one, flips and unreadable images included."""
    (folder / "a" / "2.webp").write_bytes(b"")
    source = FolderSource(str(folder), (8, 8))

    def batches(processes: int, state: dict | None, count: int) -> tuple[list[np.ndarray], dict]:
        """Batches of 4, each as its images lie in the whole order, and the state after them."""
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        shares, states = [], []
        for process in range(processes):
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            iterator = make_iterator(source, batch_size=4, seed=1, flip=True)
            if state is not None:
                iterator.set_state(state)
            shares.append([next(iterator)["image"] for _ in range(count)])
            states.append(iterator.get_state())
        assert all(each == states[0] for each in states)
        return [np.stack(parts, 1).reshape(4, 8, 8, 3) for parts in zip(*shares, strict=True)], states[0]

    whole, end = batches(1, None, 9)
    first, state = batches(1, None, 3)
    second, state = batches(2, state, 3)
    third, state = batches(1, state, 3)
    np.testing.assert_array_equal(np.array([*first, *second, *third]), np.array(whole))
    assert state == end == {"next_index": 36}
    larger = make_iterator(source, batch_size=6, seed=1, flip=True)  # and so may the size of a batch
    larger.set_state({"next_index": 8})
    images = np.concatenate([next(larger)["image"] for _ in range(3)])
    np.testing.assert_array_equal(images, np.concatenate(whole)[8:26])
    assert larger.get_state() == {"next_index": 26}


def test_flip(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.repeat(np.arange(8, dtype=np.uint8) * 30, 3).reshape(1, 8, 3).repeat(8, 0))
    source = FolderSource(str(tmp_path), (8, 8))
    flipped = [
        bool(next(it)["image"][0, 0, 0, 0] > 100) for it in [make_iterator(source, batch_size=1, seed=0, flip=True)] * 40
    ]
    assert 8 < sum(flipped) < 32


def test_openmoji():
    source = make_source(DataConfig(), (16, 16))
    assert len(source) > 2000 and len(source.class_names) == 8
    sheet = np.stack([item["image"] for item in read(source, range(0, len(source), 50))])
    assert sheet.shape[1:] == (16, 16, 3) and sheet.dtype == np.uint8
    assert (sheet[:, 0, 0] == 255).all()  # on white
    assert sheet.reshape(len(sheet), -1).std(axis=1).min() > 5  # none is blank


def test_openmoji_classes():
    names = {"1F600": "faces", "1F1E9-1F1EA": "flags", "1F3F4-200D-2620-FE0F": "flags", "1F431": "nature", "1F355": "food"}
    names |= {"1F9D1-200D-1F692": "people", "1F680": "places", "1F4A1": "objects", "E040": "symbols", "2764": "symbols"}
    assert {name: CLASSES[class_of(int(name.split("-")[0], 16))] for name in names} == names
    source = make_source(DataConfig(), (16, 16))
    assert source.labels is not None and np.bincount(source.labels).min() > 100
    at = openmoji_names().index("1F600")
    (item,) = read(source, [at])
    assert item["label"] == source.labels[at] == 0


def test_balance(folder):
    (folder / "a" / "9.png").write_bytes((folder / "a" / "0.png").read_bytes())
    source = make_source(DataConfig(source="folder", folder=str(folder), balance=True), (8, 8))
    assert len(source) == 8 and len(source.class_names) == 2
    items = read(source, range(8))
    assert [int(item["label"]) for item in items] == [0] * 4 + [1] * 4
    assert {round(float(item["image"].mean()), -1) for item in items} == {0, 10, 20, 30, 40, 50}
    with pytest.raises(InputError, match=r"data\.balance"), tfds.testing.mock_data(num_examples=5):
        make_source(DataConfig(source="tfds", name="mnist", balance=True), (8, 8))


def test_held_out_images_are_not_trained_on():
    """Sorted classes all give their share; balancing repeats none of them; which they are depends on their number alone."""
    images, labels = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 1), np.uint8), np.arange(40) // 30
    config, whole = DataConfig(holdout=8, balance=True), ArraySource(images, labels, ("many", "few"))
    training, held_out = make_split(config, (8, 8), whole)
    assert held_out is not None and held_out.labels is not None and training.labels is not None
    trained, held = ([int(item["image"].max()) for item in read(each, range(len(each)))] for each in (training, held_out))
    assert len(held) == len(set(held)) == 8 and held_out.labels.tolist() == [0] * 6 + [1] * 2
    assert set(trained) == set(range(40)) - set(held) and np.bincount(training.labels).tolist() == [24, 24]
    found = [whole, *make_split(replace(config, balance=False), (8, 8), whole), training]
    assert len({each.fingerprint for each in found}) == 4
    assert make_split(DataConfig(), (8, 8), whole) == (whole, None)
    with pytest.raises(InputError, match="data.holdout is 40, but the data have 40 images; hold out fewer"):
        make_split(replace(config, holdout=40), (8, 8), whole)


def test_tfds():
    with tfds.testing.mock_data(num_examples=5):
        source = make_source(DataConfig(source="tfds", name="mnist"), (8, 8))
        assert len(source) == 5 and len(source.class_names) == 10
        (item,) = read(source, [0])
        assert item["image"].shape == (8, 8, 1) and source.channels == 1 and 0 <= item["label"] < 10
        (rgb,) = read(make_source(DataConfig(source="tfds", name="mnist", channels=3), (8, 8)), [0])
        assert rgb["image"].shape == (8, 8, 3)
        with pytest.raises(InputError, match="data.channels is 4, but the images of TFDS data set 'mnist' have 1"):
            make_source(DataConfig(source="tfds", name="mnist", channels=4), (8, 8))
    with pytest.raises(InputError, match="tfds build"):
        make_source(DataConfig(source="tfds", name="mnist"), (8, 8))
    with pytest.raises(InputError, match="tfds build"):
        make_source(DataConfig(source="tfds", name="no_such_set"), (8, 8))


def test_labels_must_fit_the_network(folder):
    source = FolderSource(str(folder), (8, 8))
    check_classes(source, 2)
    check_classes(source, 0)
    with pytest.raises(InputError, match=r"labels 0\.\.1 \(a, b\), but model.num_classes is 1"):
        check_classes(source, 1)
    source.class_names = ()
    with pytest.raises(InputError, match="no labels"):
        check_classes(source, 2)
