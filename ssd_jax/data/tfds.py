"""Data sets prepared by TensorFlow Datasets as array_record, read without TensorFlow."""

from typing import Any, SupportsIndex

import numpy as np

from ssd_jax.errors import InputError
from ssd_jax.files.decode import fit


class TfdsSource:
    """A prepared TFDS data set with an "image" and perhaps a "label" feature.

    Args:
        name: e.g. "celeb_a" or "imagenet2012:5.1.0".
        split: e.g. "train" or "train[:90%]".
        image_size: pixels on a side; images are centre-cropped and resized.

    Raises:
        InputError: if the data set is unknown, not prepared as array_record, or has no images.
    """

    labels = None  # not known without reading every item

    def __init__(self, name: str, split: str, image_size: int):
        import tensorflow_datasets as tfds  # seconds to import, and few runs need it

        try:
            builder: Any = tfds.builder(name, file_format="array_record")
            self._items = builder.as_data_source(split=split)
        except Exception as error:  # TFDS raises many kinds, NotFound and AssertionError among them
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"TFDS data set {name!r}, split {split!r}, cannot be opened ({first_line}); prepare it with "
                f"`tfds build {name} --file_format=array_record`"
            ) from error
        features = builder.info.features
        if "image" not in features:
            raise InputError(f"TFDS data set {name!r} has no feature 'image', only: {', '.join(features)}")
        self.num_classes = features["label"].num_classes if "label" in features else 0
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        item = self._items[index]
        image = np.broadcast_to(item["image"], (*item["image"].shape[:2], 3))
        label = item["label"] if self.num_classes else 0
        return {"image": fit(image, (self._image_size, self._image_size)), "label": np.asarray(label, np.int32)}
