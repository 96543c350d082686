"""What a run shows of itself on the way, besides the losses of its steps: sample grids, and evaluations in numbers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from ssd_jax.build import Experiment
from ssd_jax.config import AnyConfig
from ssd_jax.data.protocol import Source
from ssd_jax.files import images, pictures
from ssd_jax.files.channels import Colour
from ssd_jax.files.events import Events
from ssd_jax.files.paths import Path
from ssd_jax.metrics import FeatureSet, Moments, available_feature_sets, data_reference, frechet_distance, measure
from ssd_jax.run.trained import Trained
from ssd_jax.sharding import make_mesh, replicated
from ssd_jax.training.ema import MAIN
from ssd_jax.training.holdout import Holdout
from ssd_jax.training.stage_sampling import Allocation
from ssd_jax.training.state import TrainState


@dataclass(frozen=True, eq=False)
class Real:
    """What samples are compared with.

    Attributes:
        feature_sets: by which.
        moments: of the training data's features, by the names of the sets.
    """

    feature_sets: list[FeatureSet]
    moments: dict[str, Moments]


def measure_real(config: AnyConfig, source: Source) -> Real:
    """What there is of the images that are trained on; measured once, then read from the cache folder."""
    feature_sets = available_feature_sets()
    reference = data_reference(config.data, feature_sets, config.image_shape, source)
    moments = {name: each.statistics.moments["pool"] for name, each in reference.measured.items()}
    return Real(feature_sets, moments)


def metric_names(stages: Sequence[object], held_out: Source | None, real: Real | None) -> list[str]:
    """What `Watch.evaluate` gives, with the losses of these stages."""
    losses = [] if held_out is None else ["loss", *(f"loss/{stage}" for stage in stages)]
    distances = [] if real is None else real.moments
    return [*(f"holdout/{name}" for name in losses), *(f"frechet/{name}" for name in distances)]


@dataclass(frozen=True, eq=False)
class Watch:
    """Looks at the averaged parameters of a run; all that it takes can be taken again.

    Attributes:
        experiment: what is trained.
        workdir: its folder.
        allocation: of the draws of its stages.
        events: of TensorBoard.
        holdout: the loss on held-out images; None without any.
        real: what samples are compared with; None to draw none.
    """

    experiment: Experiment
    workdir: Path
    allocation: Allocation
    events: Events
    holdout: Holdout | None
    real: Real | None

    def means(self, losses: list[dict[str, jax.Array]]) -> dict[str, float]:
        """`mean_losses` of several steps."""
        return mean_losses(losses, self.allocation)

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Logs and returns, by name, what can be said of the averaged parameters in numbers."""
        found: dict[str, float] = {}
        if self.holdout is not None:
            means = self.means(self.holdout.losses(state.ema[MAIN]))
            found |= {f"holdout/{name}": value for name, value in means.items()}
        if self.real is not None:
            drawn = _samples(self._trained(state, step))
            distances = frechet_distances(drawn, self.real, self.experiment.config.data.background)
            found |= {f"frechet/{name}": value for name, value in distances.items()}
        self.events.scalars(found, step)
        return found

    def write_samples(self, state: TrainState, step: int) -> None:
        """A grid of samples, always of the same seed; of clips it moves, and TensorBoard has rows of their frames."""
        trained = self._trained(state, step)
        drawn = trained.encoding.decode(trained.sample(jax.random.key(0), trained.config.sample.num, progress=True))
        write_grid(self.workdir, self.events, drawn, trained.config.data.background, step)

    def _trained(self, state: TrainState, step: int) -> Trained:
        parameters = jax.device_put(state.ema[MAIN], replicated(make_mesh()))
        return Trained(self.experiment, self.experiment.denoiser(parameters), step)


def frechet_distances(
    batches: Iterable[UInt8[np.ndarray, "_ *shape channels"]], real: Real, background: Colour
) -> dict[str, float]:
    """Of batches of pictures to the training data, by feature set."""
    drawn, found = list(batches), {}
    for each in real.feature_sets:
        moments = measure(each, drawn, keep=0, background=background).statistics.moments["pool"]
        found[each.name] = frechet_distance(moments, real.moments[each.name])
    return found


def write_grid(
    workdir: Path,
    events: Events,
    drawn: UInt8[np.ndarray, "n *shape channels"],
    background: Colour,
    step: int,
    columns: int | None = None,
) -> None:
    """A grid of what was drawn in workdir/samples and among the events, by the first process.

    Of clips it moves, and the events have rows of their frames.
    """
    if jax.process_index() == 0:
        grid = pictures.picture(drawn, background, partial(images.enlarged_grid, columns=columns))
        pictures.write_picture(workdir / "samples" / f"step_{step:07d}", grid)
        events.picture("samples", grid[0] if len(grid) == 1 else pictures.strip(drawn, background), step)


def _samples(trained: Trained) -> Iterator[UInt8[np.ndarray, "n *shape channels"]]:
    """config.train.evaluate_num samples of one seed, in batches as large as those of training."""
    num, size = trained.config.train.evaluate_num, trained.config.train.batch_size
    plan, denoise = trained.plan(), trained.guided()
    for first in tqdm(range(0, num, size), "evaluating", leave=False, unit="batch"):
        *_, last = trained.iterate(denoise, plan, jax.random.key(0), size, first_index=first)
        yield trained.encoding.decode(last.x)[: num - first]


def mean_losses(losses: list[dict[str, jax.Array]], allocation: Allocation) -> dict[str, float]:
    """Mean loss of each stage over several of them, and "loss": their mean in proportion to the stages' probabilities."""
    by_stage: dict[str, list[float]] = {}
    for each in jax.device_get(losses):
        for stage, loss in each.items():
            by_stage.setdefault(stage, []).append(float(loss))
    means = {str(stage): float(np.mean(by_stage[str(stage)])) for stage in allocation.stages if str(stage) in by_stage}
    weights = [p for stage, p in zip(allocation.stages, allocation.probabilities, strict=True) if str(stage) in means]
    return {"loss": float(np.average(list(means.values()), weights=weights))} | {
        f"loss/{stage}": mean for stage, mean in means.items()
    }
