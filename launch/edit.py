"""Draws with a trained run from what one has: an image or a clip, a part of it, a thumbnail, or two seeds.

python -m launch.edit --workdir runs/x --image cat.png --strength 0.4 --out edits/variations
python -m launch.edit --workdir runs/x --image cat.png --mask hole.png --resample 4 --out edits/inpainted
python -m launch.edit --workdir runs/x --thumbnail cat8.png --out edits/large
python -m launch.edit --workdir runs/x --interpolate 3,17 --num 30 --label 0 --out edits/path
python -m launch.edit --workdir runs/clips --image cat.gif --keep_frames 3 --out edits/future

A variation is the noisier the greater its strength. A mask is white where to paint, or opaque if it is of one colour. A
thumbnail has the size of one of the model's lower resolutions, and keeps its pixels. Interpolation passes through the
images of the seed that it names, and makes an animation as well.

With a model of clips, images are GIF, WebP or MP4 files, of which the first frames are taken, as many as the model draws. A
thumbnail is then one of a lower level, which may have fewer frames; a mask is the same for all frames, and --keep_frames
predicts what follows the first ones.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.errors import InputError
from ssd_jax.files import images, pictures
from ssd_jax.files.channels import mask_of, with_channels
from ssd_jax.files.clips import is_clip
from ssd_jax.files.crops import CROPS
from ssd_jax.files.paths import Path, check_new, to_path
from ssd_jax.files.videos import read_frames
from ssd_jax.sampling import editing
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.noise import NoiseSource, interpolated
from ssd_jax.sampling.sampler import with_progress

from .common import run_flags, sampler_flags
from .common.command import run

IMAGE = flags.DEFINE_string("image", None, "Image to vary, or to paint in; cropped and resized to the model's size.")
STRENGTH = flags.DEFINE_float("strength", None, "How much to vary the image: a share of all timesteps, > 0 and <= 1.")
KEEP_FRAMES = flags.DEFINE_integer("keep_frames", None, "First frames of a clip to keep.", lower_bound=1)
MASK = flags.DEFINE_string("mask", None, "Where to paint in the image: white, or opaque; of the model's size.")
RESAMPLE = flags.DEFINE_integer("resample", 1, "Makes every step of inpainting so many times, for better seams.")
THUMBNAIL = flags.DEFINE_string("thumbnail", None, "Image to enlarge.")
INTERPOLATE = flags.DEFINE_list("interpolate", None, "Indices of the seed's images to pass through, 2 or more.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the images.", required=True)
NUM = flags.DEFINE_integer("num", 16, "Images.", lower_bound=1, upper_bound=2**16)


MOVIES = (".gif", ".mp4")
Picture = np.ndarray | Iterator[np.ndarray]

# What `iterate` needs: denoiser, plan, noise, and the state to start from.
Drawing = tuple[Denoise, ssd_jax.Plan, NoiseSource, jax.Array | None]


def main() -> None:
    out, num = to_path(OUT.value), NUM.value
    check_new(out)
    task, label, _ = _task(), sampler_flags.label(), sampler_flags.interval()
    trained = run_flags.load(WORKDIR.value)
    if len(trained.process.shape) not in (2, 3):
        raise InputError(f"the model draws arrays of shape {trained.process.shape}; only images and clips can be edited")
    if INTERPOLATE.value and label is None and trained.experiment.objective.labelled:
        raise InputError("--label is all, but an interpolation needs one label: a class, by name or number, or words")
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
    drawn, background = trained.encoding.decode(last.x), trained.config.data.background
    paths = [out / f"{index:06d}{pictures.suffix_of(drawn.shape[1:-1])}" for index in range(num)]
    for path, array in zip(paths, drawn, strict=True):
        pictures.write_array(path, array)
    written = [paths[0], pictures.write_picture(out / "grid", pictures.picture(drawn, background))]
    if INTERPOLATE.value and drawn.ndim == 4:
        there_and_back = np.concatenate([drawn, drawn[-2:0:-1]])
        shape = (8 * drawn.shape[1], 8 * drawn.shape[2])
        written.append(out / "animation.gif")
        images.write_animation(written[-1], images.enlarge(there_and_back, shape), hold=80)
    print(f"{num} images: {' .., '.join(map(str, written[:2]))}{''.join(f', {path}' for path in written[2:])}")


def _task() -> Callable[[ssd_jax.Trained, NoiseSource], Drawing]:
    """What the flags ask for, its files read."""
    tasks = []
    if IMAGE.value and STRENGTH.value is not None:
        tasks.append(partial(_vary, _read(to_path(IMAGE.value)), STRENGTH.value))
    if IMAGE.value and MASK.value:
        tasks.append(partial(_inpaint, _read(to_path(IMAGE.value)), _mask(to_path(MASK.value))))
    if IMAGE.value and KEEP_FRAMES.value:
        tasks.append(partial(_continue, _read(to_path(IMAGE.value)), KEEP_FRAMES.value))
    if THUMBNAIL.value:
        tasks.append(partial(_enlarge, _read(to_path(THUMBNAIL.value))))
    if INTERPOLATE.value:
        tasks.append(partial(_interpolate, _indices(INTERPOLATE.value)))
    if len(tasks) != 1:
        raise InputError(
            "give one of: --image and --strength; --image and --mask; --image and --keep_frames; --thumbnail; --interpolate"
        )
    return tasks[0]


def _read(path: Path) -> Picture:
    """An image, uint8 [h, w, channels], or the frames of an animation or a movie, read one by one."""
    return _frames(path) if path.suffix.lower() in MOVIES or is_clip(path) else images.read_image(path)


def _frames(path: Path) -> Iterator[np.ndarray]:
    """uint8 RGB and alpha, [h, w, 4] each; at least one. Raises InputError, naming the file, if they cannot be read."""
    try:
        frames = read_frames(path, 0, channels=4)
        if (first := next(frames, None)) is None:
            raise InputError("it has no frame")
        yield first
        yield from frames
    except InputError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}; give a GIF, MP4 or animated WebP file") from error


def _mask(path: Path) -> np.ndarray:
    """Where to paint, bool [h, w]."""
    try:
        mask = mask_of(images.read_image(path))
    except InputError as error:
        raise InputError(f"--mask {str(path)!r}: {error}") from error
    print(f"painting {mask.mean():.1%} of the image")
    return mask


def _vary(image: Picture, strength: float, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    plan, x0 = sampler_flags.plan(trained, editing.timestep_of(trained.process, strength)), _whole(image, trained)
    return sampler_flags.denoiser(trained), plan, noise, editing.noised(plan, x0, noise)


def _inpaint(image: Picture, mask: np.ndarray, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    _check_pixels("mask", trained)
    shape = trained.process.shape
    if mask.shape != shape[-2:]:
        raise InputError(f"the mask is {mask.shape} pixels, but must be {shape[-2:]}, as the image is")
    return _keep(_whole(image, trained), np.broadcast_to(~mask, shape), trained, noise)


def _continue(clip: Picture, frames: int, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    shape, given = trained.process.shape, _fitted(clip, trained)
    if len(shape) != 3:
        raise InputError(f"--keep_frames is {frames}, but the model draws images of {shape}; leave it out, or take --mask")
    if not frames < shape[0] or len(given) < frames:
        raise InputError(
            f"--keep_frames is {frames}, but the model draws arrays of shape {shape}, and of the file {len(given)} are "
            "there; keep fewer frames"
        )
    rest = np.zeros((shape[0] - len(given), *given.shape[1:]), given.dtype)
    known = np.broadcast_to(np.arange(shape[0])[:, None, None] < frames, shape)
    return _keep(_encoded(np.concatenate([given, rest]), trained), known, trained, noise)


def _keep(x0: jax.Array, known: np.ndarray, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    """What is known stays, the rest is drawn."""
    process = trained.process
    denoise = editing.inpainting(sampler_flags.denoiser(trained), process, x0, known)
    plan = sampler_flags.plan(trained)
    start = None if process.prior_is_noise else editing.noised(plan, x0, noise)
    return denoise, editing.resampled(plan, RESAMPLE.value), noise, start


def _enlarge(image: Picture, trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    _check_pixels("thumbnail", trained)
    process = trained.process
    most = process.shape[0] + 1  # frames: one more than fit says that there are too many
    given = image if isinstance(image, np.ndarray) else np.stack(list(islice(image, most)))
    thumbnail = _encoded(given, trained)
    level = editing.level_of(process, thumbnail.shape[1:-1], "thumbnail")
    plan = sampler_flags.plan(trained, process.first_timestep(level))
    denoise = editing.matching(sampler_flags.denoiser(trained), process, thumbnail)
    return denoise, plan, noise, editing.noised(plan, thumbnail, noise)


def _check_pixels(flag: str, trained: ssd_jax.Trained) -> None:
    """Raises InputError for a model of latents: one holds many pixels, and averages are not those of smaller images."""
    if trained.encoding.bound is None:
        raise InputError(f"--{flag} gives pixels, but the model draws latents; take --strength or --interpolate")


def _interpolate(indices: list[int], trained: ssd_jax.Trained, noise: NoiseSource) -> Drawing:
    path = interpolated(jax.random.key(sampler_flags.SEED.value), indices, len(noise.keys))
    return sampler_flags.denoiser(trained), sampler_flags.plan(trained), path, None


def _indices(given: list[str]) -> list[int]:
    if not all(index.strip().isdecimal() for index in given):
        raise InputError(f"--interpolate is {','.join(given)!r}, but must be numbers of images, such as 3,17")
    return [int(index) for index in given]


def _whole(image: Picture, trained: ssd_jax.Trained) -> jax.Array:
    """x_0 of an image or of the beginning of a clip, of any size, [1, *shape, channels]."""
    fitted, shape = _fitted(image, trained), trained.encoding.picture_shape[:-1]
    if fitted.shape[:-1] != shape:
        raise InputError(f"the clip has {len(fitted)} frames, but the model draws {shape[0]}; give a longer one")
    return _encoded(fitted, trained)


def _fitted(image: Picture, trained: ssd_jax.Trained) -> np.ndarray:
    """An image of any size as large as the model's, or so the first frames of a clip, as many as the model draws."""
    shape, crop = trained.encoding.picture_shape[:-1], CROPS[trained.config.data.crop]
    if isinstance(image, np.ndarray) != (len(shape) == 2):
        given, needed = ("an image", "a GIF, MP4 or animated WebP file") if len(shape) == 3 else ("a clip", "an image")
        raise InputError(f"the model draws arrays of shape {shape}, but {given} is given; give {needed}")
    if isinstance(image, np.ndarray):
        return crop(image, shape)
    return np.stack([crop(frame, shape[-2:]) for frame in islice(image, shape[0])])


def _encoded(image: np.ndarray, trained: ssd_jax.Trained) -> jax.Array:
    """x_0 of an image or a clip as it is, with the channels of the run, [1, *spatial, channels]."""
    image = with_channels(image, trained.encoding.picture_shape[-1], trained.config.data.background)
    return trained.encoding.encode(image[None])


if __name__ == "__main__":
    run(main)
