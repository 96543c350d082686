"""Samples a trained run: one PNG per image, a grid and an .npz.

python -m launch.sample --workdir runs/x --num 64 --solver ddim --steps 50 --seed 0 --out samples/x
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
SOLVER = flags.DEFINE_string("solver", "ddim", "ddim or ancestral.")
STEPS = flags.DEFINE_integer("steps", 50, "Network calls per image.")
ETA = flags.DEFINE_float("eta", None, "0 (ddim) to 1 (ancestral); overrides the solver's own.")
LABEL = flags.DEFINE_integer("label", None, "Class of all images, for a model with classes.")
SEED = flags.DEFINE_integer("seed", 0, "Image i depends on (seed, i) only.")


def main() -> None:
    out = Path(OUT.value)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {OUT.value!r} is not an empty folder; choose another, nothing is overwritten")
    trained = ssd_jax.load(WORKDIR.value)
    key = jax.random.key(SEED.value)
    batch = min(BATCH.value, NUM.value)
    label = None if LABEL.value is None else np.full(batch, LABEL.value)
    pictures = []
    for first in tqdm(range(0, NUM.value, batch), desc="sampling", unit="batch"):
        drawn = trained.sample(
            key, batch, solver=SOLVER.value, num_steps=STEPS.value, eta=ETA.value, label=label, first_index=first
        )
        for index, picture in enumerate(images.to_uint8(drawn)[: NUM.value - first], start=first):
            images.write_png(out / f"{index:06d}.png", picture)
            pictures.append(picture)
    stacked = np.stack(pictures)
    images.write_png(out / "grid.png", images.grid(stacked))
    write_atomically(out / "samples.npz", lambda file: np.savez_compressed(file, images=stacked))
    print(f"{NUM.value} images at step {trained.step}: {out}/000000.png .., {out}/grid.png, {out}/samples.npz")


if __name__ == "__main__":
    run(main)
