"""Features of a stream of images as they are shown, and their mean and covariance; the files that keep these.

Every frame of a clip is an image.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, UInt8

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.channels import WHITE, Colour, shown
from ssd_jax.files.npz import read_npz
from ssd_jax.files.paths import Path, cache_folder, to_path, write_atomically
from ssd_jax.metrics.features import FeatureSet
from ssd_jax.processes import everywhere
from ssd_jax.sharding import make_mesh, replicated, split_along_batch

SUFFIXES = {"pool": "", "spatial": "_s"}  # of mu and sigma in files, by features; others have no moments
KEPT = ("pool", "probabilities")
FOREIGN = "inception-2015"  # the features of files by others


@dataclass(frozen=True, eq=False)
class Moments:
    """Of features: how many (None if a file does not tell), mean float64 [d], unbiased covariance float64 [d, d]."""

    count: int | None
    mean: Float[np.ndarray, "d"]
    covariance: Float[np.ndarray, "d d"]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments by features, "pool" and maybe "spatial", of images of one shape.

    Attributes:
        feature_set: its name.
        shape: (h, w) of the images in pixels; None if a file does not tell.
        moments: of at least "pool".
    """

    feature_set: str
    shape: tuple[int, ...] | None
    moments: dict[str, Moments]


@dataclass(frozen=True, eq=False)
class Measured:
    """What `measure` found: statistics of all images, and "pool" and "probabilities" float32 [kept, d] of some."""

    statistics: Statistics
    features: dict[str, Float[np.ndarray, "kept _"]]


class _Sums(NamedTuple):
    count: int
    mean: np.ndarray
    scatter: np.ndarray  # sum of outer products of deviations from the mean


def moments(features: Float[np.ndarray, "n d"]) -> Moments:
    """Mean and unbiased covariance of at least two features, in float64."""
    return _moments(_sums(features))


def _moments(sums: _Sums) -> Moments:
    return Moments(sums.count, sums.mean, sums.scatter / (sums.count - 1))


def _sums(features: Float[np.ndarray, "n d"]) -> _Sums:
    features = features.astype(np.float64)
    mean = features.mean(axis=0)
    deviations = features - mean
    return _Sums(len(features), mean, deviations.T @ deviations)


def _merge(a: _Sums, b: _Sums) -> _Sums:
    """Of both sets together, without the cancellation of sums of squares (Chan, Golub & LeVeque 1983)."""
    count, delta = a.count + b.count, b.mean - a.mean
    scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.count * b.count / count)
    return _Sums(count, a.mean + delta * (b.count / count), scatter)


def measure(
    feature_set: FeatureSet,
    batches: Iterable[UInt8[np.ndarray, "_ *frames _ _ _"]],
    keep: int = 10_000,
    background: Colour = WHITE,
) -> Measured:
    """Features of a stream of images as they are `shown`, a batch at a time, on all devices.

    Args:
        feature_set: compiled once; every batch is divided among the devices.
        batches: uint8 [n, h, w, 1, 3 or 4], all images of one h and w, or clips, [n, frames, h, w, 1, 3 or 4]; best of one
            length, to which the last one is padded. In a job of several processes all must give the same.
        keep: of more images than this, the features of so many are kept, drawn at random with equal chances.
        background: seen through transparent images.

    Returns:
        Statistics, and kept features in the order of the images if all are kept.

    Raises:
        InputError: if images are not uint8 and of one size, there are fewer than two, or "pool" is missing.

    Warns:
        UserWarning: if there are not more images than features, so that Frechet distances come out too large.
    """
    mesh = make_mesh()
    function = feature_set.function if isinstance(feature_set.function, Partial) else Partial(feature_set.function)
    function = jax.device_put(function, replicated(mesh))
    call = jax.jit(_call, out_shardings=replicated(mesh))
    sums: dict[str, _Sums] = {}
    kept: dict[str, np.ndarray] = {}
    random, count, shape = np.random.default_rng(0), 0, (0, 0)
    for images, n in _equal_batches(batches, mesh.size, background):
        shape = images.shape[1:3]
        features = call(function, jax.device_put(images, split_along_batch(mesh)))
        if "pool" not in features:
            raise InputError(f"feature set {feature_set.name!r} gives {', '.join(features)}, but must give 'pool'")
        places = _places(count, n, keep, random)
        count += n
        for name, values in features.items():
            values = np.asarray(values)[:n]
            if name in SUFFIXES:
                sums[name] = _merge(sums[name], _sums(values)) if name in sums else _sums(values)
            if name in KEPT:
                kept.setdefault(name, np.empty((keep, values.shape[1]), np.float32))
                kept[name][places[places < keep]] = values[places < keep]  # of equal places the last one counts
    if count < 2:
        raise InputError(f"statistics cannot be measured on {count} image(s); give two or more")
    for name, of in sums.items():
        if count <= len(of.mean):
            warnings.warn(
                f"{count} images for {len(of.mean)} {name!r} features of {feature_set.name}: their covariance is singular, "
                "which biases Frechet distances upwards; compare only with as many images, or give more",
                stacklevel=2,
            )
    statistics = Statistics(feature_set.name, shape, {name: _moments(of) for name, of in sums.items()})
    return Measured(statistics, {name: values[:count] for name, values in kept.items()})


