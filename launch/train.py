"""Trains from a config file; run the same command again to go on where it stopped.

python -m launch.train --config configs/openmoji32.py --workdir runs/x [--config.train.steps=500 ...]
"""

from absl import flags

import ssd_jax

from .common.command import run
from .common.config_flag import define_config, read_config

define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, sample grids, TensorBoard events.", required=True
)
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps to trace, once a few are over, into WORKDIR/profile, which TensorBoard opens.", lower_bound=0
)


def main() -> None:
    ssd_jax.train(read_config(), WORKDIR.value, profile=PROFILE.value)


if __name__ == "__main__":
    run(main)
