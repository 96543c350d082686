"""What a run keeps of its averaged parameters on the way, workdir/averages/step_N.npz: for averages of other widths."""

import re
from functools import partial
from typing import Any

import jax
import numpy as np

from ssd_jax.errors import InputError
from ssd_jax.files.npz import read_npz
from ssd_jax.files.paths import Path, is_folder, write_atomically
from ssd_jax.processes import first_does
from ssd_jax.run.digest import named
from ssd_jax.training.ema import reconstruction

FOLDER = "averages"
DECAY = "ema_decay"  # of the run when it was kept, beside the arrays


def keep_average(workdir: Path, step: int, parameters: Any, decay: float) -> None:
    """Writes the average after `step` steps, whole in every process; one of the same step is replaced."""
    arrays = jax.device_get(named(parameters)) | {DECAY: np.float64(decay)}
    path = workdir / FOLDER / f"step_{step:07d}.npz"
    first_does(partial(write_atomically, path, lambda file: np.savez(file, allow_pickle=False, **arrays)))


def average_of_width(workdir: Path, step: int, abstract: Any, width: float) -> Any:
    """The power-function average of a run after `step` steps, from what was kept of it (`ema.reconstruction`).

    Args:
        workdir: of the run.
        step: of its checkpoint.
        abstract: shapes and types of the parameters.
        width: standard deviation of its weights over the length of the training, 0 < width < ema.WIDEST.

    Raises:
        InputError: if nothing was kept at `step`, or what was does not fit the run or the width.
    """
    kept = {number: path for number, path in _kept(workdir).items() if number <= step}
    if step not in kept:
        raise InputError(
            f"ema_width is {width:g}, but {workdir / FOLDER} holds no average of step {step}; leave it out, or train with "
            "train.snapshot_every"
        )
    shapes = {name: leaf.shape for name, leaf in named(abstract).items()}
    decays = {number: read_npz(path, without=shapes).get(DECAY, np.nan) for number, path in sorted(kept.items())}
    values = set(map(float, decays.values()))
    if len(values) > 1 or np.isnan(min(values)):
        found = ", ".join(map(str, values))
        raise InputError(f"{workdir / FOLDER} holds averages of several train.ema_decay ({found}); leave ema_width out")
    factors, total = reconstruction(list(decays), values.pop(), width), dict.fromkeys(shapes, 0.0)
    for number, factor in zip(decays, factors, strict=True):
        arrays = read_npz(kept[number], without=(DECAY,))
        if {name: array.shape for name, array in arrays.items()} != shapes:
            raise InputError(f"{kept[number]} holds parameters of another model; leave ema_width out")
        total = {name: value + factor * arrays[name].astype(np.float64) for name, value in total.items()}
    leaves, structure = jax.tree.flatten(abstract)
    return structure.unflatten(np.asarray(total[name], leaf.dtype) for name, leaf in zip(shapes, leaves, strict=True))


def _kept(workdir: Path) -> dict[int, Path]:
    """The files by their steps."""
    folder = workdir / FOLDER
    paths = sorted(folder.glob("step_*.npz")) if is_folder(folder) else []
    return {int(found[1]): path for path in paths if (found := re.fullmatch(r"step_(\d+)\.npz", path.name))}
