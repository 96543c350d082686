"""Checkpoints of a run: a folder per step below workdir/checkpoints, written by Orbax and whole or absent.

Each holds "ema" (the averages of the parameters by name, all that sampling needs), "state" (everything else of the
TrainState), "data" (where the data iterator stands) and "record" (`record.make_record`: what it was written with, and a
digest of every array); an imported one has no "state". Those of format 1 have one average without a name and no record.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from orbax.checkpoint import v1 as ocp

from ssd_jax.build import Experiment
from ssd_jax.errors import InputError, brief, few, one_line
from ssd_jax.files.paths import Path, absolute, in_bucket, move_folder, to_path
from ssd_jax.run.best import BEST, Best
from ssd_jax.run.digest import Digest, digests
from ssd_jax.run.record import (
    Damaged,
    check_digests,
    check_experiment,
    check_finite,
    check_kinds,
    check_record,
    make_record,
)
from ssd_jax.training.ema import MAIN
from ssd_jax.training.state import abstract_state

JSON = ("data", "record")
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass
class Checkpoints:
    """The checkpoints of a run, open.

    Attributes:
        orbax: reads and writes them.
        best: which of them is the best by a metric, and stays.
        saving: Orbax's response to what `save` started; None if there is nothing to wait for.
    """

    orbax: ocp.training.Checkpointer
    best: Best
    saving: Any = None

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return to_path(self.orbax.directory)

    @property
    def steps(self) -> list[int]:
        """Theirs, in order."""
        return [each.step for each in self.orbax.checkpoints]


@contextmanager
def open_checkpoints(
    workdir: Path, *, writable: bool, latest: int = 2, every: int = 0, best: str = ""
) -> Iterator[Checkpoints]:
    """The checkpoints of a run; if `writable`, removes what an interrupted save left behind. Waits for saves at its end.

    Args:
        workdir: of the run.
        writable: whether to save.
        latest: how many stay on disk, the last ones: a damaged one goes back to the one before.
        every: besides these, all whose step is a multiple of this stay; 0 for none.
        best: besides these, the one with the lowest value of this metric stays; "" for none.

    Raises:
        InputError: if they cannot be listed, or the last save fails.
    """
    registry = ocp.handlers.local_registry()
    for name in JSON:
        registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
    context = ocp.Context()
    context.checkpointables.registry = registry
    policies = ocp.training.preservation_policies
    multiples = [policies.EveryNSteps(every)] if every else []
    lowest = Best(best)
    kept: Any = policies.AnyPreservationPolicy([policies.LatestN(latest), *multiples, lowest])
    folder = absolute(workdir / "checkpoints")
    with _written(folder):
        orbax = ocp.training.Checkpointer(
            str(folder), context=context, preservation_policy=kept, cleanup_tmp_directories=writable
        )
    checkpoints = Checkpoints(orbax, lowest)
    for step in checkpoints.steps if best else ():
        lowest.note(step, _metrics(checkpoints, step))
    try:
        yield checkpoints
    finally:
        with _written(folder):
            try:
                wait(checkpoints)
            finally:
                orbax.close()


def check_room(workdir: Path, experiment: Experiment) -> None:
    """Raises InputError if the disk has no room for the checkpoints that a run will keep and the one being written."""
    if in_bucket(workdir):
        return  # which has no end
    settings, folder = experiment.config.train, workdir / "checkpoints"
    leaves = jax.tree.leaves(abstract_state(experiment.abstract_parameters).as_dict())
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    multiples = settings.steps // settings.keep_every if settings.keep_every else 0
    kept = settings.keep_latest + 1 + multiples + bool(settings.keep_best)
    kept = min(kept, -(-settings.steps // settings.checkpoint_every))
    there = sum(path.name.isdecimal() for path in folder.iterdir()) if folder.is_dir() else 0
    needed = size * max(kept - there, 1)
    free = shutil.disk_usage(next(each for each in (workdir, *workdir.absolute().parents) if each.exists())).free
    if free < needed:
        raise InputError(
            f"{str(workdir)!r} has {free >> 20} MiB of room, but checkpoints of this run take {size >> 20} MiB each, "
            f"{needed >> 20} MiB together; make room, lower train.keep_latest or raise train.keep_every"
        )


def save(
    checkpoints: Checkpoints,
    step: int,
    experiment: Experiment,
    state: dict[str, Any],
    data: dict | None = None,
    metrics: dict[str, float] | None = None,
) -> None:
    """Starts saving in the background; the arrays may be donated at once.

    Args:
        step: number of the checkpoint.
        experiment: that the state is of.
        state: {"ema": averages by name, other names: ...}, pytrees of arrays; "ema" alone of what cannot be trained on.
        data: JSON of the data iterator.
        metrics: what an evaluation at this step gave, by name.

    Raises:
        InputError: if any number is not finite, or this or the last checkpoint cannot be written.
    """
    found = digests(state)
    try:
        check_finite(found)
    except Damaged as error:
        what = f"step {step} was not saved: {error}; {last_said(checkpoints)}"
        raise InputError(f"{what}; go on from it with a smaller train.learning_rate") from error
    rest = {name: value for name, value in state.items() if name != "ema"}
    record = make_record(experiment, found, data, metrics or {})
    checkpoints.best.note(step, record["metrics"])
    parts: dict[str, Any] = {"ema": state["ema"], "record": record}
    if rest:
        parts |= {"state": rest, "data": data}
    wait(checkpoints)
    with _written(checkpoints.folder):
        checkpoints.saving = checkpoints.orbax.save_checkpointables_async(step, parts, force=True)


def last_said(checkpoints: Checkpoints) -> str:
    """Of which step the last checkpoint is, for messages."""
    return f"the last checkpoint is of step {checkpoints.steps[-1]}" if checkpoints.steps else "there is no checkpoint"


def wait(checkpoints: Checkpoints) -> None:
    """Waits for what `save` started. Raises InputError if it cannot be written."""
    saving, checkpoints.saving = checkpoints.saving, None
    with _written(checkpoints.folder):
        if saving is not None:
            saving.result()  # whoever does not ask for it leaves a thread and its files behind with every save


class Restored(NamedTuple):
    """The step, state and data of a checkpoint, as `save` got them."""

    step: int
    state: dict[str, Any]
    data: dict


def restore(checkpoints: Checkpoints, experiment: Experiment, abstract: dict[str, Any]) -> Restored:
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
        if (folder / "ema").exists() and not (folder / "state").exists():
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
    workdir: Path, experiment: Experiment, abstract: dict[str, Any], step: int | str | None = None
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
    if not (workdir / "checkpoints").is_dir():
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
            while place.exists():
                place, number = place.with_name(f"{each}-{number}"), number + 1
            move_folder(folder / str(each), place)
            logger.warning("moved the damaged checkpoint to %s", place)
    sync_global_devices("damaged checkpoints are moved")
    checkpoints.orbax.reload()


def _load(checkpoints: Checkpoints, step: int, experiment: Experiment, abstract: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint, checked. Raises Damaged, or InputError if it is of another model."""
    folder = checkpoints.folder / str(step)
    if not (folder / "record").exists():
        logger.warning("checkpoint %s is from before checkpoints had digests: it is not checked", folder)
        loaded = _parts(checkpoints, step, _abstract_of_format_1(abstract))
        loaded = _upgraded(loaded)
        check_finite(digests(_arrays(loaded)))
        return loaded
    record = _parts(checkpoints, step, {"record": None})["record"]
    check_record(record)
    check_experiment(record, experiment)
    check_kinds(record, _arrays(abstract))
    loaded = _parts(checkpoints, step, abstract)
    found: dict[str, Digest] = digests(_arrays(loaded))
    check_digests(record, found, loaded.get("data"))
    check_finite(found)
    return loaded


