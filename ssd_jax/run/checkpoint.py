"""Checkpoints of a run: a folder per step below workdir/checkpoints, written by Orbax and whole or absent.

Each holds "ema" (the averages of the parameters by name, all that sampling needs), "state" (everything else of the
TrainState), "data" (where the data iterator stands) and "record" (`record.make_record`: what it was written with, and a
digest of every array); an imported one has no "state". Those of format 1 have one average without a name and no record.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ssd_jax.build import AnyExperiment
from ssd_jax.errors import InputError, one_line
from ssd_jax.files.paths import PACKAGES, Path, absolute, exists, in_bucket, to_path
from ssd_jax.run.best import Best
from ssd_jax.run.digest import digests
from ssd_jax.run.record import Damaged, check_finite, check_record, make_record
from ssd_jax.training.state import abstract_state

JSON = ("data", "record")
# What TensorStore says where a bucket does not answer, or not to this user.
UNREACHABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "ABORTED")

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


def check_room(workdir: Path, experiment: AnyExperiment) -> None:
    """Raises InputError if the disk has no room for the checkpoints that a run will keep and the one being written."""
    if in_bucket(workdir):
        return  # which has no end
    settings, folder = experiment.config.train, workdir / "checkpoints"
    leaves = jax.tree.leaves(abstract_state(experiment.objective.parameters).as_dict())
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
    experiment: AnyExperiment,
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


def _metrics(checkpoints: Checkpoints, step: int) -> dict[str, float]:
    """What the record of a checkpoint has of its evaluation: nothing if it is damaged, or of before there were any."""
    try:
        record = parts_of(checkpoints, step, {"record": None})["record"]
        check_record(record)
    except Damaged as error:
        logger.warning("checkpoint %s has no value of an evaluation: %s", checkpoints.folder / str(step), error)
        return {}
    return record.get("metrics", {})


def parts_of(checkpoints: Checkpoints, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """Parts of a checkpoint as Orbax reads them. Raises Damaged if it cannot, InputError if a bucket does not answer."""
    try:
        return checkpoints.orbax.load_checkpointables(step, abstract)
    except Exception as error:  # Orbax raises many kinds for files missing, truncated or of other shapes
        if in_bucket(checkpoints.folder) and _of_the_network(error):
            raise InputError(
                f"{checkpoints.folder / str(step)} cannot be read: {_reason(error)}; run the same again"
            ) from error
        missing = [name for name in abstract if not exists(checkpoints.folder / str(step) / name)]
        raise Damaged(f"it has no {missing[0]!r}" if missing else f"it cannot be read: {_reason(error)}") from error


def _of_the_network(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that a bucket cannot be reached, rather than what it holds."""
    return any(
        (isinstance(each, OSError) and not isinstance(each, FileNotFoundError))
        or type(each).__module__.partition(".")[0] in PACKAGES
        or any(status in str(each) for status in UNREACHABLE)
        for each in _causes(error)
    )


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
    first = _causes(error)[-1]
    return one_line(first) or type(first).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what caused it, the first cause last."""
    found: list[BaseException] = []  # causes may go round in a circle
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
