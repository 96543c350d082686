"""Trains from a config file; run the same command again to go on where it stopped.

python -m launch.train --config configs/openmoji32.py --workdir runs/x [--config.train.steps=500 ...]
python -m launch.train --config mine.py --workdir runs/tuned --init_from runs/x  # starts from its weights
"""

from absl import flags

import ssd_jax
from ssd_jax.config import AnyConfig, Config
from ssd_jax.errors import InputError
from ssd_jax.files.paths import Path, exists, is_folder, to_path
from ssd_jax.interop.published import read_checkpoint
from ssd_jax.network.flexi_unet import FlexiUNetConfig

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
        origin = published(path, config)
    ssd_jax.train(config, WORKDIR.value, profile=PROFILE.value, init_from=origin)


def published(file: Path, config: AnyConfig) -> ssd_jax.Trained:
    """A published checkpoint, taken for one of the config's process and attention. Raises InputError if it is none."""
    if not (isinstance(config, Config) and isinstance(config.model, FlexiUNetConfig)):
        raise InputError(f"--init_from {str(file)!r} is a file, which only the network flexi_unet can start from")
    sizes = [config.process.shape[0] >> level for level in config.model.attention_levels]
    return read_checkpoint(file, config.process, attention_resolutions=sizes, num_heads=config.model.num_heads)


if __name__ == "__main__":
    run(main)
