"""Data sets of Hugging Face `datasets`, by name or from a folder, read by number: its shuffle buffer forgets on resume."""

from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from ssd_jax.data.encoded import EncodedImages, ImageLook
from ssd_jax.errors import InputError, few, one_line
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.decode import read

SAVED = ("state.json", "dataset_dict.json")  # one of them lies in what `save_to_disk` wrote


class HuggingFaceSource:
    """The images of a data set, and its classes, if it has any. One that cannot be read is reported and is None.

    Args:
        name: e.g. "uoft-cs/cifar10", or a folder of Parquet files or of what `save_to_disk` wrote.
        split: e.g. "train".
        shape: (h, w) of the images.
        channels: 1, 3 or 4; if not given those of the images, as `EncodedImages` finds them.
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.
        crop: a key of CROPS.

    Raises:
        InputError: if `datasets` is not installed, the data set cannot be opened, or has no or several columns of images or
            of classes to choose from (those called "image" and "label" are taken).
    """

    def __init__(
        self,
        name: str,
        split: str,
        shape: tuple[int, ...],
        *,
        channels: int | None = None,
        background: Colour = WHITE,
        crop: str = "area",
    ):
        datasets = _library()
        try:
            data = _open(datasets, name, split)
        except Exception as error:  # `datasets` raises many kinds
            raise InputError(
                f"Hugging Face data set {name!r}, split {split!r}, cannot be opened ({one_line(error)}); "
                "give a name and a split that there are, or a folder of Parquet files"
            ) from error
        image = _column(name, data.features, datasets.Image, "image")
        label = _column(name, data.features, datasets.ClassLabel, "label")
        if image is None:
            raise InputError(f"Hugging Face data set {name!r} has no column of images, only: {few(data.features)}")
        self.class_names = tuple(data.features[label].names) if label else ()
        labels = data[label] if label else np.zeros(len(data))
        self.labels = np.array([-1 if each is None else each for each in labels], np.int32)
        encoded = data.select_columns(image).cast_column(image, datasets.Image(decode=False))
        self._images = EncodedImages(
            lambda index: _bytes(encoded[index][image]),
            [str(number) for number in range(len(data))],
            name,
            ImageLook(shape, channels, background, crop),
        )
        self.channels = self._images.channels
        self.fingerprint = f"huggingface {crop} {name} {split} {len(data)} {data._fingerprint}"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        image = self._images[int(index)]
        return None if image is None else {"image": image, "label": self.labels[int(index)]}


def _library() -> Any:
    try:
        import datasets  # a second to import, and an extra
    except ImportError as error:
        raise InputError("data.source is huggingface, which needs its library: pip install 'datasets>=4'") from error
    return datasets


def _open(datasets: Any, name: str, split: str) -> Any:
    folder = Path(name)
    if "://" in name:
        raise InputError("it does not lie on this machine: copy it, as Parquet files or as save_to_disk writes it")
    if any((folder / each).exists() for each in SAVED):
        saved = datasets.load_from_disk(name)
        if isinstance(saved, datasets.DatasetDict):
            return saved[split]
        own = str(saved.split or "train")
        if own != split:
            raise InputError(f"it is of one split, {own}; set --config.data.split={own}")
        return saved
    return datasets.load_dataset(name, split=split)


def _column(name: str, features: dict[str, Any], kind: Any, usual: str) -> str | None:
    """The one column of a kind, or that of its usual name. Raises InputError if there are several others."""
    found = [each for each, feature in features.items() if isinstance(feature, kind)]
    if usual in found or len(found) < 2:
        return usual if usual in found else next(iter(found), None)
    raise InputError(
        f"Hugging Face data set {name!r} has several columns of {kind.__name__}: {few(found)}; rename the one to use to "
        f"{usual!r}, and save it: data.rename_column(..., {usual!r}).save_to_disk(FOLDER)"
    )


def _bytes(cell: dict[str, Any] | None) -> bytes:
    """What an image's cell holds. Raises InputError if it holds nothing that can be read."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise InputError("it is empty")
    return read(Path(cell["path"])) if cell["bytes"] is None else cell["bytes"]
