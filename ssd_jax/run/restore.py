"""Reading checkpoints: the latest that is whole, of this version or an older one; damaged ones are moved aside."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices

from ssd_jax.build import AnyExperiment
from ssd_jax.errors import InputError, brief, few
from ssd_jax.files.paths import Path, exists, is_folder, move_folder
from ssd_jax.run.best import BEST
from ssd_jax.run.checkpoint import Checkpoints, open_checkpoints, parts_of
from ssd_jax.run.digest import Digest, digests
from ssd_jax.run.record import Damaged, check_digests, check_experiment, check_finite, check_kinds, check_record
from ssd_jax.training.ema import MAIN

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """The step, state and data of a checkpoint, as `save` got them."""

    step: int
    state: dict[str, Any]
    data: dict


def restore(checkpoints: Checkpoints, experiment: AnyExperiment, abstract: dict[str, Any]) -> Restored:
    """The latest checkpoint that is whole; moves later ones, which are damaged, to workdir/damaged, saying so.

    Args:
        checkpoints: open and writable.
        experiment: that they are of.
        abstract: ShapeDtypeStructs of the state, with the shardings to restore to.

    Raises:
        InputError: if none is whole, or it is of another model, or imported.
    """

    def read(step: int) -> Restored:
        folder = checkpoints.folder / str(step)
        if exists(folder / "ema") and not exists(folder / "state"):
            raise InputError(
                "it holds averaged parameters only, as imported ones do: it can be sampled, but training cannot go on from "
                "it; choose another --workdir"
            )
        rest = {name: value for name, value in abstract.items() if name != "ema"}
        loaded = _load(checkpoints, step, experiment, {"ema": abstract["ema"], "state": rest, "data": None})
        return Restored(step, {"ema": loaded["ema"], **loaded["state"]}, loaded["data"])

    restored = _latest_whole(checkpoints, read)
    _move_later(checkpoints, restored.step)
    return restored


def restore_averages(
    workdir: Path, experiment: AnyExperiment, abstract: dict[str, Any], step: int | str | None = None
) -> tuple[int, dict[str, Any]]:
    """Step and averaged parameters, by name, of a run's latest checkpoint that is whole; reads nothing else.

    Args:
        workdir: of the run.
        experiment: that it is of.
        abstract: ShapeDtypeStructs of the averages by name, with the shardings to restore to.
        step: of another checkpoint than the latest, or "best": the lowest by train.keep_best.

    Raises:
        InputError: if there is no whole checkpoint, none of this step, or it is of another model.
    """
    if not is_folder(workdir / "checkpoints"):
        raise InputError(f"{str(workdir)!r} holds no checkpoint; train one with python -m launch.train --workdir {workdir}")
    best = experiment.config.train.keep_best
    with open_checkpoints(workdir, writable=False, best=best if step == BEST else "") as checkpoints:
        if not checkpoints.steps:
            raise InputError(f"{str(workdir)!r} holds no finished checkpoint yet")
        parts = {"ema": abstract}
        if step is None:
            return _latest_whole(checkpoints, lambda step: (step, _load(checkpoints, step, experiment, parts)["ema"]))
        if step == BEST:
            step = checkpoints.best.of(checkpoints.steps)
            if step is None:
                what = f"no checkpoint has a value of train.keep_best, {best!r}" if best else "it has no train.keep_best"
                raise InputError(f"step is {BEST!r}, but of {str(workdir)!r} {what}; give a number, or leave it out")
        if step not in checkpoints.steps:
            raise InputError(
                f"{str(workdir)!r} holds no checkpoint of step {brief(step)}, but of {few(checkpoints.steps)}; "
                "train.keep_every keeps more of them"
            )
        try:
            return step, _load(checkpoints, step, experiment, parts)["ema"]
        except InputError as error:
            raise InputError(f"checkpoint {checkpoints.folder / str(step)} cannot be used: {error}") from error


def _latest_whole(checkpoints: Checkpoints, read: Callable[[int], T]) -> T:
    """What `read` makes of the latest checkpoint that is not Damaged; says which ones are."""
    steps = checkpoints.steps[::-1]
    for step, before in zip(steps, [*steps[1:], None], strict=True):
        folder = checkpoints.folder / str(step)
        try:
            return read(step)
        except Damaged as error:
            if before is None:
                raise InputError(
                    f"checkpoint {folder} is damaged ({error}), and none before it is whole; train anew"
                ) from error
            logger.warning("checkpoint %s is damaged (%s); going back to that of step %d", folder, error, before)
        except InputError as error:
            raise InputError(f"checkpoint {folder} cannot be used: {error}") from error
    raise AssertionError("there is a checkpoint")


def _move_later(checkpoints: Checkpoints, step: int) -> None:
    """Moves the checkpoints after `step` out of the way of those that training is going to write."""
    later = [each for each in checkpoints.steps if each > step]
    if not later:
        return
    folder = checkpoints.folder
    if jax.process_index() == 0:
        for each in later:
            place, number = folder.parent / "damaged" / str(each), 0
            while exists(place):
                place, number = place.with_name(f"{each}-{number}"), number + 1
            move_folder(folder / str(each), place)
            logger.warning("moved the damaged checkpoint to %s", place)
    sync_global_devices("damaged checkpoints are moved")
    checkpoints.orbax.reload()


def _load(checkpoints: Checkpoints, step: int, experiment: AnyExperiment, abstract: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint, checked. Raises Damaged, or InputError if it is of another model."""
    folder = checkpoints.folder / str(step)
    if not exists(folder / "record"):
        logger.warning("checkpoint %s is from before checkpoints had digests: it is not checked", folder)
        loaded = parts_of(checkpoints, step, _abstract_of_format_1(abstract))
        loaded = _upgraded(loaded)
        check_finite(digests(_arrays(loaded)))
        return loaded
    record = parts_of(checkpoints, step, {"record": None})["record"]
    check_record(record)
    check_experiment(record, experiment)
    check_kinds(record, _arrays(abstract))
    loaded = parts_of(checkpoints, step, abstract)
    found: dict[str, Digest] = digests(_arrays(loaded))
    check_digests(record, found, loaded.get("data"))
    check_finite(found)
    return loaded


def _arrays(parts: dict[str, Any]) -> dict[str, Any]:
    """Of the parts of a checkpoint, under the names that they have in the state that `save` gets."""
    return {"ema": parts["ema"], **parts.get("state", {})}


def _abstract_of_format_1(abstract: dict[str, Any]) -> dict[str, Any]:
    """What format 1 has in place of these parts."""
    older = abstract | {"ema": abstract["ema"][MAIN]}
    if "state" in older:
        older["state"] = {name: value for name, value in older["state"].items() if name != "skipped_in_a_row"}
    return older


def _upgraded(loaded: dict[str, Any]) -> dict[str, Any]:
    """Parts of format 1 as today's: the only place that knows how they were."""
    newer = loaded | {"ema": {MAIN: loaded["ema"]}}
    if "state" in newer:
        newer["state"] = {**newer["state"], "skipped_in_a_row": np.zeros((), np.int32)}
    return newer
