"""Distances between two sets of images, from their features. Host functions in float64."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh, svdvals
from scipy.special import rel_entr

from ssd_jax.errors import InputError, check_range, check_seed
from ssd_jax.metrics.statistics import Moments

NEIGHBOURS = 3  # of `precision_recall`
SPLITS = 10  # of `inception_score`
ROWS = 1024  # of a distance matrix that are in memory at once


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), the FID for features of Inception-v3 (Heusel et al. 2017).

    The trace of the root is the sum of the singular values of A^(1/2) B^(1/2), which is exact for singular covariances too.

    Raises:
        InputError: if the features are not of one length.
    """
    if a.mean.shape != b.mean.shape:
        raise InputError(f"the sets have {len(a.mean)} and {len(b.mean)} features; measure both with one feature set")
    roots = np.sum(svdvals(_root(a.covariance) @ _root(b.covariance)))
    return float(np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * roots)


def _root(covariance: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def kernel_distance(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m _"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """The KID (Binkowski et al. 2018): unbiased squared MMD with the kernel (x.y / d + 1)^3, over random subsets.

    Args:
        a, b: features.
        subsets: how many.
        subset_size: features in each, or all of the smaller set if it has fewer.
        seed: of the subsets, 0 <= seed < 2^32; they are those that torch-fidelity draws from the same features.

    Returns:
        Mean and standard deviation over the subsets. The mean may be negative if the distance is about 0.

    Raises:
        InputError: if there is no subset or fewer than two features in it, the features are not of one length, or the seed
            is another one.
    """
    _check_lengths(a, b)
    check_seed("seed", seed)
    check_range("subsets", subsets, low=1)
    size = min(subset_size, len(a), len(b))
    check_range("features in a subset", size, low=2)
    random = np.random.RandomState(seed)  # its stream is frozen
    distances = []
    for _ in range(subsets):
        x, y = (features[random.choice(len(features), size, replace=False)].astype(np.float64) for features in (a, b))
        distances.append(_unbiased_mmd(x, y))
    return float(np.mean(distances)), float(np.std(distances))


def _unbiased_mmd(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    n, d = x.shape
    xx, yy, xy = ((p @ q.T / d + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    return (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean()


def inception_score(
    probabilities: Float[np.ndarray, "n classes"], splits: int = SPLITS, *, seed: int = 2020
) -> tuple[float, float]:
    """exp of the mean KL divergence of p(class | image) from p(class), over shuffled splits (Salimans et al. 2016).

    Args:
        probabilities: of the classes.
        splits: the images are shared out among these.
        seed: of the shuffling, 0 <= seed < 2^32, which is that of torch-fidelity.

    Returns:
        Mean and standard deviation over the splits, between 1 and the number of classes.

    Raises:
        InputError: if there are fewer images than splits, or for another seed.
    """
    check_seed("seed", seed)
    count = len(probabilities)
    if not 1 <= splits <= count:
        raise InputError(f"splits is {splits}, but must be between 1 and the number of images, {count}")
    order = np.random.RandomState(seed).permutation(count)
    scores = []
    for i in range(splits):
        p = probabilities[order[i * count // splits : (i + 1) * count // splits]].astype(np.float64)
        scores.append(np.exp(rel_entr(p, p.mean(axis=0)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(
    real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m _"], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """How much of what is generated is like the real, and how much of the real is generated (Kynkaanniemi et al. 2019).

    A set covers a feature if some member of it is as near as that member's k-th nearest neighbour in its own set.

    Args:
        real, generated: features.
        neighbours: k.

    Returns:
        Shares of the generated features that the real ones cover, and of the real ones that the generated cover.

    Raises:
        InputError: unless 1 <= k < n, m, and the features are of one length.
    """
    _check_lengths(real, generated)
    smaller = min(len(real), len(generated))
    if not 1 <= neighbours < smaller:
        raise InputError(f"neighbours is {neighbours}, but must be between 1 and {smaller - 1}, with {smaller} images")
    return _covered(generated, real, neighbours), _covered(real, generated, neighbours)


def _covered(queries: Float[np.ndarray, "m d"], members: Float[np.ndarray, "n d"], neighbours: int) -> float:
    radii = np.concatenate(
        [np.partition(rows, neighbours, axis=1)[:, neighbours] for rows in _distance_rows(members, members)]
    )
    return float(np.concatenate([(rows <= radii).any(axis=1) for rows in _distance_rows(queries, members)]).mean())


def nearest(
    queries: Float[np.ndarray, "m d"], references: Float[np.ndarray, "n _"], *, skip_self: bool = False
) -> tuple[Float[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Euclidean distance from each query to the nearest reference, and the index of that one.

    Args:
        queries, references: features.
        skip_self: the two are one set, and no feature is its own neighbour.

    Raises:
        InputError: if the features are not of one length.
    """
    _check_lengths(queries, references)
    indices, start = [], 0
    for rows in _distance_rows(queries, references):
        if skip_self:
            rows[np.arange(len(rows)), start + np.arange(len(rows))] = np.inf
        start += len(rows)
        indices.append(rows.argmin(axis=1))
    indices = np.concatenate(indices)
    distances = [
        np.linalg.norm(query - references[i]) for query, i in zip(queries.astype(np.float64), indices, strict=True)
    ]
    return np.array(distances), indices  # of copies exactly 0, unlike in the rows


def _distance_rows(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m _"]) -> Iterator[Float[np.ndarray, "_ m"]]:
    """The matrix of Euclidean distances, some rows at a time."""
    centre = b.mean(axis=0, dtype=np.float64)  # less to cancel below
    b = b - centre
    squares = np.square(b).sum(axis=1)
    for start in range(0, len(a), ROWS):
        rows = a[start : start + ROWS] - centre
        yield np.sqrt(np.maximum(np.square(rows).sum(axis=1)[:, None] + squares - 2 * rows @ b.T, 0))


def _check_lengths(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[1] != b.shape[1]:
        raise InputError(f"the sets have {a.shape[1]} and {b.shape[1]} features; measure both with one feature set")
