"""Samples a trained run: one PNG per image, a grid and an .npz.

python -m launch.sample --workdir runs/x --num 64 --solver ddim --steps 50 --seed 0 --out samples/x
python -m launch.sample --workdir runs/x --label 3 --guidance 2 --guidance_interval=-4,4 --out samples/x3
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from launch.command import run
from ssd_jax import images
from ssd_jax.errors import InputError
from ssd_jax.files import write_atomically

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the images; must be empty or new.", required=True)
NUM = flags.DEFINE_integer("num", 64, "Images.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch", 64, "Images at a time; does not change them.", lower_bound=1)
SOLVER = flags.DEFINE_string("solver", "ddim", "ancestral, ddim, dpmpp_2m or dpmpp_2m_sde.")
STEPS = flags.DEFINE_integer("steps", 50, "Network calls per image.")
ETA = flags.DEFINE_float("eta", None, "0 (no fresh noise) to 1 (ancestral); overrides the solver's own.")
LABEL = flags.DEFINE_string("label", "all", "Class of all images, a number, or all: the classes in turn.")
GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Scale of classifier-free guidance; 1 is none.")
INTERVAL = flags.DEFINE_list("guidance_interval", None, "LOW,HIGH: guide only where the log-SNR lies between them.")
THRESHOLD = flags.DEFINE_float("threshold_quantile", None, "Threshold dynamically at this quantile, e.g. 0.995.")
SEED = flags.DEFINE_integer("seed", 0, "Image i depends on (seed, i) only.")


def main() -> None:
    out = Path(OUT.value)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {OUT.value!r} is not an empty folder; choose another, nothing is overwritten")
    label, interval = _label(), _interval()
    trained = ssd_jax.load(WORKDIR.value)
    key = jax.random.key(SEED.value)
    batch = min(BATCH.value, NUM.value)
    pictures = []
    for first in tqdm(range(0, NUM.value, batch), desc="sampling", unit="batch"):
        drawn = trained.sample(
            key,
            batch,
            solver=SOLVER.value,
            num_steps=STEPS.value,
            eta=ETA.value,
            label=label,
            guidance=GUIDANCE.value,
            guidance_interval=interval,
            threshold_quantile=THRESHOLD.value,
            first_index=first,
        )
        for index, picture in enumerate(images.to_uint8(drawn)[: NUM.value - first], start=first):
            images.write_png(out / f"{index:06d}.png", picture)
            pictures.append(picture)
    stacked = np.stack(pictures)
    images.write_png(out / "grid.png", images.grid(stacked))
    write_atomically(out / "samples.npz", lambda file: np.savez_compressed(file, images=stacked))
    print(f"{NUM.value} images at step {trained.step}: {out}/000000.png .., {out}/grid.png, {out}/samples.npz")


def _label() -> int | None:
    try:
        return None if LABEL.value == "all" else int(LABEL.value)
    except ValueError as error:
        raise InputError(f"--label is {LABEL.value!r}, but must be all or the number of a class") from error


def _interval() -> tuple[float, float] | None:
    if INTERVAL.value is None:
        return None
    try:
        low, high = map(float, INTERVAL.value)
    except ValueError as error:
        given = ",".join(INTERVAL.value)
        raise InputError(f"--guidance_interval is {given!r}, but must be two numbers, LOW,HIGH") from error
    return low, high


if __name__ == "__main__":
    run(main)
