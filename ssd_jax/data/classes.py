"""What labels mean is part of a model: checks that numbers of classes keep their meaning, and vectors their size."""

import logging
from collections import Counter
from collections.abc import Sequence
from unicodedata import normalize

import numpy as np

from ssd_jax.data.protocol import Source
from ssd_jax.errors import InputError, few

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation"}

logger = logging.getLogger(__name__)


def compare_classes(expected: tuple[str, ...] | None, found: Sequence[str]) -> None:
    """Raises InputError, naming those that differ, unless label i has one name in both."""
    if expected is None:
        return
    before, now = ({normalize("NFC", name): number for number, name in enumerate(names)} for names in (expected, found))
    differences = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "moved": [f"{name} from {before[name]} to {now[name]}" for name in now if before.get(name, now[name]) != now[name]],
    }
    if any(differences.values()):
        told = "; ".join(f"{what}: {few(names)}" for what, names in differences.items() if names)
        raise InputError(
            f"the data have other classes than data.classes says, which the model knows by number ({told}); restore them, "
            "or train anew in another --workdir"
        )


def check_distinct(name: str, names: Sequence[str]) -> None:
    several = [each for each, count in Counter(names).items() if count > 1]
    if several:
        raise InputError(f"{name} names {few(several)} more than once; every class must have a name of its own")


def check_classes(source: Source, num_classes: int, label_size: int = 0) -> None:
    """Raises InputError unless the labels of the source are what a model takes; warns of what may not be meant.

    Args:
        source: of images.
        num_classes: of the model; 0 if its labels are no classes.
        label_size: numbers of its labels, if they are vectors; 0 if not.
    """
    names, size = tuple(source.class_names), vector_size(source) if num_classes or label_size else 0
    if (num_classes and size) or label_size != size:
        given = f"vectors of {size} numbers" if size else f"the numbers of {len(names)} classes" if names else "none"
        wants = f"model.label_size is {label_size}" if label_size else f"model.num_classes is {num_classes}"
        raise InputError(
            f"{wants}, but the labels of the data are {given}; set --config.model.label_size={size} and "
            f"--config.model.num_classes={0 if size else len(names)}"
        )
    if size and source.labels is not None and not np.isfinite(source.labels).all():
        raise InputError("labels of the data hold NaN or infinity, but must be vectors of finite numbers; mend them")
    if names and all(name.lower() in SPLITS for name in names):
        splits = f"the classes of the data are {few(names)}, which are splits of data rather than classes"
        if num_classes:
            raise InputError(f"{splits}; set --config.data.folder to one of these folders, .../{names[0]}")
        logger.warning("%s: the model trains on all of them", splits)
    if not num_classes:
        return
    if not names:
        raise InputError(
            f"model.num_classes is {num_classes}, but the data has no labels; set --config.model.num_classes=0 or "
            "use a source with classes (an image folder with one sub-folder per class)"
        )
    if len(names) != num_classes:
        raise InputError(
            f"the data has labels 0..{len(names) - 1} ({few(names)}), but model.num_classes is {num_classes}; set "
            f"--config.model.num_classes={len(names)}"
        )
    check_distinct("the data", names)
    check_labels(source)


def vector_size(source: Source) -> int:
    """Numbers of the labels of a source that are vectors; 0 if they are not. Where they are unknown, looks at an image."""
    if source.labels is not None:
        return source.labels.shape[1] if source.labels.ndim == 2 else 0
    item = next((item for item in (source[i] for i in range(len(source))) if item is not None), None)
    return 0 if item is None or np.ndim(item["label"]) != 1 else len(item["label"])


def check_labels(source: Source) -> None:
    """Raises InputError if an image is in none of the source's classes; where labels are not known, looks at one image."""
    labels, classes = source.labels, len(source.class_names)
    if labels is None:
        labels = np.array([item["label"] for item in [source[0]] if item is not None], np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise InputError(
            f"{len(outside)} of {len(source)} images of the data are in no class, with labels such as {labels[outside[0]]} "
            f"while there are 0..{classes - 1}; move them into folders of classes, or leave them out by a split file"
        )
