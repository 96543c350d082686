"""Where samples of several levels lose quality: a run with one level takes over at full resolution.

python -m launch.studies.handover --workdir runs/experiment/preserve-seed0 --baseline runs/experiment/one_level-seed0

Both processes have the same states at level 0, so that one network can finish what the other began. Frechet distances of
what is drawn from pure noise, and from noised real images just before every change of resolution: if our run leads up to
level 0 and the baseline on from there, and if the baseline does all from the same log-SNR of the image. What the first
loses against the second, it loses below level 0; from real images, in the changes of resolution still to come.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.analysis.empirical import noisy_states
from ssd_jax.data import make_source
from ssd_jax.data.protocol import labels_of
from ssd_jax.errors import InputError
from ssd_jax.metrics import data_reference, evaluate, low_pass_pixels, random_convolutions
from ssd_jax.sampling.noise import seeded
from ssd_jax.sampling.plan import DEFAULT_STEPS

from ..common import report
from ..common.command import run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run with several levels, without blur.", required=True)
BASELINE = flags.DEFINE_string("baseline", None, "Folder of a run with one level, same data and size.", required=True)
NUM = flags.DEFINE_integer("num", 1024, "Images drawn for every number.", lower_bound=2)
BATCH = flags.DEFINE_integer("batch", 256, "Images at a time.", lower_bound=1)

Draw = Callable[[int], jax.Array]  # first index of a batch -> its images
Real = tuple[np.ndarray, np.ndarray]  # x_0, float32 [NUM, *shape, channels]; their labels, int [NUM]


def main() -> None:
    ours, baseline = (ssd_jax.load(Path(folder)) for folder in (WORKDIR.value, BASELINE.value))
    if ours.process.shape != baseline.process.shape or baseline.process.num_levels != 1:
        raise InputError(f"--baseline {BASELINE.value!r} must be of one level and of {ours.process.shape} pixels")
    if ours.process.num_levels == 1 or ours.process.dissipation is not None:
        raise InputError(f"--workdir {WORKDIR.value!r} must be of several levels and without blur; give another run")
    real = real_images(ours)
    feature_sets = [low_pass_pixels(), random_convolutions()]
    reference = data_reference(ours.config.data, feature_sets, ours.process.shape)

    def row(start: str, by: str, draw: Draw) -> report.Row:
        drawn = [ours.encoding.decode(draw(first)) for first in range(0, NUM.value, BATCH.value)]
        found = evaluate(feature_sets, lambda: drawn, reference)
        return {"from": start, "drawn by": by} | {each.name: found[each.name]["frechet_relative"] for each in feature_sets}

    print(report.plain([row(*each) for each in tqdm(contestants(ours, baseline, real), "contestants")]))


def contestants(ours: ssd_jax.Trained, baseline: ssd_jax.Trained, real: Real) -> list[tuple[str, str, Draw]]:
    """Where each begins, which networks draw, and how."""
    found: list[tuple[str, str, Draw]] = [
        ("noise", "ours", partial(draw_from, ours, None, None)),
        ("noise", "baseline", partial(draw_from, baseline, None, None)),
        ("noise", "ours, baseline", partial(draw_with_both, ours, baseline, None, None)),
    ]
    for level in reversed(ours.process.used_levels[1:]):
        t = ours.process.first_timestep(level)
        start, same = f"t = {t}, {report.size(ours.process.level_shape(level))} px", same_log_snr(ours, t, baseline)
        found.append((start, "ours, baseline", partial(draw_with_both, ours, baseline, real, t)))
        found.append((f"t = {same}", "baseline", partial(draw_from, baseline, real, same)))
    return found


def real_images(trained: ssd_jax.Trained) -> Real:
    """NUM readable images of the run's data, drawn at random."""
    source, rng = make_source(trained.config.data, trained.process.shape), np.random.default_rng(0)
    items = (source[index] for index in rng.integers(len(source), size=2 * NUM.value).tolist())
    items = list(islice((item for item in items if item is not None), NUM.value))
    if len(items) < NUM.value:
        raise InputError(f"{len(items)} of {2 * NUM.value} images of the data can be read, but --num is {NUM.value}")
    images = trained.encoding.encode(np.stack([item["image"] for item in items]))
    return np.asarray(images), labels_of(items)


def same_log_snr(ours: ssd_jax.Trained, t: int, baseline: ssd_jax.Trained) -> int:
    """The baseline's timestep at which the image has the log-SNR that it has at our `t`."""
    return int(np.argmin(np.abs(baseline.process.image_log_snr - ours.process.image_log_snr[t])))


def draw_from(trained: ssd_jax.Trained, real: Real | None, t: int | None, first: int) -> jax.Array:
    """Images first, first + 1, ..: of one run, from its own noise, or from `real` noised to `t`."""
    *_, last = snapshots(trained, real, t, first, noised(trained, real, t, first))
    return last.x


def draw_with_both(
    ours: ssd_jax.Trained, baseline: ssd_jax.Trained, real: Real | None, t: int | None, first: int
) -> jax.Array:
    """The same, by our run up to its first state at level 0 and by the baseline from there."""
    begun = snapshots(ours, real, t, first, noised(ours, real, t, first))
    x = next(snapshot.x for snapshot in begun if snapshot.stage.is_up and snapshot.stage.out_level == 0)
    timesteps = remaining_plan(ours, None).timesteps
    reached = int(timesteps[timesteps < ours.process.first_timestep(ours.process.used_levels[1])][0])
    *_, last = snapshots(baseline, real, same_log_snr(ours, reached, baseline), first, x)
    return last.x


def snapshots(
    trained: ssd_jax.Trained, real: Real | None, t: int | None, first: int, start: jax.Array | None
) -> Iterator[ssd_jax.Snapshot]:
    """A batch of images, drawn from the states `start` at `t` or from T - 1; of the labels of `real`, or in turn."""
    count = min(BATCH.value, NUM.value - first)
    noise = seeded(jax.random.key(0), first + np.arange(count))
    label = None if real is None or not trained.experiment.objective.labelled else real[1][first : first + count]
    labels = trained.labels(label, count, first)
    return ssd_jax.iterate(
        trained.denoiser, remaining_plan(trained, t), noise, label=labels, start=start, channels=trained.encoding.channels
    )


def remaining_plan(trained: ssd_jax.Trained, t: int | None) -> ssd_jax.Plan:
    """The default plan, or what is left of it from `t` on."""
    return ssd_jax.plan_steps(trained.process, num_steps=min(DEFAULT_STEPS, trained.process.num_timesteps), start=t)


def noised(trained: ssd_jax.Trained, real: Real | None, t: int | None, first: int) -> jax.Array | None:
    """x_t of a batch of `real`, if there is any."""
    if real is None or t is None:
        return None
    images = jnp.asarray(real[0][first : first + BATCH.value])
    return noisy_states(trained.process, images, t, jax.random.fold_in(jax.random.key(1), first))


if __name__ == "__main__":
    run(main)
