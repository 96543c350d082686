"""Samples a trained run: one PNG per image, a grid of the first ones and an .npz of all; of clips one animated WebP each.

python -m launch.sample --workdir runs/x --num 64 --solver dpmpp_2m --num_steps 30 --seed 0 --animation gif --out samples/x
python -m launch.sample --workdir runs/x --label food --guidance 2 --guidance_interval=-4,4 --out samples/food
python -m launch.sample --workdir runs/x --num 50000 --batch 512 --out samples/many

Clips and volumes are lossless animated WebP files, and so is their grid; a signal is a PNG one pixel high.
Each image is written as soon as it is drawn. The same command again, or with another --num or --batch, goes on where it
stopped and draws only what is not there. All devices share a batch.
"""

from functools import partial

import numpy as np
from absl import flags

from ssd_jax.files import images, pictures
from ssd_jax.files.paths import to_path
from ssd_jax.processes import first_does
from ssd_jax.run.suitability import check_is_of_images

from .common import folders, run_flags, sampler_flags
from .common.command import run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the images.", required=True)
NUM = flags.DEFINE_integer("num", 64, "Images.", lower_bound=1, upper_bound=10**7)
ANIMATION = flags.DEFINE_enum(
    "animation", None, ["gif", "webp"], "Also writes an animation of how the first 16 came about."
)

FRAMES = 40  # of the animation
ANIMATED = 16  # images in it
SHOWN = 256  # images in the grid


def main() -> None:
    out, num = to_path(OUT.value), NUM.value
    label, _ = sampler_flags.label(), sampler_flags.interval()  # mistakes in flags show before the model is loaded
    trained = run_flags.load(WORKDIR.value)
    if ANIMATION.value:
        check_is_of_images(trained.experiment, "--animation, which shows how images come about,")
    trained.labels(label, 1)
    plan, denoise = sampler_flags.plan(trained), sampler_flags.denoiser(trained)
    folders.claim(out, sampler_flags.record(trained))
    encoding, background = trained.encoding, trained.config.data.background
    draw = partial(sampler_flags.draw, trained, denoise, plan)
    paths = folders.fill(out, num, sampler_flags.BATCH.value, encoding, plan.calls, draw)
    animation = out / f"animation.{ANIMATION.value}"
    if ANIMATION.value and not animation.exists():
        snapshots = list(draw(ANIMATED, 0, -(-plan.calls // FRAMES)))
        states, predictions = ([encoding.decode(getattr(each, name)) for each in snapshots] for name in ("x", "z"))
        first_does(lambda: images.write_animation(animation, images.growing(states, predictions, background=background)))

    def write() -> None:
        read = partial(pictures.read_array, shape=encoding.picture_shape[:-1], channels=encoding.picture_shape[-1])
        grid = pictures.write_picture(out / "grid", pictures.picture(np.stack(list(map(read, paths[:SHOWN]))), background))
        images.write_npz(out / "samples.npz", map(read, paths), (num, *encoding.picture_shape))
        print(f"{num} images at step {trained.step}: {paths[0]} .., {grid}, {out}/samples.npz")

    first_does(write)


if __name__ == "__main__":
    run(main)
