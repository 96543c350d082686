"""Trains from a config file; run the same command again to go on where it stopped.

python -m launch.train --config configs/openmoji32.py --workdir runs/x [--config.train.steps=500 ...]
python -m launch.train --config mine.py --workdir runs/tuned --init_from runs/x  # starts from its weights
"""

from absl import flags

import ssd_jax
from ssd_jax.files.paths import exists, is_folder, to_path
from ssd_jax.interop.published import read_origin

from .common.command import run
from .common.config_flag import define_config, read_any_config

define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, sample grids, TensorBoard events.", required=True
)
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Steps to trace, once a few are over, into WORKDIR/profile, which TensorBoard opens.", lower_bound=0
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Workdir of a run, or a published .pt file, whose weights a new run starts from, as far as they fit; says which do.",
)


def main() -> None:
    config, origin = read_any_config(), INIT_FROM.value
    if origin is not None and exists(path := to_path(origin)) and not is_folder(path):
        origin = read_origin(path, config)
    ssd_jax.train(config, WORKDIR.value, profile=PROFILE.value, init_from=origin)


if __name__ == "__main__":
    run(main)
