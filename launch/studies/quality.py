"""Variants of a config, and what a trained run draws, measured: metrics and cost, kept in a file of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ssd_jax
from ssd_jax.analysis.cost import plan_cost
from ssd_jax.config import Config
from ssd_jax.data import make_source
from ssd_jax.data.protocol import labels_of
from ssd_jax.files import images
from ssd_jax.files.json_file import read_json, write_json
from ssd_jax.files.paths import Path
from ssd_jax.metrics import data_reference, evaluate, low_pass_pixels, random_convolutions
from ssd_jax.process.stages import Stage

from ..common import folders, report

# What tables show of `measured`, by its name there.
METRICS = {
    "low_pass": ("low_pass", "frechet_relative"),
    "random": ("random_convolutions-0", "frechet_relative"),
    "kernel": ("random_convolutions-0", "kernel"),
    "recall": ("random_convolutions-0", "recall"),
    "spectral": ("spectrum", "distance"),
}


def changed(config: Config, changes: Mapping[str, Mapping[str, Any]], **train: Any) -> Config:
    """The config with other fields, by section, and of training those of `train` besides."""
    changes = {**changes, "train": {**changes.get("train", {}), **train}}
    return replace(config, **{name: replace(getattr(config, name), **fields) for name, fields in changes.items()})


def measured(workdir: Path, num: int, batch: int, ema_width: float | None = None, **plan_settings: Any) -> dict[str, Any]:
    """Metrics and cost of images of a run, always of the same seed; read from its file if that is there.

    Args:
        workdir: of the run.
        num: images.
        batch: images at a time.
        ema_width: of the averaged weights, as in `ssd_jax.load`.
        plan_settings: of `Trained.plan`.

    Returns:
        "metrics" of `evaluate`, "gflops" of an image, and "relative_flops" over those of as many calls at full size.
    """
    trained = ssd_jax.load(workdir, ema_width=ema_width)
    of_width = {} if ema_width is None else {"ema_width": ema_width}
    out = samples_folder(workdir, trained.step, **plan_settings, **of_width)
    file = workdir / f"{out.name}-{num}.json"
    if file.exists():
        return read_json(file)
    plan = trained.plan(**plan_settings)
    folders.claim(out, {**folders.origin(trained), **plan_settings})
    draw = partial(trained.iterate, trained.denoiser, plan, jax.random.key(0), every=max(plan.calls // 20, 1))
    paths = folders.fill(out, num, batch, trained.encoding, plan.calls, lambda num, first: draw(num=num, first_index=first))
    feature_sets = [low_pass_pixels(), random_convolutions()]
    shape = trained.encoding.picture_shape[:-1]
    reference = data_reference(trained.config.data, feature_sets, shape)
    metrics = evaluate(feature_sets, lambda: folders.read_batches(paths, shape), reference)
    cost = plan_cost(plan, trained.config.model, channels=trained.encoding.channels)
    result = {"metrics": metrics, "gflops": cost.flops / 1e9, "relative_flops": cost.relative_flops}
    write_json(file, result)
    return result


def figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `measured` found, what makes a row: METRICS, "sampling_flops", and "bands" of the spectrum."""
    metrics = {metric: found["metrics"].get(of, {}).get(field) for metric, (of, field) in METRICS.items()}
    bands = {band: ratio for band, ratio in found["metrics"].get("spectrum", {}).items() if band != "distance"}
    return {"sampling_flops": found["relative_flops"], **metrics, "bands": bands}


def spread(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The mean of a metric over rows, and where there are several the values of all in brackets; "-" for none."""
    values = [float(row[metric]) for row in rows if row[metric] is not None]
    if not values:
        return "-"
    mean, *each = (report.number(value, digits=3) for value in (float(np.mean(values)), *values))
    return f"{mean} ({', '.join(each)})" if len(values) > 1 else mean


def different_images(trained: ssd_jax.Trained, limit: int) -> tuple[jax.Array, np.ndarray]:
    """At most `limit` of the run's data, no two alike, float32 [n, *shape, channels], and their labels."""
    source = make_source(trained.config.data, trained.process.shape)
    indices = np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)).tolist()
    items = [item for item in map(source.__getitem__, indices) if item is not None]
    pixels, first = np.unique(np.stack([item["image"] for item in items]), axis=0, return_index=True)
    return trained.encoding.encode(pixels), labels_of([items[i] for i in first])


def predictions(trained: ssd_jax.Trained, states: jax.Array, labels: np.ndarray, t: int, stage: Stage) -> jax.Array:
    """z-hat of states [n, ..] at t, of images of these labels, [n, ..] at stage.out_level."""
    label = jnp.asarray(labels) if trained.experiment.objective.labelled else None
    return _predict(trained.denoiser, states, jnp.full(len(states), t), label, stage=stage)


@partial(jax.jit, static_argnames="stage")
def _predict(denoise, x, t, label, *, stage):
    return denoise(x, t, label, stage=stage)


def side_by_side(samples: Sequence[Path]) -> np.ndarray:
    """The same 32 noises as several networks drew them: of each folder a block of four columns, uint8 [h, w, channels]."""
    blocks = []
    for folder in samples:
        pictures = np.stack([images.read_image(path) for path in folders.image_files(folder)[:32]])
        blocks.append(images.grid(pictures, columns=4))
        blocks.append(np.full_like(blocks[-1][:, : pictures.shape[2] // 2], 255))
    return np.concatenate(blocks[:-1], axis=1)


def samples_folder(workdir: Path, step: int, **plan_settings: Any) -> Path:
    """Where the images of a run lie; another one if the run is trained on."""
    return workdir / "-".join([f"step_{step:07d}", *map(str, plan_settings.values())])
