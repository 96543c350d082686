"""What a run shows of itself on the way, besides the losses of its steps: sample grids and the loss on held-out images."""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from ssd_jax.build import Experiment
from ssd_jax.files import images
from ssd_jax.files.events import Events
from ssd_jax.run.trained import Trained
from ssd_jax.sharding import make_mesh, replicated
from ssd_jax.training.ema import MAIN
from ssd_jax.training.holdout import Holdout
from ssd_jax.training.stage_sampling import Allocation
from ssd_jax.training.state import TrainState


@dataclass(frozen=True, eq=False)
class Watch:
    """Looks at the averaged parameters of a run; all that it takes can be taken again.

    Attributes:
        experiment: what is trained.
        workdir: its folder.
        allocation: of the draws of its stages.
        events: of TensorBoard.
        holdout: the loss on held-out images; None without any.
    """

    experiment: Experiment
    workdir: Path
    allocation: Allocation
    events: Events
    holdout: Holdout | None

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Logs and returns, by name, what can be said of the averaged parameters in numbers."""
        found: dict[str, float] = {}
        if self.holdout is not None:
            means = mean_losses(self.holdout.losses(state.ema[MAIN]), self.allocation)
            found |= {f"holdout/{name}": value for name, value in means.items()}
        self.events.scalars(found, step)
        return found

    def write_samples(self, state: TrainState, step: int) -> None:
        """A grid of samples, always from the same seed."""
        parameters = jax.device_put(state.ema[MAIN], replicated(make_mesh()))
        trained = Trained(self.experiment, self.experiment.denoiser(parameters), step)
        pictures = trained.encoding.decode(trained.sample(jax.random.key(0), trained.config.sample.num, progress=True))
        if jax.process_index() == 0:
            grid = images.enlarged_grid(pictures, background=trained.config.data.background)
            images.write_png(self.workdir / "samples" / f"step_{step:07d}.png", grid)
            self.events.picture("samples", grid, step)


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
