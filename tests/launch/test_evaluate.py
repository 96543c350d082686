"""What `launch.evaluate` compares, and what it refuses before anything is drawn; and bits per dimension of a run."""

import json

import numpy as np
import pytest

from launch.common import folders
from launch.evaluate import open_reference
from ssd_jax.config import Config, DataConfig, ProcessConfig
from ssd_jax.data.encoding import PixelEncoding
from ssd_jax.data.protocol import ReadableSource
from ssd_jax.data.sources import make_split
from ssd_jax.errors import InputError
from ssd_jax.files.images import write_npz, write_png
from ssd_jax.metrics import (
    FeatureSet,
    evaluate,
    left_out,
    low_pass_pixels,
    measure,
    measure_reference,
    moments,
    save_statistics,
)
from ssd_jax.metrics.statistics import Statistics
from tests.commands import launch
from tests.documents import write_fresh
from tests.memory import at_most
from tests.pixels import PixelsConfig

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
SETS = [low_pass_pixels()]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    for i, image in enumerate(IMAGES):
        write_png(tmp_path / "images" / f"{i:06d}.png", image)
    return tmp_path / "images"


def opened(given, shape=(8, 8)):
    return open_reference(str(given), None, SETS, shape)


def test_sample_batches_are_images(folder, tmp_path):
    """ADM's (arr_0, perhaps with labels) and `launch.sample`'s (images) are what their images in a folder are."""
    np.savez(tmp_path / "adm.npz", IMAGES, np.zeros(12, np.int64))
    write_npz(tmp_path / "ours.npz", IMAGES, IMAGES.shape)
    expected = opened(folder).measure((255, 255, 255)).measured["low_pass"].features["pool"]
    for name in ("adm.npz", "ours.npz"):
        images = folders.open_images(tmp_path / name)
        assert (images.count, images.shape) == (12, (8, 8))
        np.testing.assert_array_equal(np.concatenate(list(images.batches())), IMAGES)
        found = opened(tmp_path / name)
        assert found.count == 12
        np.testing.assert_array_equal(found.measure((255, 255, 255)).measured["low_pass"].features["pool"], expected)


def test_sample_batches_are_read_within_little_memory(tmp_path):
    path = tmp_path / "large.npz"
    np.savez_compressed(path, np.zeros((400, 256, 256, 3), np.uint8))
    with at_most(48 << 20):
        assert sum(map(len, folders.open_images(path).batches())) == 400


def test_statistics_beside_images_are_statistics(tmp_path):
    """As in ADM's reference batches."""
    found = measure(SETS[0], iter([IMAGES])).statistics
    save_statistics(tmp_path / "ours.npz", found)
    with np.load(tmp_path / "ours.npz") as file:
        np.savez(tmp_path / "both.npz", IMAGES, **dict(file))
    found = opened(tmp_path / "both.npz")
    assert found.count is None and found.measure((255, 255, 255)).batches is None


def refused(given, *parts, shape=(8, 8)):
    with pytest.raises(InputError) as error:
        opened(given, shape)
    message = str(error.value)
    assert all(part in message for part in parts) and "\n" not in message, message


def test_what_cannot_be_compared_is_refused(folder, tmp_path):
    refused(folder, "000000.png is 8x8 pixels, but the images are 16x16; crop or resize it to 16x16", shape=(16, 16))
    write_png(folder / "odd.png", np.zeros((8, 9, 3), np.uint8))
    refused(folder, "odd.png is 9x8 pixels", "crop or resize it to 8x8")
    (folder / "odd.png").write_bytes(b"text")
    refused(folder, "odd.png is no image")
    np.savez(tmp_path / "floats.npz", IMAGES / 255)
    refused(tmp_path / "floats.npz", "arr_0 (float64 [12, 8, 8, 3])", "uint8 [n, h, w, 1, 3 or 4]")
    np.savez(tmp_path / "large.npz", IMAGES.repeat(2, axis=1))
    refused(tmp_path / "large.npz", "is 8x16 pixels, but the images are 8x8")
    np.savez(tmp_path / "none.npz", IMAGES[:0])
    refused(tmp_path / "none.npz", "holds no image")
    save_statistics(tmp_path / "other.npz", Statistics("low_pass", None, {"pool": moments(np.eye(5))}))
    refused(tmp_path / "other.npz", "statistics of 5 'pool' features, but low_pass has 192")
    save_statistics(tmp_path / "other.npz", Statistics("mine", None, {"pool": moments(np.eye(5))}))
    refused(tmp_path / "other.npz", "'mine' features, but there are only low_pass here")


