"""Samples a trained run: one PNG per image, a grid of the first ones and an .npz of all.

python -m launch.sample --workdir runs/x --num 64 --solver dpmpp_2m --steps 30 --seed 0 --animation gif --out samples/x
python -m launch.sample --workdir runs/x --label 3 --guidance 2 --guidance_interval=-4,4 --out samples/x3
python -m launch.sample --workdir runs/x --num 50000 --batch 512 --out samples/many

Each image is written as soon as it is drawn. The same command again, or with another --num or --batch, goes on where it
stopped and draws only what is not there. All devices share a batch.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from launch import drawing
from launch.command import run
from ssd_jax import images
from ssd_jax.errors import InputError
from ssd_jax.files import write_atomically
from ssd_jax.sampling import with_progress

NUM = flags.DEFINE_integer("num", 64, "Images.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 64, "Images at a time, over all devices; does not change them.", lower_bound=1)
ANIMATION = flags.DEFINE_enum(
    "animation", None, ["gif", "webp"], "Also writes an animation of how the first 16 came about."
)

FRAMES = 40  # of the animation
SHOWN = 256  # images in the grid


def main() -> None:
    out, num = Path(drawing.OUT.value), NUM.value
    label, _ = drawing.label(), drawing.interval()  # mistakes in flags show before the model is loaded
    trained = ssd_jax.load(drawing.WORKDIR.value)
    trained.labels(label, 1)
    plan, denoise = drawing.plan(trained), drawing.denoiser(trained)
    claim(out, drawing.record(trained))
    shape, paths = (*trained.process.shape, 3), [out / f"{index:06d}.png" for index in range(num)]
    missing = {index for index, path in enumerate(paths) if not images.is_whole(path, shape)}
    animation = out / f"animation.{ANIMATION.value}"
    animated = {0} if ANIMATION.value and not animation.exists() else set()
    devices = jax.local_device_count()
    batch = -(-min(BATCH.value, num) // devices) * devices
    batches, every = batches_of(missing | animated, batch), -(-len(plan.timesteps) // FRAMES)
    with tqdm(total=len(batches) * len(plan.timesteps), desc="sampling", unit="call") as bar:
        for first in batches:
            snapshots = with_progress(drawing.draw(trained, denoise, plan, batch, first, every), bar)
            if first in animated:
                snapshots = list(snapshots)
                pairs = zip(*((snapshot.x, snapshot.z) for snapshot in snapshots), strict=True)
                states, predictions = ([images.to_uint8(array[:16]) for array in arrays] for arrays in pairs)
                images.write_animation(animation, images.growing(states, predictions))
            *_, last = snapshots
            pictures = images.to_uint8(last.x)
            for index in missing.intersection(range(first, first + batch)):
                images.write_png(paths[index], pictures[index - first])
    images.write_png(out / "grid.png", images.grid(np.stack([images.read_image(path) for path in paths[:SHOWN]])))
    images.write_npz(out / "samples.npz", map(images.read_image, paths), (num, *shape))
    print(f"{num} images at step {trained.step}: {paths[0]} .., {out}/grid.png, {out}/samples.npz")


def claim(out: Path, record: dict) -> None:
    """Makes `out` the folder of the images that `record` describes: samples.json is written first.

    Raises:
        InputError: if `out` holds anything else.
    """
    file, record = out / "samples.json", json.loads(json.dumps(record))
    if not file.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {str(out)!r} is not an empty folder; choose another, nothing is overwritten")
        write_atomically(file, lambda stream: stream.write(json.dumps(record, indent=2).encode()))
    try:
        found = dict(json.loads(file.read_text()))
    except ValueError as error:
        raise InputError(f"{file} cannot be read; choose another --out, nothing is overwritten") from error
    if found != record:
        name = next(name for name in {**record, **found} if found.get(name) != record.get(name))
        raise InputError(
            f"--out {str(out)!r} holds other images: their {name} is {found.get(name)!r}, not {record.get(name)!r}; "
            "choose another, nothing is overwritten"
        )


def batches_of(missing: Iterable[int], batch: int) -> list[int]:
    """First indices of the batches that draw all `missing` images."""
    firsts: list[int] = []
    for index in sorted(missing):
        if not firsts or index >= firsts[-1] + batch:
            firsts.append(index)
    return firsts


if __name__ == "__main__":
    run(main)
