"""Draws images with a trained run and measures how good they are; or measures a folder of images as it is.

python -m launch.evaluate --workdir runs/x --num 50000 --solver dpmpp_2m --num_steps 30
python -m launch.evaluate --workdir runs/x --num 50000 --reference imagenet-stats.npz --samples samples/x
python -m launch.evaluate --samples FOLDER --reference FOLDER_OR_STATISTICS_OR_DATA_SET

Prints a table and appends to evaluations.jsonl, in the workdir (or the folder of samples), all that it takes to repeat it.
Drawing goes on where it stopped. The reference is the run's training data by default; else a file of statistics (of this
command, pytorch-fid or ADM), a folder of images as they are, "openmoji", or a data set of TFDS prepared as array_record.
Metrics of Inception-v3 (FID, sFID, KID, Inception Score, precision, recall) need its weights: `launch.import_inception`.
"""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from absl import flags

import ssd_jax
from ssd_jax.config import config_json
from ssd_jax.data.folder import fingerprint
from ssd_jax.data.sources import DataConfig, make_source
from ssd_jax.errors import InputError
from ssd_jax.files import images
from ssd_jax.files.channels import WHITE
from ssd_jax.files.paths import write_atomically
from ssd_jax.metrics import (
    FeatureSet,
    Measured,
    Reference,
    data_reference,
    evaluate,
    inception_features,
    load_statistics,
    low_pass_pixels,
    measure_reference,
    random_convolutions,
)

from .common import folders, report, sampler_flags
from .common.command import provenance, run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run; without it the images of --samples are measured.")
SAMPLES = flags.DEFINE_string("samples", None, "Folder of the images; in the workdir by default.")
NUM = flags.DEFINE_integer("num", 10_000, "Images to draw.", lower_bound=2)
REFERENCE = flags.DEFINE_string("reference", None, "Statistics (.npz), folder or data set; the training data by default.")

COLUMNS = {
    "frechet": "Frechet",
    "frechet_relative": "relative",
    "frechet_spatial": "spatial",
    "kernel": "kernel",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "near_share": "near",
    "nearer_probability": "nearer",
}


def main() -> None:
    if WORKDIR.value is None and SAMPLES.value is None:
        raise InputError("give --workdir, a run to draw with, or --samples, a folder of images")
    if WORKDIR.value is None and REFERENCE.value is None:
        raise InputError("--reference is missing: without --workdir there is no training data to compare with")
    trained = None if WORKDIR.value is None else ssd_jax.load(WORKDIR.value)
    if trained is None:
        paths = folders.image_files(Path(str(SAMPLES.value)))
        record = {"samples": str(Path(str(SAMPLES.value)).resolve())}
    else:
        if REFERENCE.value is None:
            make_source(trained.config.data, trained.process.shape)  # what cannot be read fails before anything is drawn
        paths, record = _draw(trained)
    shape = images.read_image(paths[0]).shape[:2]
    feature_sets = available_feature_sets()
    reference, name = _reference(trained, feature_sets, shape)
    feature_sets = [each for each in feature_sets if each.name in reference.measured]
    results = evaluate(feature_sets, lambda: folders.read_batches(paths), reference)
    print(tables(results))
    record |= {"num": len(paths), "reference": name, **provenance(), "results": results}
    append(Path(WORKDIR.value or str(SAMPLES.value)) / "evaluations.jsonl", record)


def _draw(trained: ssd_jax.Trained) -> tuple[list[Path], dict]:
    """The images that the flags ask for, and what they are."""
    sampler_flags.interval()
    trained.labels(sampler_flags.label(), 1)
    plan, denoise = sampler_flags.plan(trained), sampler_flags.denoiser(trained)
    record = sampler_flags.record(trained, str(WORKDIR.value))
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
    out = Path(SAMPLES.value or Path(str(WORKDIR.value), "samples", f"evaluation-{digest}"))
    folders.claim(out, record)
    print(f"drawn by {record['solver']}, {plan.calls} calls, guidance {record['guidance']:g}: {out}")
    draw = partial(sampler_flags.draw, trained, denoise, plan)
    paths = folders.fill(out, NUM.value, sampler_flags.BATCH.value, trained.encoding, plan.calls, draw)
    config = config_json(trained.config)
    return paths, record | {"parameters": "ema", "config_sha256": hashlib.sha256(config.encode()).hexdigest()}


def available_feature_sets() -> list[FeatureSet]:
    """Those that need no weights, and Inception-v3 if its weights are there; says so if not."""
    found = [low_pass_pixels(), random_convolutions()]
    try:
        return [*found, inception_features()]
    except InputError as error:
        print(f"No FID, sFID, Inception Score: {error}")
        return found


def _reference(
    trained: ssd_jax.Trained | None, feature_sets: list[FeatureSet], shape: tuple[int, ...]
) -> tuple[Reference, str]:
    """What to compare with, and its name."""
    given = REFERENCE.value
    if given is not None and given.endswith(".npz"):
        return _statistics_file(given, feature_sets, shape), given
    if given is not None and Path(given).is_dir():
        paths = folders.image_files(Path(given))
        batches = partial(folders.read_batches, paths)
        background = WHITE if trained is None else trained.config.data.background
        name = f"{given} {fingerprint(given)}"
        return measure_reference(feature_sets, batches, data=name, shape=shape, background=background), given
    if given is None:
        assert trained is not None
        config = trained.config.data
    else:
        config = DataConfig() if given == "openmoji" else DataConfig(source="tfds", tfds_name=given)
    return data_reference(config, feature_sets, shape), json.dumps(asdict(config))


def _statistics_file(path: str, feature_sets: list[FeatureSet], shape: tuple[int, ...]) -> Reference:
    """Raises InputError unless the file holds statistics of one of the feature sets, for images of `shape`."""
    found = load_statistics(path, shape=shape)
    if found.feature_set not in [each.name for each in feature_sets]:
        names = ", ".join(each.name for each in feature_sets)
        raise InputError(f"{path!r} holds statistics of {found.feature_set!r} features, but there are only {names} here")
    return Reference({found.feature_set: Measured(found, {})})


def tables(results: dict[str, dict[str, float]]) -> str:
    """One row a feature set, then the spectrum."""
    features = {name: row for name, row in results.items() if name != "spectrum"}
    shown = [column for column in COLUMNS if any(column in row for row in features.values())]
    rows = [{"features": name} | {COLUMNS[column]: row.get(column) for column in shown} for name, row in features.items()]
    if "spectrum" not in results:
        return report.plain(rows, digits=5)
    bands = {name: value for name, value in results["spectrum"].items() if name != "distance"}
    bands["distance (rms of logs)"] = results["spectrum"]["distance"]
    spectrum = [{"band": name, "variance drawn / variance of the data": value} for name, value in bands.items()]
    return f"{report.plain(rows, digits=5)}\n\n{report.plain(spectrum)}"


def append(path: Path, record: dict) -> None:
    """Adds a line of JSON to a file, which is whole at any time."""
    before = path.read_bytes() if path.exists() else b""
    write_atomically(path, lambda file: file.write(before + json.dumps(record).encode() + b"\n"))


if __name__ == "__main__":
    run(main)