def _metrics(checkpoints: Checkpoints, step: int) -> dict[str, float]:
    """What the record of a checkpoint has of its evaluation: nothing if it is damaged, or of before there were any."""
    try:
        record = _parts(checkpoints, step, {"record": None})["record"]
        check_record(record)
    except InputError:
        return {}
    return record.get("metrics", {})


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


def _parts(checkpoints: Checkpoints, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint as Orbax reads them. Raises Damaged if it cannot."""
    try:
        return checkpoints.orbax.load_checkpointables(step, abstract)
    except Exception as error:  # Orbax raises many kinds for files missing, truncated or of other shapes
        missing = [name for name in abstract if not (checkpoints.folder / str(step) / name).exists()]
        raise Damaged(f"it has no {missing[0]!r}" if missing else f"it cannot be read: {_reason(error)}") from error


@contextmanager
def _written(folder: Path):
    """Turns what Orbax raises when it cannot write into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of tensorstore, the file system, or a save in the background
        raise InputError(
            f"checkpoints cannot be written to {folder}: {_reason(error)}; earlier ones are as they were; make room or "
            "choose another --workdir"
        ) from error


def _reason(error: BaseException) -> str:
    """The first cause of an error in a few words."""
    seen: list[BaseException] = []  # causes may go round in a circle
    while error not in seen and (cause := error.__cause__ or error.__context__):
        seen.append(error)
        error = cause
    return one_line(error) or type(error).__name__
