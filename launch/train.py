"""Trains from a config file; run the same command again to go on where it stopped.

python -m launch.train --config configs/openmoji32.py --workdir runs/x [--config.train.steps=500 ...]
"""

from absl import flags
from ml_collections import config_flags

import ssd_jax

from .common.command import read_config, run

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; any field can be set: --config.SECTION.FIELD=VALUE.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, sample grids, TensorBoard events.", required=True
)
flags.mark_flag_as_required("config")


def main() -> None:
    ssd_jax.train(read_config(CONFIG), WORKDIR.value)


if __name__ == "__main__":
    run(main)
