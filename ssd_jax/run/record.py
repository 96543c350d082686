"""The record of a checkpoint: what it was written with, and a digest of all that it holds."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

from ssd_jax.build import AnyExperiment
from ssd_jax.config import AnyConfig, any_from_json, as_dict, config_json
from ssd_jax.errors import InputError
from ssd_jax.run.digest import Digest, kinds
from ssd_jax.training.loss import LEARNED

FORMAT = 2  # of checkpoints; those of format 1 have no record
DEFINING = ("model", "process", "denoiser")  # the sections of a config that weights are bound to, besides:
DEFINING_FIELDS = (
    ("data", "channels"),
    ("data", "classes"),
    ("data", "holdout"),
    ("encoding", "digest"),
    ("encoding", "mean"),
    ("encoding", "deviation"),
)


class Damaged(InputError):
    """A checkpoint is not what was written; the one before may be."""


def make_record(
    experiment: AnyExperiment, arrays: dict[str, Digest], data: dict | None, metrics: dict[str, float]
) -> dict[str, Any]:
    """The record, as JSON, of a checkpoint of an experiment that holds these arrays and this state of the data iterator.

    What an evaluation at its step gave, by name, stands in it too, as far as it is finite.
    """
    record = {
        "format": FORMAT,
        "config": config_json(experiment.config),
        "statistics": sha256_of(_statistics(experiment)),
        "data": sha256_of(data),
        "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        "arrays": {name: [each.kind, each.value] for name, each in arrays.items()},
    }
    return record | {"sha256": sha256_of(record)}


def check_record(record: Any) -> None:
    """Raises Damaged if a record is not as it was written, InputError if a newer version wrote it."""
    if not isinstance(record, dict):
        raise Damaged("its record is not as it was written")
    written = record.get("format")
    if record.get("sha256") != sha256_of({name: value for name, value in record.items() if name != "sha256"}):
        raise Damaged("its record is not as it was written")
    if written != FORMAT:
        raise InputError(f"it has format {written!r}, but this version reads 1 to {FORMAT}; install a newer ssd_jax")


def check_experiment(record: dict[str, Any], experiment: AnyExperiment) -> None:
    """Raises InputError, naming the first field that differs, if a checkpoint was written with another model or process."""
    written = any_from_json(record["config"])
    for name, before, now in differences(written, experiment.config):
        raise InputError(f"it was written with {name} = {before}, but config.json says {now}; restore config.json")
    if experiment.statistics is not None and record["statistics"] != sha256_of(_statistics(experiment)):
        raise InputError("it was written with other statistics of the data than statistics.json holds; restore that file")


def check_kinds(record: dict[str, Any], abstract: dict[str, Any]) -> None:
    """Raises InputError, naming the first, if arrays are missing, or of another dtype or shape than those of `abstract`."""
    for name, kind in kinds(abstract).items():
        found, _ = record["arrays"].get(name, ("not there", ""))
        if found != kind:
            raise InputError(f"it is of another model: {name} is {found}, but must be {kind}; choose another --workdir")


def check_digests(record: dict[str, Any], found: dict[str, Digest], data: dict | None) -> None:
    """Raises Damaged, naming the first, if arrays are not those that were written, or the state of the iterator is not."""
    for name, each in found.items():
        if record["arrays"][name][1] != each.value:
            raise Damaged(f"{name} is not what was written")
    if data is not None and record["data"] != sha256_of(data):
        raise Damaged("the state of the data iterator is not what was written")


def check_finite(arrays: dict[str, Digest]) -> None:
    """Raises Damaged if any array holds a number that is not finite."""
    wrong = [name for name, each in arrays.items() if not each.finite]
    if wrong:
        raise Damaged(f"{len(wrong)} of {len(arrays)} arrays hold numbers that are not finite, the first {wrong[0]}")


def differences(before: AnyConfig, now: AnyConfig) -> Iterator[tuple[str, Any, Any]]:
    """The fields that weights are bound to and that differ: name, value before, value now."""
    old, new = as_dict(before), as_dict(now)
    names = [(section, name) for section in DEFINING for name in new.get(section, {}) | old.get(section, {})]
    for section, name in [*names, *DEFINING_FIELDS]:
        before_it, now_it = (sections.get(section, {}).get(name) for sections in (old, new))
        if before_it != now_it and (name, before_it) != ("classes", None):  # of runs from before names were kept
            yield f"{section}.{name}", before_it, now_it
    weightings = before.train.loss_weighting, now.train.loss_weighting
    if len(set(weightings)) > 1 and LEARNED in weightings:  # one has log-variances of the loss to go on with
        yield "train.loss_weighting", *weightings


def _statistics(experiment: AnyExperiment) -> dict | None:
    return None if experiment.statistics is None else dataclasses.asdict(experiment.statistics)


def sha256_of(value: Any) -> str:
    """Of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
