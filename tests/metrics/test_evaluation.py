"""All metrics of one set of images at once."""

import numpy as np
import pytest

from ssd_jax.data import sources as data_sources
from ssd_jax.data.arrays import ArraySource
from ssd_jax.data.protocol import Source
from ssd_jax.data.sources import DataConfig
from ssd_jax.errors import InputError
from ssd_jax.files.channels import shown
from ssd_jax.metrics import (
    FeatureSet,
    Measured,
    Reference,
    evaluate,
    evaluation,
    low_pass_pixels,
    measure,
    random_convolutions,
)
from ssd_jax.metrics.evaluation import data_reference, measure_reference

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), np.uint8)
PIXELS = low_pass_pixels()


def batches(images: np.ndarray):
    return lambda: iter(np.split(images, 3))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.smoke
def test_images_against_themselves(cache):
    reference = measure_reference([PIXELS], batches(IMAGES), data="noise", shape=(4, 4))
    results = evaluate([PIXELS], batches(IMAGES), reference)
    found, spectrum = results["low_pass"], results["spectrum"]
    assert abs(found["frechet_relative"]) < 1e-6 and found["precision"] == found["recall"] == 1
    assert found["nearer_probability"] == found["near_share"] == 1  # copies
    assert spectrum["distance"] < 1e-6 and spectrum["1 cycle"] == pytest.approx(1)


def test_statistics_are_kept_by_fingerprint(cache, monkeypatch):
    """What two sources of one config hold may differ; a source that does not say what it holds is measured anew."""

    class Plain:
        channels, class_names, labels, fingerprint = 3, (), None, None

        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, index):
            return {"image": IMAGES[int(index)] // 2, "label": np.int32(0)}

    sources: dict[str, Source] = {}
    monkeypatch.setattr(data_sources, "SOURCES", {"mine": lambda config, shape: sources["mine"]})
    config, means = DataConfig(source="mine"), []
    for source in (ArraySource(IMAGES), ArraySource(IMAGES[:30]), Plain(), ArraySource(IMAGES)):
        sources["mine"] = source
        reference = data_reference(config, [PIXELS], (4, 4))
        means.append(reference.measured["low_pass"].statistics.moments["pool"].mean)
    assert np.array_equal(means[0], means[3]) and not any(np.array_equal(means[0], mean) for mean in means[1:3])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_rectangles_of_any_channels(cache, channels):
    """Against what they look like, in RGB: no difference; against the same on another background, one."""
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 20, channels), np.uint8)
    sets, on_green = [PIXELS, random_convolutions()], shown(images, (0, 255, 0))
    reference = measure_reference(sets, batches(on_green), data="green", shape=(12, 20), background=(0, 255, 0))
    results = evaluate(sets, batches(images), reference)
    for each in sets:
        assert abs(results[each.name]["frechet_relative"]) < 1e-6 and results[each.name]["recall"] == 1
    assert results["spectrum"]["distance"] < 1e-6 and results["spectrum"]["5-6 cycles"] == pytest.approx(1)
    on_white = measure_reference(sets, batches(shown(images)), data="white", shape=(12, 20))
    moved = evaluate(sets, batches(on_green), on_white)["low_pass"]["frechet_relative"]
    assert moved > 0.01 if channels == 4 else moved == pytest.approx(0, abs=1e-6)


def test_the_relative_distance_has_no_unit(cache):
    """Half the contrast of both sets makes no difference."""
    half = FeatureSet("half", lambda images: {"pool": images.astype(np.float32).reshape(len(images), -1) / 2})
    whole = FeatureSet("whole", lambda images: {"pool": images.astype(np.float32).reshape(len(images), -1)})
    other = np.random.default_rng(1).integers(0, 256, (60, 4, 4, 3), np.uint8)
    relative = []
    for each in (half, whole):
        reference = measure_reference([each], batches(IMAGES), data="noise", shape=(4, 4))
        relative.append(evaluate([each], batches(other), reference)[each.name]["frechet_relative"])
    assert relative[0] == pytest.approx(relative[1], rel=1e-6) and relative[0] > 0


def test_balanced_data_hide_no_copies(cache):
    """Images that come several times have no neighbourhoods of radius 0, and new images are not called far."""
    several = np.concatenate([IMAGES] * 6)
    other = np.random.default_rng(1).integers(0, 256, (60, 4, 4, 3), np.uint8)
    once, often = (
        evaluate([PIXELS], batches(other), measure_reference([PIXELS], batches(data), data=name, shape=(4, 4)))["low_pass"]
        for data, name in ((IMAGES, "once"), (several, "often"))
    )
    for name in ("precision", "recall", "near_share", "nearer_probability"):
        assert often[name] == once[name]


def test_a_statistics_file_allows_frechet_distances_only():
    statistics = measure(PIXELS, batches(IMAGES)()).statistics
    results = evaluate([PIXELS], batches(IMAGES), Reference({"low_pass": Measured(statistics, {})}))
    assert set(results) == {"low_pass"} and set(results["low_pass"]) == {"frechet", "frechet_relative"}


def test_copies_are_looked_for_only_among_all_images(cache, monkeypatch):
    monkeypatch.setattr(evaluation, "KEEP", 40)
    reference = measure_reference([PIXELS], batches(IMAGES), data="noise", shape=(4, 4))
    assert "near_share" not in evaluate([PIXELS], batches(IMAGES), reference)["low_pass"]


def test_clips_are_measured_by_their_frames_and_over_time(cache):
    """Distances are those of the frames as images, whatever the order of these; the spectrum over time is not."""
    ramp = (np.arange(6) * 20)[:, None, None, None]
    clips = (np.random.default_rng(1).integers(0, 100, (30, 1, 4, 4, 3)) + ramp).astype(np.uint8)
    backwards = np.concatenate([clips[:, ::2], clips[:, 1::2]], axis=1)
    reference = measure_reference([PIXELS], batches(clips), data="ramps", shape=(6, 4, 4))
    results = evaluate([PIXELS], batches(backwards), reference)
    images = measure_reference([PIXELS], batches(clips.reshape(-1, 4, 4, 3)), data=None, shape=(4, 4))
    expected = evaluate([PIXELS], batches(backwards.reshape(-1, 4, 4, 3)), images)
    assert results["low_pass"]["frechet"] == pytest.approx(expected["low_pass"]["frechet"], abs=1e-9)
    assert reference.measured["low_pass"].statistics.moments["pool"].count == 180
    assert results["spectrum"]["distance"] == pytest.approx(0, abs=1e-9) and "temporal" not in expected
    kept = measure_reference([PIXELS], lambda: iter([]), data="ramps", shape=(6, 4, 4))
    np.testing.assert_array_equal(
        kept.measured["low_pass"].features["pool"], reference.measured["low_pass"].features["pool"]
    )
    other = measure_reference([PIXELS], batches(clips[:, :3]), data="ramps", shape=(3, 4, 4))  # not those that are kept
    assert other.measured["low_pass"].statistics.moments["pool"].count == 90


def test_signals_have_no_features():
    with pytest.raises(InputError, match=r"process.shape is \(8,\), but only images and clips.* can be measured"):
        measure_reference([PIXELS], lambda: iter([]), data=None, shape=(8,))
