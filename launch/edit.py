"""Draws with a trained run from what one has: an image, a part of it, a thumbnail, or two seeds.

python -m launch.edit --workdir runs/x --image cat.png --strength 0.4 --out edits/variations
python -m launch.edit --workdir runs/x --image cat.png --mask hole.png --resample 4 --out edits/inpainted
python -m launch.edit --workdir runs/x --thumbnail cat8.png --out edits/large
python -m launch.edit --workdir runs/x --interpolate 3,17 --num 30 --label 0 --out edits/path

A variation is the noisier the greater its strength. A mask is white where to paint, or opaque if it is of one colour. A
thumbnail has the size of one of the model's lower resolutions, and keeps its pixels. Interpolation passes through the
images of the seed that it names, and makes an animation as well.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.errors import InputError
from ssd_jax.files import images
from ssd_jax.files.channels import mask_of, with_channels
from ssd_jax.files.crops import CROPS
from ssd_jax.files.paths import Path, check_new, to_path
from ssd_jax.sampling import editing
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.noise import NoiseSource, interpolated
from ssd_jax.sampling.sampler import with_progress

from .common import run_flags, sampler_flags
from .common.command import run

IMAGE = flags.DEFINE_string("image", None, "Image to vary, or to paint in; cropped and resized to the model's size.")
STRENGTH = flags.DEFINE_float("strength", None, "How much to vary the image: a share of all timesteps, > 0 and <= 1.")
MASK = flags.DEFINE_string("mask", None, "Where to paint in the image: white, or opaque; of the model's size.")
RESAMPLE = flags.DEFINE_integer("resample", 1, "Makes every step of inpainting so many times, for better seams.")
THUMBNAIL = flags.DEFINE_string("thumbnail", None, "Image to enlarge.")
INTERPOLATE = flags.DEFINE_list("interpolate", None, "Indices of the seed's images to pass through, 2 or more.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the images.", required=True)
NUM = flags.DEFINE_integer("num", 16, "Images.", lower_bound=1, upper_bound=2**16)


# What `iterate` needs: denoiser, plan, noise, and the state to start from.
Drawing = tuple[Denoise, ssd_jax.Plan, NoiseSource, jax.Array | None]


def main() -> None:
    out, num = to_path(OUT.value), NUM.value
    check_new(out)
    task, label, _ = _task(), sampler_flags.label(), sampler_flags.interval()
    trained = run_flags.load(WORKDIR.value)
    trained.check_is_of_images("launch.edit")
    if INTERPOLATE.value and label is None and trained.config.model.num_classes:
        raise InputError("--label is all, but an interpolation needs one class: its name or number")
    labels = trained.labels(label, num)
    denoise, plan, noise, start = task(trained, trained.noise(jax.random.key(sampler_flags.SEED.value), num))
    with tqdm(total=plan.calls, desc="drawing", unit="call") as bar:
        every = -(-plan.calls // 20)
        limit = sampler_flags.memory_limit()
        channels = trained.encoding.channels
        snapshots = ssd_jax.iterate(
            denoise, plan, noise, label=labels, start=start, channels=channels, memory_limit=limit, every=every
        )
        *_, last = with_progress(snapshots, bar)
    pictures, background = trained.encoding.decode(last.x), trained.config.data.background
    for index, picture in enumerate(pictures):
        images.write_png(out / f"{index:06d}.png", picture)
    images.write_png(out / "grid.png", images.grid(pictures, background=background))
    if INTERPOLATE.value:
        there_and_back = np.concatenate([pictures, pictures[-2:0:-1]])
        shape = (8 * pictures.shape[1], 8 * pictures.shape[2])
        images.write_animation(out / "animation.gif", images.enlarge(there_and_back, shape), hold=80)
    print(f"{num} images: {out}/000000.png .., {out}/grid.png{', animation.gif' if INTERPOLATE.value else ''}")


def _task() -> Callable[[ssd_jax.Trained, NoiseSource], Drawing]:
    """What the flags ask for, its files read."""
    tasks = []
    if IMAGE.value and STRENGTH.value is not None:
        tasks.append(partial(_vary, images.read_image(to_path(IMAGE.value)), STRENGTH.value))
    if IMAGE.value and MASK.value:
        tasks.append(partial(_inpaint, images.read_image(to_path(IMAGE.value)), _mask(to_path(MASK.value))))
    if THUMBNAIL.value:
        tasks.append(partial(_enlarge, images.read_image(to_path(THUMBNAIL.value))))
    if INTERPOLATE.value:
        tasks.append(partial(_interpolate, _indices(INTERPOLATE.value)))
    if len(tasks) != 1:
        raise InputError("give one of: --image and --strength; --image and --mask; --thumbnail; --interpolate")
    return tasks[0]


def _mask(path: Path) -> np.ndarray:
    """Where to paint, bool [h, w]."""
    try:
        mask = mask_of(images.read_image(path))
    except InputError as error:
        raise InputError(f"--mask {str(path)!r}: {error}") from error
    print(f"painting {mask.mean():.1%} of the image")
    return mask


def _vary(image: np.ndarray, strength: float, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    plan = sampler_flags.plan(trained, editing.timestep_of(trained.process, strength))
    return sampler_flags.denoiser(trained), plan, noise, editing.noised(plan, _fitted(image, trained), noise)


def _inpaint(image: np.ndarray, mask: np.ndarray, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    process, x0 = trained.process, _fitted(image, trained)
    denoise = editing.inpainting(sampler_flags.denoiser(trained), process, x0, ~mask)
    plan = sampler_flags.plan(trained)
    start = None if process.prior_is_noise else editing.noised(plan, x0, noise)
    return denoise, editing.resampled(plan, RESAMPLE.value), noise, start


def _enlarge(image: np.ndarray, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    process, thumbnail = trained.process, _encoded(image, trained)
    level = editing.level_of(process, thumbnail.shape[1:-1], "thumbnail")
    plan = sampler_flags.plan(trained, process.first_timestep(level))
    denoise = editing.matching(sampler_flags.denoiser(trained), process, thumbnail)
    return denoise, plan, noise, editing.noised(plan, thumbnail, noise)


def _interpolate(indices: list[int], trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    path = interpolated(jax.random.key(sampler_flags.SEED.value), indices, len(noise.keys))
    return sampler_flags.denoiser(trained), sampler_flags.plan(trained), path, None


def _indices(given: list[str]) -> list[int]:
    if not all(index.strip().isdecimal() for index in given):
        raise InputError(f"--interpolate is {','.join(given)!r}, but must be numbers of images, such as 3,17")
    return [int(index) for index in given]


def _fitted(image: np.ndarray, trained: ssd_jax.Trained) -> jax.Array:
    """x_0 of an image of any size, [1, *shape, channels]."""
    return _encoded(CROPS[trained.config.data.crop](image, trained.process.shape), trained)


def _encoded(image: np.ndarray, trained: ssd_jax.Trained) -> jax.Array:
    """x_0 of an image as it is, with the channels of the run, [1, h, w, channels]."""
    image = with_channels(image, trained.encoding.channels, trained.config.data.background)
    return trained.encoding.encode(image[None])


if __name__ == "__main__":
    run(main)