def _places(count: int, n: int, keep: int, random: np.random.Generator) -> np.ndarray:
    """Where the next n of a stream go among `keep`, if below that; `count` came before (Vitter 1985, algorithm R)."""
    places = np.arange(count, count + n)
    return np.where(places < keep, places, random.integers(0, places + 1))


def _equal_batches(
    batches: Iterable[np.ndarray], multiple: int, background: Colour
) -> Iterator[tuple[UInt8[np.ndarray, "length h w 3"], int]]:
    """The images in batches of one length, that of the first up to a multiple, and how many of each are no padding."""
    shape, length = None, 0
    for batch in batches:
        if batch.dtype != np.uint8 or batch.ndim < 4 or batch.shape[-1] not in (1, 3, 4):
            raise InputError(f"images are {batch.dtype} {batch.shape}, but must be uint8 [n, h, w, 1, 3 or 4]")
        shape, length = shape or batch.shape[-3:-1], length or max(-(-len(batch) // multiple), 1) * multiple
        if batch.shape[-3:-1] != shape:
            raise InputError(f"images of {_pixels(shape)} and of {_pixels(batch.shape[-3:-1])} are mixed; resize them")
        frames = batch.reshape(-1, *batch.shape[-3:])
        for start in range(0, len(frames), length):
            images = shown(frames[start : start + length], background)
            yield np.pad(images, ((0, length - len(images)), *[(0, 0)] * 3)), len(images)


def _pixels(shape: tuple[int, ...]) -> str:
    """ "64 px" for squares, else height and width, "24x48 px"."""
    return f"{shape[0]} px" if len(set(shape)) == 1 else f"{'x'.join(map(str, shape))} px"


def _call(function: Partial, images: UInt8[Array, "n h w 3"]) -> dict[str, Float[Array, "n _"]]:
    return function(images)


def save_statistics(path: str | Path, statistics: Statistics) -> None:
    """Writes an .npz that pytorch-fid and ADM read as well: mu and sigma of "pool", mu_s and sigma_s of "spatial"."""
    write_atomically(to_path(path), lambda file: np.savez(file, allow_pickle=False, **_arrays(statistics)))


def _arrays(statistics: Statistics) -> dict[str, np.ndarray]:
    arrays = {"feature_set": np.array(statistics.feature_set)}
    if statistics.shape is not None:
        square = len(set(statistics.shape)) == 1
        arrays["image_size"] = np.array(statistics.shape[0] if square else statistics.shape)
    for name, of in statistics.moments.items():
        arrays |= {f"mu{SUFFIXES[name]}": of.mean, f"sigma{SUFFIXES[name]}": of.covariance}
        if of.count is not None:
            arrays["count"] = np.array(of.count)
    return arrays


def load_statistics(path: str | Path, feature_set: str | None = None, shape: tuple[int, ...] | None = None) -> Statistics:
    """Reads what `save_statistics`, pytorch-fid or ADM wrote.

    Args:
        path: .npz with mu and sigma, and maybe mu_s and sigma_s.
        feature_set: name that the statistics must have, if given; those by others are of "inception-2015".
        shape: (h, w) of the images that they must be of, if both it and the file tell.

    Raises:
        InputError: if the file cannot be read, holds no statistics, or those of another feature set or shape.
    """
    return _load(path, feature_set, shape)[0]


def _load(
    path: str | Path, feature_set: str | None, shape: tuple[int, ...] | None
) -> tuple[Statistics, dict[str, np.ndarray]]:
    """Statistics and kept features."""
    try:
        arrays = read_npz(path, without=("arr_0", "arr_1"))  # ADM's images and labels
    except OSError as error:
        raise InputError(f"statistics {str(path)!r} cannot be read: {error.strerror or error}") from error
    if not {"mu", "sigma"} <= set(arrays):
        names = one_line(", ".join(arrays)) or "nothing"
        raise InputError(f"{str(path)!r} holds {names}, but statistics must hold mu and sigma; measure them again")
    try:
        statistics, features = _statistics(arrays), _kept(arrays)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{str(path)!r} holds no statistics ({one_line(error)}); measure them again") from error
    if feature_set not in (None, statistics.feature_set):
        raise InputError(
            f"{str(path)!r} holds statistics of {statistics.feature_set!r} features, not of {feature_set!r}; "
            "measure them again"
        )
    if statistics.shape is not None and shape is not None and statistics.shape != shape:
        raise InputError(
            f"{str(path)!r} holds statistics of {_pixels(statistics.shape)} images, not of {_pixels(shape)}; "
            "measure them again"
        )
    return statistics, features


def _statistics(arrays: dict[str, np.ndarray]) -> Statistics:
    """What the arrays of a file say. Raises ValueError, TypeError or KeyError if that cannot be."""
    shape = tuple(np.broadcast_to(arrays["image_size"], 2).tolist()) if "image_size" in arrays else None
    count = int(arrays["count"]) if "count" in arrays else None
    if not all(isinstance(side, int) and side > 0 for side in shape or ()) or (count is not None and count < 2):
        raise ValueError(f"they are of {count} images of {shape} pixels")
    moments = {}
    for name, suffix in SUFFIXES.items():
        if f"mu{suffix}" in arrays:
            mean, covariance = arrays[f"mu{suffix}"], arrays[f"sigma{suffix}"]
            if mean.ndim != 1 or not mean.size or covariance.shape != mean.shape * 2:
                raise ValueError(f"mu{suffix} is {mean.shape} and sigma{suffix} {covariance.shape}, not [d] and [d, d]")
            numbers = {mean.dtype.char, covariance.dtype.char} <= {"f", "d"}
            if not numbers or not np.isfinite(mean).all() or not np.isfinite(covariance).all():
                raise ValueError(f"mu{suffix} and sigma{suffix} must be finite numbers of 32 or 64 bits")
            moments[name] = Moments(count, mean.astype(np.float64), covariance.astype(np.float64))
    return Statistics(one_line(arrays.get("feature_set", FOREIGN)), shape, moments)


def _kept(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features that a file of the cache keeps. Raises ValueError if they are none."""
    features = {name: arrays[f"kept_{name}"] for name in KEPT if f"kept_{name}" in arrays}
    if any(each.ndim != 2 or each.dtype != np.float32 for each in features.values()):
        raise ValueError("its features are not float32 [n, d]")
    return features


def cached_measure(
    feature_set: FeatureSet,
    batches: Iterable[UInt8[np.ndarray, "_ *frames _ _ _"]],
    *,
    data: str,
    shape: tuple[int, ...],
    keep: int = 10_000,
    background: Colour = WHITE,
) -> Measured:
    """`measure`, once per data set, background, feature set, shape and `keep`; later from the cache folder.

    Args:
        batches: read only if the cache does not have it.
        data: says which images these are, e.g. "openmoji" or a folder's path.
        shape: (h, w) of the images, (frames, h, w) of clips.
        keep, background: as in `measure`.

    Raises:
        InputError: as `measure` does, and if the images have another shape.
    """
    *frames, height, width = shape
    data, shape = f"{data}{''.join(f', {each} frames' for each in frames)}", (height, width)
    digest = hashlib.sha256(f"{data} on {background}".encode()).hexdigest()[:8]
    readable, size = re.sub(r"[^\w.-]+", "_", data)[-40:], _pixels(shape).replace(" ", "")
    path = cache_folder() / "statistics" / f"{readable}-{digest}-{feature_set.name}-{size}-{keep}.npz"
    kept = None
    if path.exists():
        try:
            kept = Measured(*_load(path, feature_set.name, shape))
        except InputError as error:
            warnings.warn(f"{error}: this is done now", stacklevel=2)
    if everywhere(kept is not None) and kept is not None:  # all measure together, or none does
        return kept
    measured = measure(feature_set, batches, keep, background)
    if measured.statistics.shape != shape:
        found = _pixels(measured.statistics.shape or ())
        raise InputError(f"images of {data!r} are of {found}, not of {_pixels(shape)}")
    arrays = _arrays(measured.statistics) | {f"kept_{name}": values for name, values in measured.features.items()}
    try:
        write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    except OSError as error:  # they need not be measured in vain
        warnings.warn(f"statistics are not kept: {str(path)!r} cannot be written: {error.strerror}", stacklevel=2)
    return measured
