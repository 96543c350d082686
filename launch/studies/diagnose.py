"""Where a run with several levels knows less than one with a single level: denoising errors of the coarse image.

python -m launch.studies.diagnose --workdir runs/experiment/preserve-seed0 --baseline runs/experiment/one_level-seed0

For timesteps of every stage, and those of the baseline at which the image has the same log-SNR, the mean squared error of
the image at the coarsest resolution, on states of the same images: of both networks, and of the best guess from the data
set itself (`ssd_jax.empirical`), which has no weights to train. If both ratios agree, the network does what can be done,
and the state does not hold more. Last, what the states hold: nats per image.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.analysis.empirical import noisy_states, posterior_error, state_information
from ssd_jax.errors import InputError
from ssd_jax.process.stages import Stage

from ..common import report
from ..common.command import run
from .quality import different_images, predictions

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run with several levels.", required=True)
BASELINE = flags.DEFINE_string("baseline", None, "Folder of a run with one level, same data and size.", required=True)
IMAGES = flags.DEFINE_integer("images", 4096, "Of the data set, at most.", lower_bound=2)
STATES = flags.DEFINE_integer("states", 256, "Noisy states at every timestep.", lower_bound=1)


def main() -> None:
    ours, baseline = (ssd_jax.load(Path(folder)) for folder in (WORKDIR.value, BASELINE.value))
    if ours.process.shape != baseline.process.shape or baseline.process.num_levels != 1:
        raise InputError(f"--baseline {BASELINE.value!r} must be of one level and of {ours.process.shape} pixels")
    images, labels = different_images(ours, IMAGES.value)
    chosen = np.random.default_rng(0).choice(len(images), min(STATES.value, len(images)), replace=False)
    coarse = ours.process.degrade(images, ours.process.used_levels[-1])
    key = jax.random.key(0)
    rows = []
    for t, stage in tqdm(timesteps(ours.process.stages), "timesteps"):
        errors, best, nats = [], [], []
        same = int(np.argmin(np.abs(baseline.process.image_log_snr - ours.process.image_log_snr[t])))
        for trained, its_t in ((ours, t), (baseline, same)):
            errors.append(network_error(trained, images[chosen], labels[chosen], coarse[chosen], ours, its_t, key))
            best.append(posterior_error(trained.process, images, chosen, coarse, its_t, key))
            nats.append(state_information(trained.process, images, chosen, its_t, key))
        row = {"t": t, "stage": str(stage)}
        for name, (a, b) in (("network", errors), ("best", best)):
            row |= {name: a, f"{name}, 1 level": b, f"{name}, ratio": a / b}
        rows.append(row | {"nats": nats[0], "nats, 1 level": nats[1]})
    print(report.plain(rows))


def timesteps(stages: tuple[Stage, ...]) -> list[tuple[int, Stage]]:
    """Both ends of every stage, noisiest first."""
    return [
        (t, stage) for stage in stages for t in dict.fromkeys((stage.t_max, (stage.t_min + stage.t_max) // 2, stage.t_min))
    ]


def network_error(
    trained: ssd_jax.Trained,
    images: jax.Array,
    labels: np.ndarray,
    coarse: jax.Array,
    ours: ssd_jax.Trained,
    t: int,
    key: jax.Array,
) -> float:
    """Mean squared error of the network's prediction, taken to the coarsest level of our process."""
    stage = next(stage for stage in trained.process.stages if stage.t_min <= t <= stage.t_max)
    predicted = predictions(trained, noisy_states(trained.process, images, t, key), labels, t, stage)
    last = ours.process.used_levels[-1]
    return float(jnp.mean(jnp.square(ours.process.degrade(predicted, last, start=stage.out_level) - coarse)))


if __name__ == "__main__":
    run(main)