@pytest.mark.parametrize("name", ["./nothing", "~/x", "x.npz", "/nowhere/at/all", "a b"])
def test_missing_files_are_not_taken_for_data_sets(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(name, f"--reference {name!r} is no file and no folder; give one that exists")


def test_images_of_another_size_in_a_folder_of_samples_are_named(folder):
    encoding = PixelEncoding((8, 8), 3)
    folders.check_sizes(folder, 20, encoding)
    (folder / "000003.png").write_bytes(b"half")
    write_png(folder / "000005.png", np.zeros((16, 16, 3), np.uint8))
    folders.check_sizes(folder, 5, encoding)
    with pytest.raises(InputError, match="000005.png is 16x16 pixels, but the images drawn are 8x8"):
        folders.check_sizes(folder, 20, encoding)


def test_folders_of_samples_say_which_model_drew(tmp_path):
    record = {"model": "a", "step": 3, "weights": "b", "eta": None}
    folders.claim(tmp_path / "a", record)
    folders.claim(tmp_path / "a", record)
    with pytest.raises(InputError, match="their weights is 'b', not 'c'"):
        folders.claim(tmp_path / "a", record | {"weights": "c"})
    for text, message in (
        (json.dumps({"workdir": "/some/where", "step": 3}), "older version"),
        ("[1]", "older version"),
        ("[" * 10**5, "nested too deep"),
    ):
        (tmp_path / "a" / "samples.json").write_text(text)
        with pytest.raises(InputError, match=message) as error:
            folders.claim(tmp_path / "a", record)
        assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("in the way")
    for taken in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot be written to: .*file' is no folder"):
            folders.claim(taken, record)


def test_metrics_that_need_more_images_are_left_out():
    """Each alone; none fails for want of images, and the other metrics are the same."""

    def features(images):
        flat = images.astype(np.float32).reshape(len(images), -1)
        return {"pool": flat[:, :3], "probabilities": flat[:, :4] / flat[:, :4].sum(1, keepdims=True)}

    sets = [FeatureSet("both", features)]
    for ours, theirs in ((2, 2), (2, 12), (4, 3), (9, 12), (12, 12)):
        batches = [lambda n=n: iter([IMAGES[:n]]) for n in (ours, theirs)]
        reference = measure_reference(sets, batches[1], data=f"{theirs}", shape=(8, 8))
        found = evaluate(sets, batches[0], reference)
        missing = left_out(ours, theirs)
        names = {*found["both"], *({"spectrum"} & found.keys())} - {"kernel_std", "inception_score_std"}
        assert names.isdisjoint(missing) and names | set(missing) == set(left_out(0, 0)) - {"frechet_spatial", "temporal"}
    assert "inception_score" in left_out(9, None) and "inception_score" not in left_out(10, 2)
    alike = measure_reference(sets, lambda: iter([IMAGES[:1].repeat(12, axis=0)]), data="alike", shape=(8, 8))
    found = evaluate(sets, lambda: iter([IMAGES]), alike)["both"]
    assert {"precision", "recall", "near_share"}.isdisjoint(found) and {"frechet", "kernel"} <= set(found)


@pytest.mark.nightly
def test_bits_of_images_that_a_run_has_not_seen(tmp_path):
    """The parts make up the total, the last batch is not filled up, and the same images from a folder need as many."""
    process = ProcessConfig(image_size=8, num_levels=2, num_timesteps=20)
    for name, holdout in (("run", 6), ("none", 0)):
        write_fresh(tmp_path / name, Config(DataConfig(channels=3, holdout=holdout), process, PixelsConfig()))
    holdout = make_split(DataConfig(holdout=6), (8, 8)).holdout
    assert holdout is not None
    source = ReadableSource(holdout)
    (tmp_path / "images").mkdir()
    for i in range(6):
        write_png(tmp_path / "images" / f"{i}.png", source[i]["image"])
    evaluate = ["launch.evaluate", f"--workdir={tmp_path}/run", "--import=tests.pixels", "--batch=4"]
    for more in ([], [f"--reference={tmp_path}/images"]):
        result = launch(*evaluate, "--bound", "--likelihood", "--num_steps=10", *more)
        assert result.returncode == 0 and "up1to0" in result.stdout, result.stderr
    first, second = map(json.loads, (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines())
    assert first["num"] == 6 and first["results"] == second["results"]
    for each in first["results"].values():
        parts = [value for part, value in each.items() if part not in ("total", "standard error")]
        assert abs(sum(parts) - each["total"]) < 1e-6 * abs(each["total"])
    for given, message in (
        (["--bound", "--solver=ddim"], "draws no noise"),
        (["--likelihood", "--solver=ancestral"], 'take solver "ddim"'),
        (["--bound", f"--samples={tmp_path}"], "leave --samples out"),
        (["--bound", f"--workdir={tmp_path}/none"], "the run held no images out"),
    ):
        result = launch(*evaluate, *given)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") < 3, result.stderr
    assert len((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()) == 2
