"""Draws images or clips with a trained run and measures how good they are; or measures a folder of them as it is.

python -m launch.evaluate --workdir runs/x --num 50000 --solver dpmpp_2m --num_steps 30
python -m launch.evaluate --workdir runs/x --num 50000 --reference imagenet-stats.npz --samples samples/x
python -m launch.evaluate --samples FOLDER_OR_NPZ --reference FOLDER_OR_NPZ_OR_DATA_SET
python -m launch.evaluate --workdir runs/x --num 500 --bound --likelihood

Prints a table and appends to evaluations.jsonl, in the workdir (or the folder of samples), all that it takes to repeat it.
Drawing goes on where it stopped. The reference is the run's training data by default; else a file of statistics (of this
command, pytorch-fid or ADM), images as they are (a folder, or an .npz with arr_0, as ADM's sample batches, or images, as
`launch.sample`'s), "openmoji", or a data set of TFDS prepared as array_record. What cannot be compared is refused before
anything is drawn; metrics that need more images than there are, are left out. Of clips every frame is an image, and their
spectrum over time tells how they move. --bound and --likelihood draw nothing: they measure, in bits per dimension and for
each stage, how likely the run takes images that it has not seen, those that it held out or those of --reference.
Metrics of Inception-v3 (FID, sFID, KID, Inception Score, precision, recall) need its weights: `launch.import_inception`.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import jax
import numpy as np
from absl import flags
from jax.tree_util import Partial

import ssd_jax
from ssd_jax.config import Config, config_json
from ssd_jax.data.classes import check_classes
from ssd_jax.data.sources import DataConfig, make_source
from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.json_file import append_json, json_text
from ssd_jax.files.npz import stored_arrays
from ssd_jax.files.paths import Path, check_writable, to_path
from ssd_jax.metrics import (
    FeatureSet,
    Measured,
    Reference,
    available_feature_sets,
    data_reference,
    evaluate,
    left_out,
    load_statistics,
    measure_reference,
)
from ssd_jax.metrics.evaluation import Batches, check_axes
from ssd_jax.metrics.inception import NAME as INCEPTION
from ssd_jax.processes import first_does

from .common import bits, folders, report, run_flags, sampler_flags
from .common.command import provenance, run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run; without it the images of --samples are measured.")
SAMPLES = flags.DEFINE_string(
    "samples", None, "Folder of the images, in the workdir by default; without --workdir also an .npz file of them."
)
NUM = flags.DEFINE_integer("num", 10_000, "Images to draw.", lower_bound=2)
REFERENCE = flags.DEFINE_string(
    "reference", None, "Statistics or images (.npz), folder or data set; the training data by default."
)

RECORDS = "evaluations.jsonl"
DATA_SET = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:[\d.*]+)?")  # what a name of TFDS looks like
SPECTRA = {"spectrum": "band", "temporal": "band over time"}  # what is of no features, and the titles of their tables
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
        raise InputError("give --workdir, a run to draw with, or --samples, a folder of images or an .npz file of them")
    if WORKDIR.value is None and REFERENCE.value is None:
        raise InputError("--reference is missing: without --workdir there is no training data to compare with")
    if bits.asked():
        return _measure_bits()
    # All that can be refused is refused here, before anything is measured or drawn.
    trained = None if WORKDIR.value is None else run_flags.load(WORKDIR.value)
    if trained is not None:
        check_axes(trained.process.shape)
    ours = _given(to_path(str(SAMPLES.value))) if trained is None else _drawn(trained)
    feature_sets = available_feature_sets()
    theirs = open_reference(REFERENCE.value, trained, feature_sets, ours.shape)
    for what, count in (("--samples", ours.count), ("--reference", theirs.count)):
        if count is not None and count < 2:
            raise InputError(f"{what} holds {count} image, but two or more are needed to compare")
    _say_what_is_left_out(ours.count, theirs.count, feature_sets)
    reference = theirs.measure(WHITE if trained is None else trained.config.data.background)
    batches, record = ours.draw()
    feature_sets = [each for each in feature_sets if each.name in reference.measured]
    results = evaluate(feature_sets, batches, reference)
    print(tables(results))
    _append(record | {"num": ours.count, "reference": theirs.name, **provenance(), "results": results})


def _append(record: dict) -> None:
    folder = to_path(WORKDIR.value or str(SAMPLES.value))
    first_does(partial(append_json, folder / RECORDS if folder.is_dir() else folder.with_name(RECORDS), record))


def _measure_bits() -> None:
    """--bound and --likelihood."""
    if WORKDIR.value is None or SAMPLES.value is not None:
        raise InputError("--bound and --likelihood are of a run, not of samples: give --workdir, and leave --samples out")
    trained = run_flags.load(WORKDIR.value)
    check_writable(to_path(WORKDIR.value))
    results, record = bits.measure(trained, REFERENCE.value, NUM.value)
    print(bits.table(results))
    _append(record | {**provenance(), "results": results})


def _say_what_is_left_out(generated: int, real: int | None, feature_sets: list[FeatureSet]) -> None:
    missing = left_out(generated, real)
    if all(each.name != INCEPTION for each in feature_sets):
        missing.pop("inception_score", None)
    if missing:
        needs = ", ".join(f"{name} needs {needed}" for name, needed in missing.items())
        print(f"Left out, with {generated} images and {'any' if real is None else real} to compare them with: {needs}.")


@dataclass(frozen=True)
class Samples:
    """The images to measure.

    Attributes:
        count, shape: how many there will be, and (h, w) of them, or (frames, h, w).
        draw: gives them, and a record of what they are; slow if they are still to be drawn.
    """

    count: int
    shape: tuple[int, ...]
    draw: Callable[[], tuple[Batches, dict]]


def _given(path: Path) -> Samples:
    """Images that lie there."""
    images = folders.open_images(path)
    return Samples(images.count, images.shape, lambda: (images.batches, {"samples": images.name}))


def _drawn(trained: ssd_jax.Trained) -> Samples:
    """The images that the flags ask for; claims their folder."""
    sampler_flags.interval()
    trained.labels(sampler_flags.label(), 1)
    plan, denoise = sampler_flags.plan(trained), sampler_flags.denoiser(trained)
    record, num = sampler_flags.record(trained), NUM.value
    digest = hashlib.sha256(json_text(record).encode()).hexdigest()[:8]
    workdir = to_path(str(WORKDIR.value))
    out = to_path(SAMPLES.value) if SAMPLES.value else workdir / "samples" / f"evaluation-{digest}"
    check_writable(workdir)  # where the numbers go

    def draw() -> tuple[Batches, dict]:
        print(f"drawn by {record['solver']}, {plan.calls} calls, guidance {record['guidance']:g}: {out}")
        one_batch = partial(sampler_flags.draw, trained, denoise, plan)
        paths = folders.fill(out, num, sampler_flags.BATCH.value, trained.encoding, plan.calls, one_batch)
        config = config_json(trained.config)
        width = run_flags.EMA_WIDTH.value
        average = "ema" if width is None else f"ema of width {width:g}"
        digests = {"parameters": average, "config_sha256": hashlib.sha256(config.encode()).hexdigest()}
        return partial(folders.read_batches, paths, trained.encoding.picture_shape[:-1]), record | digests

    folders.claim(out, record)
    folders.check_sizes(out, num, trained.encoding)
    return Samples(num, trained.encoding.picture_shape[:-1], draw)


@dataclass(frozen=True)
class Real:
    """A reference that can be read, and is of the right size.

    Attributes:
        name: of it.
        count: its images; None if that does not matter.
        measure: from a background to the reference; slow.
    """

    name: str
    count: int | None
    measure: Callable[[Colour], Reference]


def open_reference(
    given: str | None, trained: ssd_jax.Trained | None, feature_sets: list[FeatureSet], shape: tuple[int, ...]
) -> Real:
    """What to compare with.

    Args:
        given: a file of statistics or images, a folder, or the name of a data set; the training data if None.
        trained: the run that draws, if one does.
        feature_sets: to measure.
        shape: (h, w) of the images that are compared, (frames, h, w) of clips.

    Raises:
        InputError: if it is none of these, or cannot be compared with images of `shape`.
    """
    if given is None:
        assert trained is not None
        return _data_set(trained.config.data, feature_sets, shape, trained.config)
    path = to_path(given)
    if path.is_file() and {"mu", "sigma"} <= set(stored_arrays(path)):
        reference = _statistics_file(given, feature_sets, shape[-2:])
        return Real(given, None, lambda _: reference)
    if path.exists():
        images = folders.open_images(path, shape)
        measure = partial(measure_reference, feature_sets, images.batches, data=images.name, shape=shape)
        return Real(given, images.count, lambda background: measure(background=background))
    if given == "openmoji":
        return _data_set(DataConfig(), feature_sets, shape)
    missing = f"--reference {given!r} is no file and no folder"
    if not DATA_SET.fullmatch(given):
        raise InputError(f"{missing}; give one that exists, openmoji, or the name of a data set of TFDS")
    try:
        crop = DataConfig().crop if trained is None else trained.config.data.crop
        return _data_set(DataConfig(source="tfds", name=given, crop=crop), feature_sets, shape)
    except InputError as error:
        raise InputError(f"{missing}, and taken for a data set: {error}") from error


def _data_set(
    config: DataConfig, feature_sets: list[FeatureSet], shape: tuple[int, ...], run: Config | None = None
) -> Real:
    """A data set; that of a `run`, if one is given, has the labels that its model takes."""
    source = make_source(config, shape)
    if run is not None:
        check_classes(source, run.num_classes, run.label_size)
    return Real(json_text(asdict(config)), len(source), lambda _: data_reference(config, feature_sets, shape, source))


def _statistics_file(path: str, feature_sets: list[FeatureSet], shape: tuple[int, ...]) -> Reference:
    """Raises InputError unless the file holds statistics of one of the feature sets, for images of `shape`."""
    found = load_statistics(path, shape=shape)
    feature_set = next((each for each in feature_sets if each.name == found.feature_set), None)
    if feature_set is None:
        names = ", ".join(each.name for each in feature_sets)
        raise InputError(f"{path!r} holds statistics of {found.feature_set!r} features, but there are only {names} here")
    image = jax.ShapeDtypeStruct((1, *shape, 3), np.uint8)
    features = jax.eval_shape(lambda function, images: function(images), Partial(feature_set.function), image)
    for name, of in found.moments.items():
        needed = features[name].shape[1] if name in features else 0
        if len(of.mean) != needed:
            raise InputError(
                f"{path!r} holds statistics of {len(of.mean)} {name!r} features, but {found.feature_set} has {needed} of "
                f"images of {shape[0]}x{shape[1]} pixels; measure them again"
            )
    return Reference({found.feature_set: Measured(found, {})})


def tables(results: dict[str, dict[str, float]]) -> str:
    """One row a feature set, then the spectra."""
    features = {name: row for name, row in results.items() if name not in SPECTRA}
    shown = [column for column in COLUMNS if any(column in row for row in features.values())]
    rows = [{"features": name} | {COLUMNS[column]: row.get(column) for column in shown} for name, row in features.items()]
    shown = [report.plain(rows, digits=5)]
    for name, title in SPECTRA.items():
        if name in results:
            bands = {band: value for band, value in results[name].items() if band != "distance"}
            bands["distance (rms of logs)"] = results[name]["distance"]
            column = "variance drawn / variance of the data"
            shown.append(report.plain([{title: band, column: value} for band, value in bands.items()]))
    return "\n\n".join(shown)


if __name__ == "__main__":
    run(main)
