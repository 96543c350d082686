import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.metrics import FeatureSet, cached_measure, load_statistics, measure, moments, save_statistics
from ssd_jax.metrics.statistics import Statistics


def colours(images):
    """Features far from the origin, whose sums of squares would lose all digits; the image's number; its mean colour."""
    mean = images.astype(jnp.float32).mean(axis=(1, 2))
    number = images[:, 0, 0, 0] * 256.0 + images[:, 0, 0, 1]
    return {"pool": mean / 100 + 5000, "spatial": mean[:, :2], "probabilities": number[:, None], "other": mean}


COLOURS = FeatureSet("colours", colours)


def numbered(count: int, size: int = 4) -> np.ndarray:
    """Random images that begin with their number: uint8 [count, size, size, 3]."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    return images


def batches(images: np.ndarray, size: int):
    return (images[start : start + size] for start in range(0, len(images), size))


@pytest.mark.parametrize("size", [1, 7, 16, 100])
def test_streamed_moments_are_those_of_all_features_at_once(size):
    images = numbered(61)
    measured = measure(COLOURS, batches(images, size))
    features = {name: np.asarray(values) for name, values in colours(jnp.asarray(images)).items()}
    assert (measured.statistics.feature_set, measured.statistics.shape) == ("colours", (4, 4))
    assert measured.statistics.moments.keys() == {"pool", "spatial"}
    for name, found in measured.statistics.moments.items():
        exact = features[name].astype(np.float64)
        assert found.count == 61
        np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, np.cov(exact, rowvar=False), rtol=1e-9, atol=1e-12)
    assert measured.features.keys() == {"pool", "probabilities"}
    for name, found in measured.features.items():
        np.testing.assert_array_equal(found, features[name])


def test_batches_are_shared_out_and_compiled_once():
    shapes, shares = [], []

    def function(images):
        shapes.append(images.shape)
        jax.debug.inspect_array_sharding(images, callback=lambda each: shares.append(each.shard_shape((24, 4, 4, 3))))
        return {"pool": images.astype(jnp.float32).mean(axis=(1, 2))}

    feature_set = FeatureSet("traced", function)
    for _ in range(2):
        measured = measure(feature_set, iter([numbered(20), numbered(0), numbered(9), numbered(50)]))
        assert measured.statistics.moments["pool"].count == len(measured.features["pool"]) == 79
    assert shapes == [(24, 4, 4, 3)] and set(shares) == {(3, 4, 4, 3)}  # one of eight devices has three images


def test_kept_features_are_a_fair_sample():
    images = numbered(4000, size=2)
    measured = measure(COLOURS, batches(images, 300), keep=500)
    assert measured.statistics.moments["pool"].count == 4000
    numbers = measured.features["probabilities"][:, 0].astype(int)
    assert len(set(numbers)) == 500
    for share in np.split(np.bincount(numbers, minlength=4000), 4):
        assert 125 - 40 < share.sum() < 125 + 40  # four standard deviations
    pool = np.asarray(colours(jnp.asarray(images[numbers]))["pool"])
    np.testing.assert_array_equal(measured.features["pool"], pool)  # of the same images


def test_too_few_images_bias_the_distance():
    with pytest.warns(UserWarning, match="3 images for 3 'pool' features of colours: .* biases Frechet distances upwards"):
        measure(COLOURS, iter([numbered(3)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure(COLOURS, iter([numbered(4)]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([numbered(8), numbered(8, size=5)], "images of 4 px and of 5 px are mixed"),
        ([numbered(8), numbered(8)[:, :3]], "images of 4 px and of 3x4 px are mixed"),
        ([numbered(8)[..., :2]], r"uint8 \(8, 4, 4, 2\), but must be uint8 \[n, h, w, 1, 3 or 4\]"),
        ([numbered(8)[0]], r"uint8 \(4, 4, 3\), but must be"),
        ([numbered(8) / 255], "images are float64"),
        ([numbered(1)], "1 image"),
        ([], "0 image"),
    ],
)
def test_images_that_cannot_be_measured(images, message):
    with pytest.raises(InputError, match=message):
        measure(COLOURS, iter(images))


def test_features_without_pool_are_refused():
    with pytest.raises(InputError, match="'odd' gives mean, but must give 'pool'"):
        measure(
            FeatureSet("odd", lambda images: {"mean": images.astype(jnp.float32).mean(axis=(1, 2))}), iter([numbered(8)])
        )


def statistics(feature_set: str = "colours", shape: tuple[int, int] = (4, 4)) -> Statistics:
    random = np.random.default_rng(0)
    return Statistics(
        feature_set, shape, {"pool": moments(random.normal(size=(9, 3))), "spatial": moments(random.normal(size=(9, 2)))}
    )


def test_saved_statistics_come_back(tmp_path):
    save_statistics(tmp_path / "a" / "statistics.npz", statistics())
    loaded = load_statistics(tmp_path / "a" / "statistics.npz", "colours", (4, 4))
    assert (loaded.feature_set, loaded.shape) == ("colours", (4, 4))
    for name, expected in statistics().moments.items():
        assert loaded.moments[name].count == 9
        np.testing.assert_array_equal(loaded.moments[name].mean, expected.mean)
        np.testing.assert_array_equal(loaded.moments[name].covariance, expected.covariance)


@pytest.mark.parametrize(("shape", "kept"), [((4, 4), 4), ((12, 20), [12, 20])])
def test_squares_are_saved_as_one_number(tmp_path, shape, kept):
    path = tmp_path / "statistics.npz"
    save_statistics(path, statistics(shape=shape))
    with np.load(path) as file:
        assert file["image_size"].tolist() == kept
    assert load_statistics(path, "colours", shape).shape == load_statistics(path).shape == shape


def test_images_are_measured_as_they_are_shown():
    colour = numbered(20)[:, :3]
    grey, alpha = colour[..., :1], np.random.default_rng(1).integers(0, 256, (20, 3, 4, 1), np.uint8)
    repeated = np.repeat(grey, 3, axis=-1)
    on_blue = np.rint(colour * (alpha / 255) + [0, 0, 255] * (1 - alpha / 255)).astype(np.uint8)
    transparent = np.concatenate([colour, alpha], axis=-1)
    for images, same in ((grey, repeated), (transparent, on_blue)):
        found, expected = (measure(COLOURS, batches(each, 8), background=(0, 0, 255)) for each in (images, same))
        assert found.statistics.shape == (3, 4)
        np.testing.assert_array_equal(found.features["pool"], expected.features["pool"])
    mixed = measure(COLOURS, iter([grey, colour, transparent]))  # files of a folder may differ
    assert len(mixed.features["pool"]) == 60


def test_files_of_others_are_of_inception(tmp_path):
    pool, spatial = statistics().moments.values()
    pytorch_fid = {"mu": pool.mean, "sigma": pool.covariance}
    adm = pytorch_fid | {"mu_s": spatial.mean, "sigma_s": spatial.covariance, "arr_0": numbered(2)}
    for arrays, names in ((pytorch_fid, ["pool"]), (adm, ["pool", "spatial"])):
        np.savez(tmp_path / "statistics.npz", allow_pickle=False, **arrays)
        loaded = load_statistics(tmp_path / "statistics.npz", "inception-2015", (64, 64))
        assert list(loaded.moments) == names and loaded.shape is loaded.moments["pool"].count is None
        np.testing.assert_array_equal(loaded.moments[names[-1]].covariance, arrays[list(arrays)[2 * len(names) - 1]])
        with pytest.raises(InputError, match="statistics of 'inception-2015' features, not of 'colours'"):
            load_statistics(tmp_path / "statistics.npz", "colours")


def test_statistics_of_something_else_are_refused(tmp_path):
    path = tmp_path / "statistics.npz"
    save_statistics(path, statistics())
    with pytest.raises(InputError, match="statistics of 'colours' features, not of 'low_pass'"):
        load_statistics(path, "low_pass", (4, 4))
    with pytest.raises(InputError, match="statistics of 4 px images, not of 8 px"):
        load_statistics(path, "colours", (8, 8))
    with pytest.raises(InputError, match="statistics of 4 px images, not of 4x8 px"):
        load_statistics(path, "colours", (4, 8))
    np.savez(path, images=numbered(2))
    with pytest.raises(InputError, match="holds images, but statistics must hold mu and sigma"):
        load_statistics(path, "colours", (4, 4))
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="damaged or no .npz"):
        load_statistics(path, "colours", (4, 4))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_statistics(tmp_path / "missing.npz", "colours", (4, 4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma": np.eye(3)[:2]},
        {"mu": np.zeros((3, 1))},
        {"mu": np.array([0, np.nan, 0])},
        {"sigma": np.full((3, 3), np.inf)},
        {"sigma": np.eye(3, dtype=np.float16)},
        {"mu_s": np.zeros(2)},
        {"count": np.array([2, 3])},
        {"count": np.array(-5)},
        {"image_size": np.array([1, 2, 3])},
        {"image_size": np.array("large")},
    ],
    ids=str,
)
def test_statistics_that_cannot_be_are_refused(wrong, tmp_path):
    good = {"mu": np.zeros(3), "sigma": np.eye(3), "count": np.array(9), "image_size": np.array(4)}
    np.savez(tmp_path / "statistics.npz", allow_pickle=False, **good)
    assert load_statistics(tmp_path / "statistics.npz").moments["pool"].count == 9
    np.savez(tmp_path / "statistics.npz", allow_pickle=False, **good | wrong)
    with pytest.raises(InputError, match="holds no statistics .*; measure them again") as refused:
        load_statistics(tmp_path / "statistics.npz")
    assert "\n" not in str(refused.value)


def test_a_damaged_cache_is_measured_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def measured():
        return cached_measure(COLOURS, batches(numbered(40), 20), data="some", shape=(4, 4), keep=10)

    first = measured()
    (file,) = (tmp_path / "ssd_jax" / "statistics").iterdir()
    file.write_bytes(file.read_bytes()[:900])
    with pytest.warns(UserWarning, match="is damaged or no .npz file"):
        again = measured()
    np.testing.assert_array_equal(again.features["pool"], first.features["pool"])
    np.testing.assert_array_equal(measured().features["pool"], first.features["pool"])  # without a warning


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "ssd_jax").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.warns(UserWarning, match="statistics are not kept: .* cannot be written: "):
        measured = cached_measure(COLOURS, batches(numbered(40), 20), data="some", shape=(4, 4), keep=10)
    assert measured.statistics.moments["pool"].count == 40


def test_a_data_set_is_measured_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    read = []

    def measured(data: str = "some/folder", keep: int = 10, background: tuple[int, int, int] = (255, 255, 255)):
        images = (read.append(data) or batch for batch in batches(numbered(40), 20))
        return cached_measure(COLOURS, images, data=data, shape=(4, 4), keep=keep, background=background)

    first, again = measured(), measured()
    assert len(read) == 2
    for name, values in first.features.items():
        np.testing.assert_array_equal(again.features[name], values)
    np.testing.assert_array_equal(
        again.statistics.moments["spatial"].covariance, first.statistics.moments["spatial"].covariance
    )
    measured("some_folder")
    measured(keep=20)
    assert len(read) == 6
    measured(background=(0, 0, 0))
    assert len(read) == 8
    for shape, named in (((8, 8), "8 px"), ((4, 8), "4x8 px")):
        with pytest.raises(InputError, match=f"images of 'other' are of 4 px, not of {named}"):
            cached_measure(COLOURS, batches(numbered(40), 20), data="other", shape=shape)
    assert len(list((tmp_path / "ssd_jax" / "statistics").iterdir())) == 4
