"""A new run that starts from another's weights: fine-tuning on other data, more levels than before, other classes."""

import logging
from dataclasses import dataclass, replace
from typing import Any
from unicodedata import normalize

import jax
import numpy as np

from ssd_jax.build import Experiment
from ssd_jax.config import Config
from ssd_jax.errors import InputError, few
from ssd_jax.files.json_file import read_json, write_json
from ssd_jax.files.paths import Path
from ssd_jax.network.protocol import LABEL_KERNEL, LABEL_TABLE, null_label
from ssd_jax.processes import first_does, gathered
from ssd_jax.run.digest import named
from ssd_jax.run.trained import Trained
from ssd_jax.sharding import make_mesh
from ssd_jax.training.ema import MAIN
from ssd_jax.training.state import TrainState

ORIGIN = "origin.json"  # in a workdir: what the run started from
# Settings that change what a network is told and what its output means.
MEANINGS = (
    ("denoiser", "parameterisation"),
    ("denoiser", "conditioning"),
    ("denoiser", "scale_inputs"),
    ("model", "num_heads"),  # shapes do not show them
    ("model", "head_width"),
    ("process", "num_timesteps"),
    ("process", "noise_schedule"),
    ("process", "noise_sigma"),
    ("process", "zero_terminal_snr"),
    ("process", "snr_policy"),
)
OF_VECTORS = (("data", "name_size"),)  # the same of labels that are vectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Taken:
    """What became of the parameters of a run that started from another's, by their names.

    Attributes:
        taken: those that are the other's.
        classes: of the table of labels, those whose rows are the other's.
        new: those that were initialised anew, and why.
        unused: the other's that have no place here.
    """

    taken: tuple[str, ...]
    classes: tuple[str, ...]
    new: dict[str, str]
    unused: tuple[str, ...]


def start_from(state: TrainState, experiment: Experiment, origin: Trained, workdir: Path) -> TrainState:
    """The first state of a run with the averaged weights of `origin` wherever name and shape agree; says which they are.

    Rows of the table of labels (`network.protocol.LABEL_TABLE`) are taken over by the names of the classes. The moments of
    Adam begin at 0. Writes origin.json, with all names.

    Args:
        state: as initialised, on its devices.
        experiment: that it is of.
        origin: the other run.
        workdir: of the new run.

    Raises:
        InputError: if nothing of `origin` fits.
    """
    values, told = _matched(state.parameters, experiment, origin)
    if not told.taken:
        raise InputError(
            f"none of the {len(told.unused)} parameters of init_from has the name and shape of one here, such as "
            f"{few(told.new, 2)}; give a run of the same kind of network"
        )
    for section, name in MEANINGS + (OF_VECTORS if LABEL_KERNEL in told.taken else ()):
        before, now = (_setting(each, section, name) for each in (origin.config, experiment.config))
        if before != now:
            logger.warning("%s.%s was %s there and is %s: the same weights mean something else", section, name, before, now)
    new = f"; new: {few(told.new, 20)}" if told.new else ""
    classes = f", of the labels {few(told.classes, 20)}" if told.classes else ""
    unused = f"; not used: {few(told.unused, 20)}" if told.unused else ""
    logger.info(
        "started from step %d: %d of %d parameters taken%s%s%s",
        *(origin.step, len(told.taken), len(told.taken) + len(told.new), classes, new, unused),
    )
    record = {"step": origin.step, "weights": origin.digest, "taken": told.taken, "classes": told.classes}
    record |= {"new": told.new, "unused": told.unused}
    first_does(lambda: write_json(workdir / ORIGIN, record))
    parameters, ema = (_placed(tree, values) for tree in (state.parameters, state.ema[MAIN]))
    return replace(state, parameters=parameters, ema={MAIN: ema})


def _setting(config: Config, section: str, name: str) -> Any:
    """A field of a config; None if its network has none, or does not use it."""
    unused = name == "num_heads" and getattr(config.model, "head_width", 0)
    return None if unused else getattr(getattr(config, section), name, None)


def forget_origin(workdir: Path) -> None:
    """Removes what a run that never saved anything left of where it started from."""
    first_does(lambda: (workdir / ORIGIN).unlink(missing_ok=True))


def check_origin(origin: Trained, workdir: Path) -> None:
    """Raises InputError unless the run that goes on in `workdir` started from `origin`."""
    try:
        before = read_json(workdir / ORIGIN)["weights"]
    except (FileNotFoundError, InputError, KeyError, TypeError):
        before = None
    if before != origin.digest:
        what = "no other run" if before is None else "other weights"
        raise InputError(
            f"{str(workdir)!r} holds a run that started from {what}; leave out init_from or take another workdir"
        )


def _matched(parameters: Any, experiment: Experiment, origin: Trained) -> tuple[dict[str, np.ndarray], Taken]:
    """The values to take over by the names of parameters, and what becomes of all of them."""
    theirs, values = named(gathered(origin.network.parameters, make_mesh())), {}
    new: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    for name, ours in named(parameters).items():
        found = theirs.pop(name, None)
        if found is None:
            new[name] = "not there"
        elif name == LABEL_TABLE and found.shape[1:] == ours.shape[1:]:
            values[name], classes = _rows(ours, np.array(found), experiment.config, origin.config)
            if not classes:
                new[name] = "no class has the same name"
                del values[name]
        elif found.shape != ours.shape:
            new[name] = f"has shape {ours.shape}, there {found.shape}"
        elif not np.any(found) and np.any(gathered(ours, make_mesh())):
            new[name] = "is zero there, never trained"
        else:
            values[name] = np.array(found)
    return values, Taken(tuple(values), classes, new, tuple(theirs))


def _rows(ours: jax.Array, theirs: np.ndarray, config: Config, before: Config) -> tuple[np.ndarray, tuple[str, ...]]:
    """A table of labels with the rows of classes that have the same name, and these; and that of the null class."""
    table = np.array(gathered(ours, make_mesh()))
    numbers = {normalize("NFC", name): number for number, name in enumerate(before.data.classes or ())}
    names = config.data.classes or ()
    classes = tuple(name for name in names if normalize("NFC", name) in numbers)
    for name in classes:
        table[names.index(name)] = theirs[numbers[normalize("NFC", name)]]
    if null_label(config.model) is not None and null_label(before.model) is not None:
        table[config.num_classes] = theirs[before.num_classes]
    return table, classes


def _placed(tree: Any, values: dict[str, np.ndarray]) -> Any:
    """The tree with these values at their names, on the devices where what they replace was."""

    def place(value: np.ndarray, leaf: jax.Array) -> jax.Array:
        value = value.astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

    leaves = [place(values[name], leaf) if name in values else leaf for name, leaf in named(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
