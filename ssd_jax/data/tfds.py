"""Data sets prepared by TensorFlow Datasets as array_record, read without TensorFlow."""

from typing import Any, SupportsIndex

import numpy as np

from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour, with_channels
from ssd_jax.files.crops import CROPS


class TfdsSource:
    """A prepared TFDS data set with an "image" and perhaps a "label" feature.

    Args:
        name: e.g. "celeb_a" or "imagenet2012:5.1.0".
        split: e.g. "train" or "train[:90%]".
        shape: (h, w) of the images.
        channels: 1, 3 or 4; those of the data set if not given.
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.
        crop: a key of CROPS.

    Raises:
        InputError: if the data set is unknown, not prepared as array_record, has no images, or none with opacity if
            channels is 4.
    """

    labels = None  # not known without reading every item

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
        self.class_names = tuple(features["label"].names) if "label" in features else ()
        own = features["image"].shape[-1]
        if channels == 4 and own != 4:
            raise InputError(f"data.channels is 4, but the images of TFDS data set {name!r} have {own}; set it to 3 or 1")
        self.channels, self._shape, self._background, self._crop = channels or own, shape, background, CROPS[crop]
        self.fingerprint = f"tfds {crop} {builder.info.full_name} {split} {len(self._items)}"  # with its version

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        item = self._items[index]
        image = with_channels(np.asarray(item["image"]), self.channels, self._background)
        label = item["label"] if self.class_names else 0
        return {"image": self._crop(image, self._shape), "label": np.asarray(label, np.int32)}
