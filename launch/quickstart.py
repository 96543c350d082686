"""From nothing to emoji on a laptop: renders the data, trains, samples, shows where the pictures are.

python -m launch.quickstart
"""

import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

import ssd_jax
from ssd_jax.data import make_source
from ssd_jax.files import images

from .common.command import run
from .common.config_flag import define_config, read_config

define_config("openmoji32")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the run.")


def main() -> None:
    config, workdir = read_config(), Path(WORKDIR.value)
    times = [time.perf_counter()]
    make_source(config.data, config.process.image_size)  # rendered once, then cached
    times.append(time.perf_counter())
    ssd_jax.train(config, workdir)
    times.append(time.perf_counter())
    snapshots = draw(ssd_jax.load(workdir))
    images.write_png(workdir / "samples.png", images.enlarged_grid(images.to_uint8(snapshots[-1].x)))
    states, predictions = [np.asarray(s.x[:4]) for s in snapshots], [np.asarray(s.z[:4]) for s in snapshots]
    images.write_png(workdir / "denoising.png", images.denoising_strip(states, predictions))
    times.append(time.perf_counter())
    data, training, sampling = np.diff(times)
    print(f"""
    {workdir}/samples.png     emoji that never were
    {workdir}/denoising.png   how they came about: states, and below them the predictions, stage by stage
    (data {data:.0f} s, training {training:.0f} s with compilation, sampling {sampling:.0f} s with compilation)

Go on with
    python -m launch.train --config configs/openmoji32.py --workdir {workdir} --config.train.steps={4 * config.train.steps}
    python -m launch.sample --workdir {workdir} --num 64 --seed 2 --out {workdir}/more
""")


def draw(trained: ssd_jax.Trained) -> list[ssd_jax.Snapshot]:
    """Samples a grid, with about ten snapshots on the way."""
    settings = trained.config.sample
    plan = ssd_jax.plan_steps(trained.process, solver=settings.solver, num_steps=settings.steps)
    every = -(-settings.steps // 8)
    denoise = trained.guided(settings.guidance)
    return list(trained.iterate(denoise, plan, jax.random.key(1), settings.num, every=every))


if __name__ == "__main__":
    run(main)
