"""How many draws every stage of a training step had better get: measured on a trained run.

python -m launch.studies.allocation --workdir runs/openmoji32

Measures how noisy the gradient of a draw is in every stage, as Adam sees it, and shares draws out so that the gradient of a
step is least noisy for what the step costs: by what was measured, and by cost alone. Prints what a config needs for it. The
measure is of the run's averaged weights; a run trained halfway shows how it was until there.
"""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.data import make_source
from ssd_jax.data.pipeline import make_iterator
from ssd_jax.training.gradient_noise import gradient_moments, gradient_variances
from ssd_jax.training.stage_sampling import allocate, stage_probabilities, wanted_draws
from ssd_jax.training.step import draws

from ..common import report
from ..common.command import run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.", required=True)
DRAWS = flags.DEFINE_integer("draws", 128, "Images, timesteps and noises of every stage.", lower_bound=2)


def main() -> None:
    trained = ssd_jax.load(Path(WORKDIR.value))
    config, stages, objective = trained.config.train, trained.process.stages, trained.experiment.objective
    costs = dict(zip(stages, map(objective.flops, tqdm(stages, "operations")), strict=True))
    probabilities, before = stage_probabilities(stages, config.up_share), allocate(stages, config, 1, costs.__getitem__)
    source = make_source(trained.config.data, trained.process.shape)
    batch = next(make_iterator(source, batch_size=DRAWS.value, seed=config.seed + 1, flip=trained.config.data.flip))
    numbered = draws(batch, 0, DRAWS.value)
    given = {name: numbered[name] for name in objective.abstract_draws(1)}
    parameters, key = trained.network.parameters, jax.random.key(config.seed + 1)
    moments = [
        jax.device_get(gradient_moments(objective, config.loss_weighting, stage, parameters, given, key))
        for stage in tqdm(stages, "gradients")
    ]
    variances = gradient_variances(moments, probabilities, np.array(before.draws))
    variances = variances / variances[-1]
    shared = {"proportional": replace(config, allocation="proportional", gradient_variances=())}
    shared["by cost"] = replace(config, allocation="cost_aware", gradient_variances=())
    shared["by cost and noise"] = replace(shared["by cost"], gradient_variances=tuple(variances.tolist()))
    wanted = {name: wanted_draws(stages, each, costs.__getitem__) for name, each in shared.items()}
    rows = []
    for i, stage in enumerate(stages):
        raw = float(np.sum(moments[i].variance, dtype=np.float64) / np.sum(moments[-1].variance, dtype=np.float64))
        row = {"stage": str(stage), "probability": probabilities[i], "GFLOPs a draw": costs[stage] / 1e9}
        row |= {"variance": raw, "variance for Adam": variances[i], "draws of the run": before.draws[i]}
        rows.append(row | {name: each[i] for name, each in wanted.items()})
    noise = {name: float((probabilities**2 * variances / each).sum()) for name, each in wanted.items()}
    print(report.plain(rows))
    print("\nnoise of a step's gradient, at the same operations, over that of proportional draws:")
    print(report.plain([{name: value / noise["proportional"] for name, value in noise.items()}]))
    values = ", ".join(f"{each:.3g}" for each in variances)
    print(f'\n--config.train.allocation=cost_aware --config.train.gradient_variances="({values},)"')


if __name__ == "__main__":
    run(main)
