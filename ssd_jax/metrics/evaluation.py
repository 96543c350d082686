"""Everything there is to say of a set of generated images, against a set of real ones."""

import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, UInt8

from ssd_jax.data.protocol import Source, image_batches
from ssd_jax.data.sources import DataConfig, make_source
from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.metrics.distances import (
    NEIGHBOURS,
    SPLITS,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from ssd_jax.metrics.features import FeatureSet, low_pass_pixels, random_convolutions
from ssd_jax.metrics.inception import inception_features
from ssd_jax.metrics.memorisation import memorisation
from ssd_jax.metrics.spectral import spectral_ratios, temporal_ratios
from ssd_jax.metrics.statistics import Measured, cached_measure, measure
from ssd_jax.processes import everywhere

KEEP = 50_000  # images of which features are kept: those without which copies of training images may go unseen
COMPARED = 10_000  # features of either set that precision and recall take; their time grows with the square
# The images of either set that a metric needs; the Inception Score needs no real ones.
NEEDED = {
    "frechet": 2,
    "frechet_relative": 2,
    "frechet_spatial": 2,
    "kernel": 2,
    "inception_score": SPLITS,
    "precision": NEIGHBOURS + 1,
    "recall": NEIGHBOURS + 1,
    "near_share": 2,
    "nearer_probability": 2,
    "spectrum": 2,
    "temporal": 2,
}
logger = logging.getLogger(__name__)

Batches = Callable[[], Iterable[UInt8[np.ndarray, "_ *frames h w _"]]]


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images, or what a statistics file tells of them.

    Attributes:
        measured: by feature set; without features if they come from a file.
        batches: reads the images again; None for a file.
        background: RGB, seen through transparent images, generated ones as well.
    """

    measured: dict[str, Measured]
    batches: Batches | None = None
    background: Colour = WHITE


def left_out(generated: int, real: int | None) -> dict[str, int]:
    """The metrics that need more than so many images, and how many they need; of `real` ones None is enough."""
    fewer = {name: generated if name == "inception_score" or real is None else min(generated, real) for name in NEEDED}
    return {name: needed for name, needed in NEEDED.items() if fewer[name] < needed}


def measure_reference(
    feature_sets: Sequence[FeatureSet],
    batches: Batches,
    *,
    data: str | None,
    shape: tuple[int, ...],
    background: Colour = WHITE,
) -> Reference:
    """The reference that a data set makes; measured once, then read from the cache folder.

    Args:
        feature_sets: the features.
        batches: reads the images.
        data: says which images these are (`cached_measure`); None if nothing does, so that they are measured anew.
        shape: (h, w) of the images, (frames, h, w) of clips.
        background: seen through transparent ones.

    Raises:
        InputError: for signals, which have no features.
    """
    check_axes(shape)

    def measured(each: FeatureSet) -> Measured:
        if data is None:
            return measure(each, batches(), KEEP, background)
        return cached_measure(each, batches(), data=data, shape=shape, keep=KEEP, background=background)

    return Reference({each.name: measured(each) for each in feature_sets}, batches, background)


def data_reference(
    config: DataConfig, feature_sets: Sequence[FeatureSet], shape: tuple[int, ...], source: Source | None = None
) -> Reference:
    """`measure_reference` of the data of a config, whose `source` is made if it is not given.

    Raises InputError if the data are latents.
    """
    source = source or make_source(config, shape)
    first = next((item for item in map(source.__getitem__, range(len(source))) if item is not None), None)
    if first is not None and first["image"].dtype != np.uint8:
        raise InputError("the data of the run are latents, with which pictures cannot be compared; give --reference")
    images, batches = getattr(source, "fingerprint", None), partial(image_batches, source)
    name = None if images is None else f"{images}, {source.channels} channels"
    return measure_reference(feature_sets, batches, data=name, shape=shape, background=config.background)


def available_feature_sets() -> list[FeatureSet]:
    """Those that need no weights, and Inception-v3 if every process of the job has its weights; says so if not."""
    inception: list[FeatureSet] = []
    try:
        inception = [inception_features()]
    except InputError as error:
        logger.info("no FID, sFID, Inception Score: %s", error)
    return [low_pass_pixels(), random_convolutions(), *(inception if everywhere(bool(inception)) else [])]


def evaluate(feature_sets: Sequence[FeatureSet], batches: Batches, reference: Reference) -> dict[str, dict[str, float]]:
    """All metrics that the reference and the images' number (NEEDED) allow, by feature set; those of none by their names.

    frechet (FID for Inception), frechet_relative (over the real features' total variance), frechet_spatial (sFID), kernel
    and kernel_std (KID), precision, recall, inception_score, near_share and nearer_probability (`memorisation`, if the
    features of all real images are kept). "spectrum" holds `SpectralRatios`: distance, and the ratio of each band. Of clips
    every frame counts as an image for all of these, and "temporal" holds the `SpectralRatios` over time.

    Args:
        feature_sets: those of the reference.
        batches: reads the generated images, uint8 [n, h, w, 1, 3 or 4], or clips, [n, frames, h, w, 1, 3 or 4], in batches
            of one size if compiling is to happen once.
        reference: what to compare with.
    """
    results = {}
    for each in feature_sets:
        generated = measure(each, batches(), KEEP, reference.background)
        results[each.name] = _compare(generated, reference.measured[each.name])
    return results if reference.batches is None else results | _spectra(batches, reference.batches, reference.background)


def check_axes(shape: tuple[int, ...]) -> None:
    """Raises InputError unless arrays of spatial `shape` are images, or clips of images."""
    if len(shape) < 2:
        raise InputError(f"process.shape is {shape}, but only images and clips, (h, w) and (frames, h, w), can be measured")


def _spectra(generated: Batches, real: Batches, background: Colour) -> dict[str, dict[str, float]]:
    """Spectra over space and, of clips, over time, by the names of the results; those that cannot be measured left out."""
    kinds = [("spectrum", "space", spectral_ratios)]
    if next(iter(real())).ndim > 4:
        kinds.append(("temporal", "time", temporal_ratios))
    found = {}
    for name, axis, ratios_of in kinds:
        try:
            ratios = ratios_of(generated(), real(), background)
        except InputError as error:
            warnings.warn(f"the spectrum over {axis} is left out: {error}", stacklevel=2)
            continue
        bands = dict(zip(ratios.bands, ratios.ratios.tolist(), strict=True))
        found[name] = {"distance": ratios.distance, **bands}
    return found


def _compare(generated: Measured, real: Measured) -> dict[str, float]:
    ours, theirs = generated.statistics.moments, real.statistics.moments
    variance = float(np.trace(theirs["pool"].covariance))
    results = {"frechet": frechet_distance(ours["pool"], theirs["pool"])}
    if variance > 0:
        results["frechet_relative"] = results["frechet"] / variance
    if "spatial" in ours and "spatial" in theirs:
        results["frechet_spatial"] = frechet_distance(ours["spatial"], theirs["spatial"])
    if "probabilities" in generated.features and len(generated.features["probabilities"]) >= SPLITS:
        results["inception_score"], results["inception_score_std"] = inception_score(generated.features["probabilities"])
    if "pool" in real.features:
        x, y = generated.features["pool"], real.features["pool"]
        results["kernel"], results["kernel_std"] = kernel_distance(x, y)
        each_once = y[np.unique(y.round(4), axis=0, return_index=True)[1]]  # balanced data hold some several times
        missing = left_out(len(x), len(each_once))
        if "recall" not in missing:
            results["precision"], results["recall"] = precision_recall(_some(each_once), _some(x))
        if theirs["pool"].count == len(y) and "near_share" not in missing:
            copies = memorisation(x, each_once)
            results |= {"near_share": copies.near_share, "nearer_probability": copies.nearer_probability}
    return results


def _some(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m d"]:
    """At most COMPARED of them, drawn at random."""
    if len(features) <= COMPARED:
        return features
    return features[np.random.default_rng(0).choice(len(features), COMPARED, replace=False)]
