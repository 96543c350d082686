import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.metrics import (
    Moments,
    distances,
    frechet_distance,
    inception_score,
    kernel_distance,
    moments,
    nearest,
    precision_recall,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_frechet_distance_of_an_optimal_map():
    # x -> T x + c with symmetric positive T is the optimal map, so W2^2 = |m - T m - c|^2 + tr (T - I) A (T - I)
    root, skew, mean, shift = normal(0, 6, 6), normal(1, 6, 6), normal(2, 6), normal(3, 6)
    covariance, change = root @ root.T, skew @ skew.T
    moved = Moments(9, change @ mean + shift, change @ covariance @ change)
    less = change - np.eye(6)
    expected = np.square(less @ mean + shift).sum() + np.trace(less @ covariance @ less)
    np.testing.assert_allclose(frechet_distance(Moments(9, mean, covariance), moved), expected, rtol=1e-10)


def test_frechet_distance_of_singular_covariances_is_exact():
    a, b = (moments(normal(seed, 5, 40)) for seed in (0, 1))  # of rank 4, in other subspaces
    assert abs(frechet_distance(a, a)) < 1e-10
    half = Moments(5, a.mean, a.covariance / 4)
    np.testing.assert_allclose(frechet_distance(a, half), np.trace(a.covariance) / 4, rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-10)


def test_frechet_distance_is_that_of_pytorch_fid():
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    for n in (200, 40):  # more and fewer than features
        x, y = normal(0, n, 64) @ normal(1, 64, 64), normal(2, n, 64) + 0.3
        a, b = moments(x), moments(y)
        arguments = [of(features) for features in (x, y) for of in (lambda z: z.mean(axis=0), lambda z: np.cov(z.T))]
        theirs = fid_score.calculate_frechet_distance(*arguments)
        np.testing.assert_allclose(frechet_distance(a, b), theirs, rtol=1e-3)


def test_kernel_distance_is_the_unbiased_estimate():
    x, y = normal(0, 7, 3), normal(1, 7, 3) + 0.5

    def kernel(p, q):
        return (p @ q / 3 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j])
    expected = within - 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
    mean, std = kernel_distance(x, y, subsets=3)  # each of all
    np.testing.assert_allclose(mean, expected, rtol=1e-10)
    assert std < 1e-10


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    same, std = kernel_distance(normal(0, 4000, 8), normal(1, 4000, 8), subset_size=200)
    other, _ = kernel_distance(normal(0, 4000, 8), normal(1, 4000, 8) * 1.3, subset_size=200)
    assert 0 < std < other and abs(same) < other / 20


def test_kernel_distance_is_that_of_torch_fidelity():
    metric_kid, torch = pytest.importorskip("torch_fidelity.metric_kid"), pytest.importorskip("torch")
    a, b = normal(0, 300, 16), normal(1, 400, 16) + 0.1
    theirs = metric_kid.kid_features_to_metric(
        torch.tensor(a), torch.tensor(b), kid_subsets=10, kid_subset_size=100, rng_seed=2020, verbose=False
    )
    ours = kernel_distance(a, b, subsets=10, subset_size=100)
    np.testing.assert_allclose(ours, list(theirs.values()), rtol=1e-10)


def test_inception_score_counts_classes():
    sure = np.eye(5)[np.arange(1000) % 5]
    np.testing.assert_allclose(inception_score(sure, splits=1), (5, 0))
    np.testing.assert_allclose(inception_score(np.full((100, 5), 0.2)), (1, 0))
    mean, std = inception_score(sure[np.argsort(sure @ np.arange(5))])  # sorted by class
    assert 4.9 < mean < 5 and 0 < std < 0.1


def test_inception_score_is_that_of_torch_fidelity():
    metric_isc, torch = pytest.importorskip("torch_fidelity.metric_isc"), pytest.importorskip("torch")
    logits = normal(0, 1003, 20)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    theirs = metric_isc.isc_features_to_metric(torch.tensor(logits))
    np.testing.assert_allclose(inception_score(probabilities), list(theirs.values()), rtol=1e-10)


def test_precision_and_recall_by_hand():
    real, generated = np.array([[0.0], [1.0], [2.0], [18.0]]), np.array([[2.5], [9.0], [40.0], [41.0]])
    # Nearest: the real reach 1, 1, 1 and 16 far, the generated 6.5, 6.5, 1 and 1, which leaves the 18 uncovered.
    assert precision_recall(real, generated, neighbours=1) == (0.5, 0.75)
    # Second nearest: 2, 1, 2 and 17; 37.5, 31, 31 and 32.
    assert precision_recall(real, generated, neighbours=2) == (0.5, 1.0)


def test_precision_and_recall_of_known_overlaps():
    x = normal(0, 300, 4)
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 100) == (0.0, 0.0)
    both = np.concatenate([x, x + 100])
    assert precision_recall(both, x + 1e-9) == (1.0, 0.5)  # a mode is missing
    assert precision_recall(x + 1e-9, both) == (0.5, 1.0)  # a mode is invented


def test_precision_and_recall_are_those_of_torch_fidelity():
    metric_prc, torch = pytest.importorskip("torch_fidelity.metric_prc"), pytest.importorskip("torch")
    real, generated = normal(0, 300, 8), normal(1, 250, 8) * 0.8 + 0.2
    theirs = metric_prc.calculate_precision_recall_full(torch.tensor(generated), torch.tensor(real))
    np.testing.assert_allclose(precision_recall(real, generated), theirs, rtol=1e-6)


def test_blocks_change_nothing(monkeypatch):
    x, y = normal(0, 50, 6), normal(1, 37, 6)
    whole = precision_recall(x, y), *nearest(x, y), *nearest(x, x, skip_self=True)
    monkeypatch.setattr(distances, "ROWS", 7)
    parts = precision_recall(x, y), *nearest(x, y), *nearest(x, x, skip_self=True)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b)


def test_nearest_neighbours_far_from_the_origin():
    x, y = normal(0, 20, 3).astype(np.float32) + 1000, normal(1, 30, 3).astype(np.float32) + 1000
    table = np.linalg.norm(x[:, None].astype(np.float64) - y, axis=-1)
    found, indices = nearest(x, y)
    np.testing.assert_allclose(found, table.min(axis=1), rtol=1e-9)
    np.testing.assert_array_equal(indices, table.argmin(axis=1))
    found, indices = nearest(np.concatenate([x, x[:1]]), np.concatenate([x, x[:1]]), skip_self=True)
    assert found[0] < 1e-6 and indices[0] == 20 and found[1] > 0.01  # a duplicate is a neighbour, oneself is none


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(moments(normal(0, 5, 3)), moments(normal(0, 5, 4))), "3 and 4 features"),
        (lambda: kernel_distance(normal(0, 5, 3), normal(0, 5, 4)), "3 and 4 features"),
        (lambda: kernel_distance(normal(0, 1, 3), normal(0, 5, 3)), "features in a subset is 1"),
        (lambda: precision_recall(normal(0, 5, 3), normal(0, 5, 4)), "3 and 4 features"),
        (lambda: precision_recall(normal(0, 3, 3), normal(0, 5, 3)), "neighbours is 3, but must be between 1 and 2"),
        (lambda: inception_score(np.full((5, 2), 0.5)), "splits is 10, but must be between 1 and the number of images, 5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
