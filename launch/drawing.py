"""What the commands that draw images share: the flags of the sampler, what they say, and folders of images to fill."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax import images
from ssd_jax.errors import InputError
from ssd_jax.files import write_atomically
from ssd_jax.sampling import with_progress
from ssd_jax.solvers import SOLVERS
from ssd_jax.spacing import SPACINGS

SOLVER = flags.DEFINE_string("solver", "dpmpp_2m", f"One of {', '.join(SOLVERS)}.")
STEPS = flags.DEFINE_integer("steps", 30, "Network calls per image.")
SPACING = flags.DEFINE_string("spacing", "log_snr", f"One of {', '.join(SPACINGS)}, optimal.")
ETA = flags.DEFINE_float("eta", None, "0 (no fresh noise) to 1 (ancestral); overrides the solver's own.")
LABEL = flags.DEFINE_string("label", "all", "Class of all images, a number, or all: the classes in turn.")
GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Scale of classifier-free guidance; 1 is none.")
INTERVAL = flags.DEFINE_list("guidance_interval", None, "LOW,HIGH: guide only where the log-SNR lies between them.")
THRESHOLD = flags.DEFINE_float("threshold_quantile", None, "Threshold dynamically at this quantile, e.g. 0.995.")
MEMORY = flags.DEFINE_integer(
    "memory_limit",
    None,
    "MiB of intermediate results per device; a stage that needs more takes a batch in parts.",
    lower_bound=1,
)
BATCH = flags.DEFINE_integer("batch", 64, "Images at a time, over all devices; does not change them.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Image i depends on (seed, i) only.")


def label() -> int | None:
    """The value of --label, None for the classes in turn."""
    try:
        return None if LABEL.value == "all" else int(LABEL.value)
    except ValueError as error:
        raise InputError(f"--label is {LABEL.value!r}, but must be all or the number of a class") from error


def interval() -> tuple[float, float] | None:
    """The value of --guidance_interval."""
    if INTERVAL.value is None:
        return None
    try:
        low, high = map(float, INTERVAL.value)
    except ValueError as error:
        given = ",".join(INTERVAL.value)
        raise InputError(f"--guidance_interval is {given!r}, but must be two numbers, LOW,HIGH") from error
    return low, high


def plan(trained: ssd_jax.Trained, start: int | None = None) -> ssd_jax.Plan:
    """The plan that the flags ask for."""
    return ssd_jax.plan_steps(
        trained.process,
        solver=SOLVER.value,
        num_steps=STEPS.value,
        spacing=SPACING.value,
        eta=ETA.value,
        start=start,
    )


def record(trained: ssd_jax.Trained, workdir: str) -> dict:
    """All that decides what image i is."""
    settings = (SEED, SOLVER, STEPS, SPACING, ETA, LABEL, GUIDANCE, INTERVAL, THRESHOLD)
    origin = {"workdir": str(Path(workdir).resolve()), "step": trained.step}
    return origin | {flag.name: flag.value for flag in settings}


def memory_limit() -> int | None:
    """The value of --memory_limit in bytes."""
    return None if MEMORY.value is None else MEMORY.value << 20


def denoiser(trained: ssd_jax.Trained) -> Callable:
    """The model with the guidance that the flags ask for."""
    return trained.guided(GUIDANCE.value, interval(), THRESHOLD.value)


def draw(
    trained: ssd_jax.Trained, denoise: Callable, plan: ssd_jax.Plan, num: int, first_index: int, every: int | None = None
) -> Iterator[ssd_jax.Snapshot]:
    """Snapshots of images first_index .. first_index + num - 1 of --seed, from noise."""
    options = {"label": label(), "first_index": first_index, "memory_limit": memory_limit(), "every": every}
    return trained.iterate(denoise, plan, jax.random.key(SEED.value), num, **options)


def claim(out: Path, record: dict) -> None:
    """Makes `out` the folder of the images that `record` describes: samples.json is written first.

    Raises:
        InputError: if `out` holds anything else.
    """
    file, record = out / "samples.json", json.loads(json.dumps(record))
    if not file.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{str(out)!r} is not an empty folder; choose another, nothing is overwritten")
        write_atomically(file, lambda stream: stream.write(json.dumps(record, indent=2).encode()))
    try:
        found = dict(json.loads(file.read_text()))
    except ValueError as error:
        raise InputError(f"{file} cannot be read; choose another folder, nothing is overwritten") from error
    if found != record:
        name = next(name for name in {**record, **found} if found.get(name) != record.get(name))
        raise InputError(
            f"{str(out)!r} holds other images: their {name} is {found.get(name)!r}, not {record.get(name)!r}; "
            "choose another folder, nothing is overwritten"
        )


def fill(
    out: Path,
    num: int,
    batch: int,
    shape: tuple[int, ...],
    calls: int,
    draw: Callable[[int, int], Iterator[ssd_jax.Snapshot]],
) -> list[Path]:
    """Draws the images 0 .. num - 1 that are not whole in `out`, and writes each as soon as it is drawn.

    Args:
        out: folder, claimed already.
        num: images.
        batch: images at a time, over all devices; rounded up to a multiple of them.
        shape: of an image, (h, w, 3).
        calls: network calls of an image, for the progress bar.
        draw: (images, first index) -> their snapshots.

    Returns:
        All files in order.
    """
    paths = [out / f"{index:06d}.png" for index in range(num)]
    missing = {index for index, path in enumerate(paths) if not images.is_whole(path, shape)}
    devices = jax.local_device_count()
    batch = -(-min(batch, num) // devices) * devices
    firsts = batches_of(missing, batch)
    with tqdm(total=len(firsts) * calls, desc="sampling", unit="call", disable=not firsts) as bar:
        for first in firsts:
            *_, last = with_progress(draw(batch, first), bar)
            pictures = images.to_uint8(last.x)
            for index in missing.intersection(range(first, first + batch)):
                images.write_png(paths[index], pictures[index - first])
    return paths


def batches_of(missing: Iterable[int], batch: int) -> list[int]:
    """First indices of the batches that draw all `missing` images."""
    firsts: list[int] = []
    for index in sorted(missing):
        if not firsts or index >= firsts[-1] + batch:
            firsts.append(index)
    return firsts
