"""Small images out of photographs, to train on: random crops.

apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers
for package in *.deb; do dpkg -x $package wallpapers; done
python -m launch.studies.photographs --folder wallpapers/usr/share --names launch/studies/photographs.txt \\
    --out data/photographs32 [--size 32 --num 8192 --seed 0]
python -m launch.studies.frontier --out runs/photographs --config.data.source=folder \\
    --config.data.folder=data/photographs32 --config.model.num_classes=0 --config.model.label_dropout=0

Takes the JPEGs at any depth below the folder that are large enough; other formats hold drawings more often than not. With
--names only those that a text file lists, as packages of wallpapers hold drawings, too, and one picture in many sizes. Each
is shrunk until its shorter side is --lines, which hides lens and compression; random crops of twice the size are halved.
"""

import os
import pathlib
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from absl import flags
from jaxtyping import UInt8
from tqdm import tqdm

from ssd_jax.errors import SEED_LIMIT, InputError, few
from ssd_jax.files.images import read_image, write_png
from ssd_jax.files.paths import Path, check_writable, to_local_path, to_path

from ..common.command import run
from ..common.folders import image_files

FOLDER = flags.DEFINE_string("folder", None, "Folder of photographs.", required=True)
NAMES = flags.DEFINE_string("names", None, "Text file of those to take: the end of a path a line; # begins a comment.")
OUT = flags.DEFINE_string("out", None, "Folder to be made.", required=True)
SIZE = flags.DEFINE_integer("size", 32, "Pixels a side.", lower_bound=2, upper_bound=1024)
NUM = flags.DEFINE_integer("num", 8192, "Images, of all photographs in turn.", lower_bound=1, upper_bound=10**6)
LINES = flags.DEFINE_integer(
    "lines", 540, "Pixels of a photograph's shorter side when it is cut.", lower_bound=4, upper_bound=2**16
)
SEED = flags.DEFINE_integer("seed", 0, "Of the places.", lower_bound=0, upper_bound=SEED_LIMIT - 1)


def main() -> None:
    out, size = to_local_path(OUT.value), SIZE.value
    if out.exists():
        raise InputError(f"--out {str(out)!r} is there already; choose another folder, nothing is overwritten")
    if LINES.value < 2 * size:
        raise InputError(f"--lines is {LINES.value}, but must be at least {2 * size}, twice --size")
    check_writable(out.parent)
    files = [file for file in image_files(to_path(FOLDER.value)) if file.suffix.lower() in (".jpg", ".jpeg")]
    files = named(files, to_local_path(NAMES.value)) if NAMES.value else files
    read = (read_shrunk(file) for file in tqdm(files, "photographs"))
    used = [image for image in read if image is not None]
    if not used:
        raise InputError(f"--folder {FOLDER.value!r} holds no JPEG of {LINES.value} lines or more; give another folder")
    with TemporaryDirectory(dir=out.parent) as scratch:
        whole = pathlib.Path(scratch) / "images"
        whole.mkdir()
        for index, image in enumerate(crops(used)):
            write_png(whole / f"{index:06d}.png", image)
        os.replace(whole, out)
    print(f"{out}: {NUM.value} images of {size} x {size} pixels out of {len(used)} photographs")


def named(files: list[Path], names: pathlib.Path) -> list[Path]:
    """The files whose paths end as the lines of a text file do. Raises InputError for a line that is the end of none."""
    try:
        lines = [line.strip() for line in names.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"--names {str(names)!r} is no text in UTF-8; give one path a line") from error
    wanted = [pathlib.Path(line).parts for line in lines if line and not line.startswith("#")]
    if not wanted:
        raise InputError(f"--names {str(names)!r} lists nothing; give one path a line")
    found = {each: [file for file in files if file.parts[-len(each) :] == each] for each in wanted}
    if missing := ["/".join(each) for each in wanted if not found[each]]:
        raise InputError(f"--names {str(names)!r} lists what is no JPEG below --folder: {few(missing)}; unpack it there")
    return sorted({file for some in found.values() for file in some})


def read_shrunk(file: Path) -> UInt8[np.ndarray, "h w 3"] | None:
    """A photograph whose shorter side is shrunk to LINES, uint8 RGB; None if it is shorter."""
    image = read_image(file, channels=3)
    height, width = image.shape[:2]
    scale = LINES.value / min(height, width)
    if scale > 1:
        return None
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def crops(photographs: list[UInt8[np.ndarray, "_ _ 3"]]) -> Iterator[UInt8[np.ndarray, "size size 3"]]:
    """Image i is of photograph i, counted round, its place by (SEED, i)."""
    size = SIZE.value
    for index in range(NUM.value):
        photograph = photographs[index % len(photographs)]
        room = np.array(photograph.shape[:2]) - 2 * size
        top, left = np.random.default_rng((SEED.value, index)).integers(0, room + 1).tolist()
        crop = photograph[top : top + 2 * size, left : left + 2 * size]
        yield cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    run(main)
