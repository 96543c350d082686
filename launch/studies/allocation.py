"""How many draws every stage of a training step had better get: measured on a trained run.

python -m launch.studies.allocation --workdir runs/openmoji32 [--parts 4]

Measures how noisy the gradient of a draw is in every stage, or in parts of its timesteps, as Adam sees it, and shares draws
out so that the gradient of a step is least noisy for what the step costs: by what was measured, and by cost alone. Prints
what a config needs for it. Measured at the run's averaged weights; a run trained halfway shows how it was until there.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.config import TrainConfig
from ssd_jax.data import make_source
from ssd_jax.data.pipeline import make_iterator
from ssd_jax.errors import InputError
from ssd_jax.process.stages import Stage
from ssd_jax.training.gradient_noise import GradientMoments, gradient_moments, gradient_variances
from ssd_jax.training.loss import LEARNED
from ssd_jax.training.stage_sampling import stage_probabilities, timestep_shares, wanted_draws
from ssd_jax.training.step import draws

from ..common import report
from ..common.command import run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.", required=True)
DRAWS = flags.DEFINE_integer("draws", 128, "Images, timesteps and noises of every part.", lower_bound=2)
PARTS = flags.DEFINE_integer("parts", 1, "Of the timesteps of every stage.", lower_bound=1)


@dataclass(frozen=True)
class Part:
    """Some timesteps of a stage.

    Attributes:
        stage: whose.
        number, count: which of how many parts.
        timesteps: a stage of these alone.
        cost: operations of a draw.
        probability: that a training image belongs to it.
    """

    stage: Stage
    number: int
    count: int
    timesteps: Stage
    cost: float
    probability: float

    @property
    def share(self) -> float:
        """Of the stage's timesteps."""
        return (self.timesteps.t_max + 1 - self.timesteps.t_min) / (self.stage.t_max + 1 - self.stage.t_min)


def main() -> None:
    trained = ssd_jax.load(Path(WORKDIR.value))
    config = trained.config.train
    if config.timestep_parts not in (1, PARTS.value):
        raise InputError(
            f"--parts is {PARTS.value}, but the run has train.timestep_parts={config.timestep_parts}; give that"
        )
    if config.loss_weighting == LEARNED:
        raise InputError(
            f"the run has train.loss_weighting={LEARNED}, which is no part of what was loaded; give a run of another one"
        )
    parts = all_parts(trained)
    before = part_draws(parts, config, trained.process.log_snr)
    found = [moments(trained, part) for part in tqdm(parts, "gradients")]
    probabilities = np.array([part.probability for part in parts])
    variances = gradient_variances(found, probabilities, before)
    variances = variances / variances[-1]
    plain = replace(config, allocation="proportional", gradient_variances=(), timestep_parts=1)
    by_cost = replace(plain, allocation="cost_aware")
    measured = replace(by_cost, gradient_variances=tuple(variances.tolist()), timestep_parts=PARTS.value)
    shared = {"proportional": plain, "by cost": by_cost, "by cost and noise": measured}
    wanted = {name: part_draws(parts, each, trained.process.log_snr) for name, each in shared.items()}
    rows = []
    for i, part in enumerate(parts):
        raw = float(np.sum(found[i].variance, dtype=np.float64) / np.sum(found[-1].variance, dtype=np.float64))
        row = {"stage": str(part.stage), "t": f"{part.timesteps.t_min} .. {part.timesteps.t_max}"}
        row |= {"probability": part.probability, "GFLOPs a draw": part.cost / 1e9}
        row |= {"variance": raw, "variance for Adam": variances[i], "draws of the run": before[i]}
        rows.append(row | {name: each[i] for name, each in wanted.items()})
    print(report.plain(rows))
    noise = {name: float((probabilities**2 * variances / each).sum()) for name, each in wanted.items()}
    print("\nnoise of a step's gradient, at the same operations, over that of proportional draws:")
    print(report.plain([{name: value / noise["proportional"] for name, value in noise.items()}]))
    values = ", ".join(f"{each:.3g}" for each in variances)
    of_parts = f" --config.train.timestep_parts={PARTS.value}" if PARTS.value > 1 else ""
    print(f'\n--config.train.allocation=cost_aware{of_parts} --config.train.gradient_variances="({values},)"')


def all_parts(trained: ssd_jax.Trained) -> list[Part]:
    """Of all stages of the run's process, noisiest first."""
    stages, objective = trained.process.stages, trained.experiment.objective
    probabilities = stage_probabilities(stages, trained.config.train.up_share)
    found = []
    for stage, probability in zip(tqdm(stages, "operations"), probabilities.tolist(), strict=True):
        cost, parts = objective.flops(stage), stage.parts(PARTS.value)
        own = [Part(stage, number, len(parts), part, cost, probability) for number, part in enumerate(parts)]
        found += [replace(part, probability=probability * part.share) for part in own]
    return found


def part_draws(parts: list[Part], config: TrainConfig, log_snr: np.ndarray) -> np.ndarray:
    """Draws of every part in a step of this config, on average."""
    stages = list(dict.fromkeys(part.stage for part in parts))
    costs = {part.stage: part.cost for part in parts}
    total = dict(zip(stages, wanted_draws(stages, config, costs.__getitem__, log_snr), strict=True))
    _, shares = timestep_shares(stages, config, log_snr)
    if config.timestep_parts == PARTS.value:
        return np.concatenate([total[stage] * np.array(own) for stage, own in zip(stages, shares, strict=True)])
    return np.array([total[part.stage] * part.share for part in parts])


def moments(trained: ssd_jax.Trained, part: Part) -> GradientMoments:
    """Of gradients at the run's averaged weights, of the same images for all parts."""
    config, objective = trained.config, trained.experiment.objective
    source, seed = make_source(config.data, trained.process.shape), config.train.seed + 1
    batch = next(make_iterator(source, batch_size=DRAWS.value, seed=seed, flip=config.data.flip))
    numbered = draws(batch, 0, DRAWS.value)
    given = {name: numbered[name] for name in objective.abstract_draws(1)}
    weights, key = trained.network.parameters, jax.random.key(seed)
    alone = jnp.arange(part.count) == part.number  # not the part's own stage: one program does for all parts
    found = gradient_moments(objective, part.stage, weights, given, key, alone.astype(jnp.float32))
    mean, variance = jax.device_get(found)
    return GradientMoments(mean / part.share, variance / part.share**2)


if __name__ == "__main__":
    run(main)
