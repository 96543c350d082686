"""What --bound and --likelihood of `launch.evaluate` measure: bits per dimension of images that a run has not seen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import numpy as np
from absl import flags

import ssd_jax
from ssd_jax.analysis.bits import check_plan
from ssd_jax.analysis.bound import variational_bound
from ssd_jax.analysis.likelihood import flow_likelihood
from ssd_jax.data.protocol import ReadableSource, labels_of
from ssd_jax.data.sources import make_split
from ssd_jax.errors import InputError
from ssd_jax.files.paths import to_path
from ssd_jax.network.protocol import null_labels
from ssd_jax.processes import gathered
from ssd_jax.sharding import make_mesh

from . import folders, report, sampler_flags

BOUND = flags.DEFINE_bool(
    "bound", False, "Measure the variational bound of held-out images in bits per dimension, instead of drawing."
)
LIKELIHOOD = flags.DEFINE_bool(
    "likelihood", False, "Measure the likelihood of held-out images by the probability flow, instead of drawing."
)
DRAWS = flags.DEFINE_integer(
    "draws",
    None,
    "Timesteps of every stage that --bound visits for an image, drawn at random; all if not given.",
    lower_bound=1,
)

FLOW_STEPS = 100  # of --likelihood, if no flag says how many
Result = dict[str, float]


def asked() -> bool:
    """Whether a flag asks for bits per dimension."""
    return BOUND.value or LIKELIHOOD.value


@dataclass(frozen=True)
class HeldOut:
    """Images that were not trained on.

    Attributes:
        name: says which they are.
        count: how many are measured.
        batches: of so many, uint8 [n, *shape, channels], and their labels, int [n] or float32 [n, size], or None.
    """

    name: str
    count: int
    batches: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray | None]]]


def measure(trained: ssd_jax.Trained, reference: str | None, num: int) -> tuple[dict[str, Result], dict]:
    """Bits per dimension by part, with "total" and its standard error, for each of what is asked; and a record of the rest.

    Args:
        trained: the run's model.
        reference: a folder of images or an .npz file of them; the run's held-out images if None.
        num: of images, at most.

    Raises:
        InputError: before anything is measured, for what has no likelihood: latents, a plan that does not suit, no images.
    """
    if trained.encoding.bound is None:
        raise InputError(
            "the run is of latents, which have no bits per dimension of pixels; measure a run of pixels, or compare "
            "pictures (without --bound and --likelihood)"
        )
    ways, plans = _ways(trained)
    images = _held_out(trained, num) if reference is None else _given(trained, reference, num)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in ways}
    first, size = 0, min(sampler_flags.BATCH.value, images.count)
    for pictures, label in images.batches(size):
        every = np.arange(size) % len(pictures)  # the last batch as large as the others, which are compiled
        noise = trained.noise(jax.random.key(sampler_flags.SEED.value), size, first)
        x0 = jax.device_put(np.asarray(trained.encoding.encode(pictures[every])), noise.keys.sharding)
        first += len(pictures)
        for name, way in ways.items():
            bits = gathered(way(x0, noise, label=None if label is None else label[every]), make_mesh())
            found[name].append({part: np.asarray(each, float)[: len(pictures)] for part, each in bits.items()})
    calls = {name: plan.calls for name, plan in plans.items()}
    record = {"num": images.count, "reference": images.name, "seed": sampler_flags.SEED.value, "plans": calls}
    return {name: _summary(each) for name, each in found.items()}, folders.origin(trained) | record | {"draws": DRAWS.value}


def table(results: dict[str, Result]) -> str:
    """A row a part, a column for each of what was measured."""
    parts = dict.fromkeys(part for result in results.values() for part in result)
    rows = [{"bits per dimension": part} | {name: each.get(part) for name, each in results.items()} for part in parts]
    return report.plain(rows, digits=5)


def _ways(trained: ssd_jax.Trained) -> tuple[dict[str, Callable], dict[str, ssd_jax.Plan]]:
    """What is asked, as functions of (x_0, noise, label=), and their plans."""
    if sampler_flags.GUIDE.value is not None:
        raise InputError("--guide is given, but a bound and a likelihood are of the model itself; leave it out")
    steps, spacing = sampler_flags.NUM_STEPS.value, sampler_flags.SPACING.value or "log_snr"
    every, solver = trained.process.num_timesteps, sampler_flags.SOLVER.value
    plan = partial(trained.plan, spacing=spacing, eta=sampler_flags.ETA.value)
    ways, plans = {}, {}
    if BOUND.value:
        plans["bound"] = plan(solver=solver or "ancestral", num_steps=steps or every)
        ways["bound"] = partial(variational_bound, trained.denoiser, plans["bound"], draws=DRAWS.value)
    if LIKELIHOOD.value:
        plans["likelihood"] = plan(solver=solver or "ddim", num_steps=steps or min(FLOW_STEPS, every))
        ways["likelihood"] = partial(flow_likelihood, trained.denoiser, plans["likelihood"])
    for each in plans.values():
        check_plan(each)
    return ways, plans


def _held_out(trained: ssd_jax.Trained, num: int) -> HeldOut:
    config = trained.config.data
    if not config.holdout:
        raise InputError(
            "the run held no images out (data.holdout is 0); give --reference, a folder or an .npz file of images that it "
            "has not seen, or train with --config.data.holdout"
        )
    source = make_split(replace(config, balance=False), trained.encoding.picture_shape[:-1]).holdout
    assert source is not None
    readable, count = ReadableSource(source), min(num, len(source))
    chosen = np.linspace(0, len(source) - 1, count).astype(int)

    def batches(size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        for start in range(0, count, size):
            items = [readable[int(index)] for index in chosen[start : start + size]]
            labels = labels_of(items) if trained.experiment.objective.labelled else None
            yield np.stack([item["image"] for item in items]), labels

    return HeldOut("held out", count, batches)


def _given(trained: ssd_jax.Trained, reference: str, num: int) -> HeldOut:
    """Images of a folder or file, which say no class."""
    *shape, channels = trained.encoding.picture_shape
    found, model = folders.open_images(to_path(reference), tuple(shape)), trained.config.model
    if trained.experiment.objective.labelled and null_labels(model, 1) is None:
        raise InputError(
            "--reference gives images without labels, but the model knows them only with (it was trained without label "
            "dropout); measure the images that it held out"
        )
    count = min(num, found.count)

    def batches(size: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        left, waiting = count, np.zeros((0, *shape, channels), np.uint8)
        for read in found.batches():
            waiting = np.concatenate([waiting, _as_channels(read, channels)])
            while len(waiting) >= min(size, left) > 0:
                taken, waiting = waiting[: min(size, left)], waiting[min(size, left) :]
                left -= len(taken)
                yield taken, null_labels(model, len(taken))

    return HeldOut(found.name, count, batches)


def _as_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Images of `channels`, where that loses nothing: opaque ones without their opacity, grey ones in one channel."""
    if images.shape[-1] == 4 > channels and (images[..., 3] == 255).all():
        images = images[..., :3]
    if channels == 1 and (images == images[..., :1]).all():
        images = images[..., :1]
    if images.shape[-1] != channels:
        raise InputError(
            f"the images of --reference have {images.shape[-1]} channels, but the model's have {channels}; give such images"
        )
    return images


def _summary(found: list[dict[str, np.ndarray]]) -> Result:
    parts = {part: np.concatenate([each[part] for each in found]) for part in found[0]}
    total = np.sum(list(parts.values()), axis=0)
    error = float(total.std(ddof=1) / np.sqrt(len(total))) if len(total) > 1 else None
    means = {part: float(each.mean()) for part, each in parts.items()} | {"total": float(total.mean())}
    return means if error is None else means | {"standard error": error}
