"""Labels of images to draw, given by the numbers or the names of classes."""

import re
from collections.abc import Sequence
from functools import partial
from unicodedata import normalize

import numpy as np

from ssd_jax.errors import InputError, few

Label = int | str | Sequence[int] | Sequence[str] | np.ndarray


def numbered(label: Label, num: int, num_classes: int, names: Sequence[str]) -> np.ndarray:
    """The label of every image, int [num], from that of one class or [num] of them, by number or by name.

    Args:
        label: as given; a name that is a number counts as a name.
        num: of images.
        num_classes: of the model; 0 for none.
        names: of the classes, if they are known.

    Raises:
        InputError: for labels that cannot be.
    """
    found = np.asarray(label)
    if not num_classes:
        raise InputError("label is given, but the model has 0 classes; leave it out")
    if found.dtype.kind == "U":
        found = np.vectorize(partial(_number, num_classes, names), otypes=[int])(found)
    if found.shape not in ((), (num,)) or not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"label is {found.dtype} {found.shape}, but must be one int or int [{num}]")
    if found.min() < 0 or found.max() >= num_classes:
        raise InputError(f"label holds {found.min()}..{found.max()}, but the model's classes are 0..{num_classes - 1}")
    return np.broadcast_to(found, num)


def _number(num_classes: int, names: Sequence[str], name: str) -> int:
    """Of the class of a name."""
    known = {normalize("NFC", each): number for number, each in enumerate(names)}
    number = known.get(normalize("NFC", name))
    if number is not None:
        return number
    if re.fullmatch("[0-9]{1,9}", name) and int(name) < num_classes:
        return int(name)
    told = (
        f"one of the classes {few(list(known))}, or a number" if known else "a number (the run keeps no names of classes)"
    )
    raise InputError(f"label is {name!r}, but must be {told} in 0..{num_classes - 1}")
