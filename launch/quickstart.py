"""From nothing to emoji on a laptop: renders the data, trains, samples, shows where the pictures are.

python -m launch.quickstart
"""

import time

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.data import make_source
from ssd_jax.errors import InputError
from ssd_jax.files import images
from ssd_jax.files.paths import to_path
from ssd_jax.sampling.sampler import with_progress

from .common.command import run
from .common.config_flag import define_config, read_config

define_config("openmoji32")
WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder of the run.")


def main() -> None:
    config, workdir = read_config(), to_path(WORKDIR.value)
    if len(config.process.shape) != 2:
        raise InputError(
            f"process.shape is {config.process.shape}, but the quickstart shows images of (h, w); train with launch.train"
        )
    times = [time.perf_counter()]
    make_source(config.data, config.process.shape)  # rendered once, then cached
    times.append(time.perf_counter())
    ssd_jax.train(config, WORKDIR.value)
    times.append(time.perf_counter())
    trained = ssd_jax.load(workdir)
    snapshots, decode, background = draw(trained), trained.encoding.decode, config.data.background
    images.write_png(workdir / "samples.png", images.enlarged_grid(decode(snapshots[-1].x), background=background))
    states, predictions = [decode(s.x[:4]) for s in snapshots], [decode(s.z[:4]) for s in snapshots]
    images.write_png(workdir / "denoising.png", images.denoising_strip(states, predictions, background))
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
    plan, num = trained.plan(), trained.config.sample.num
    snapshots = trained.iterate(trained.guided(), plan, jax.random.key(1), num, every=-(-plan.calls // 8))
    with tqdm(total=plan.calls, desc="sampling", unit="call") as bar:
        return list(with_progress(snapshots, bar))


if __name__ == "__main__":
    run(main)
