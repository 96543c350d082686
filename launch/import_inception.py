"""Converts the weights of Inception-v3 that FIDs are measured with; PyTorch is not needed. Then launch.evaluate finds them.

python -m launch.import_inception --weights pt_inception-2015-12-05-6726825d.pth

The file is the one that pytorch-fid downloads, to ~/.cache/torch/hub/checkpoints/, and that the releases of the GitHub
project mseitzer/pytorch-fid hold. The converted weights go to $XDG_CACHE_HOME/ssd_jax, by default ~/.cache/ssd_jax.
"""

from absl import flags

from ssd_jax.files.paths import check_writable
from ssd_jax.metrics.inception import default_weights_path, import_weights

from .common.command import run

WEIGHTS = flags.DEFINE_string("weights", None, "pt_inception-2015-12-05-6726825d.pth.", required=True)


def main() -> None:
    path = default_weights_path()
    check_writable(path.parent)
    import_weights(WEIGHTS.value, path)
    print(f"Inception-v3 is at {path}")


if __name__ == "__main__":
    run(main)
