"""Labels of images to draw: numbers or names of classes, vectors or the words that they are hashed of, or the data's."""

import io
import re
from collections.abc import Sequence
from functools import partial
from unicodedata import normalize

import numpy as np
from jaxtyping import Float

from ssd_jax.data.protocol import ReadableSource, Source, labels_of
from ssd_jax.data.words import hashed
from ssd_jax.errors import InputError, few, one_line
from ssd_jax.files.paths import Path, opened, write_atomically
from ssd_jax.network.protocol import NetworkConfig, label_size

LABELS = "labels.npy"  # in a workdir: vectors of some of the data, where labels are vectors
KEPT = 4096  # of them
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


def vectors(label: Label, num: int, size: int, *, of_words: bool) -> Float[np.ndarray, "{num} {size}"]:
    """The label of every image, from one vector or [num] of them, or from one text or [num] of them.

    Args:
        label: as given.
        num: of images.
        size: numbers of a vector.
        of_words: whether the data's labels are words, `words.hashed`, as those given in words will be.

    Raises:
        InputError: for labels that cannot be.
    """
    found = np.asarray(label)
    if found.dtype.kind == "U" and of_words and found.ndim < 2:
        found = np.stack([hashed(str(text), size) for text in np.atleast_1d(found)])
        if not found.any(axis=1).all():
            raise InputError(f"label is {label!r}, but must have words in it, letters or digits")
        found = found if np.ndim(label) else found[0]
    if not np.issubdtype(found.dtype, np.floating) or found.shape not in ((size,), (num, size)):
        given = f"{label!r}" if found.ndim == 0 else f"{found.dtype} {found.shape}"
        words = ", or words" if of_words else ""
        raise InputError(f"label is {given}, but labels of the model are vectors: float [{size}] or [{num}, {size}]{words}")
    if not np.isfinite(found).all():
        raise InputError("label holds NaN or infinity, but must be of finite numbers")
    return np.broadcast_to(found.astype(np.float32), (num, size))


def some_labels(source: Source, config: NetworkConfig) -> Float[np.ndarray, "n size"] | None:
    """KEPT of the labels of a source, or all, in an order that is drawn; None for a model whose labels are no vectors."""
    if not label_size(config):
        return None
    chosen = np.random.default_rng(0).permutation(len(source))[:KEPT]
    if source.labels is not None:
        return source.labels[chosen].astype(np.float32)
    readable = ReadableSource(source)
    return labels_of([{"label": readable[int(index)]["label"]} for index in chosen])


def keep_labels(workdir: Path, labels: Float[np.ndarray, "n size"] | None) -> None:
    """Writes labels.npy, if there are any."""
    if labels is not None:
        write_atomically(workdir / LABELS, lambda file: np.save(file, labels))


def kept_labels(workdir: Path, config: NetworkConfig) -> Float[np.ndarray, "n size"] | None:
    """What `keep_labels` wrote; None if nothing, or labels are no vectors. Raises InputError if it cannot be read."""
    size, file = label_size(config), workdir / LABELS
    if not size:
        return None
    try:
        with opened(file) as found:
            labels = np.load(io.BytesIO(found.read()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {one_line(error)}; restore it, or train anew") from error
    if labels.dtype != np.float32 or labels.shape[1:] != (size,) or not len(labels) or not np.isfinite(labels).all():
        raise InputError(f"{str(file)!r} does not hold vectors of {size} numbers; restore it, or train anew")
    return labels
