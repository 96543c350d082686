"""A trained model as a small table."""

import jax

from ssd_jax.build import Experiment
from ssd_jax.config import Config
from ssd_jax.data.encoding import Encoding
from ssd_jax.errors import few
from ssd_jax.network import kind_of
from ssd_jax.network.denoiser import Denoiser


def described(experiment: Experiment, network: Denoiser, step: int) -> str:
    """Network, images, denoiser and settings of sampling, a line each."""
    config, encoding = experiment.config, experiment.encoding
    size = "x".join(map(str, encoding.picture_shape)) + _as_latents(encoding)
    count = sum(leaf.size for leaf in jax.tree.leaves(network.parameters))
    draws = config.sample
    rows = {
        "network": f"{kind_of(config.model)}, {count / 1e6:.3g} million parameters, {step} training steps",
        "images": f"{size}, {_as_told(config)}",
        "denoiser": f"{config.denoiser.parameterisation}, conditioned on {config.denoiser.conditioning}",
        "samples by": f"{draws.solver}, {draws.num_steps} calls, spacing {draws.spacing}, guidance {draws.guidance:g}",
    }
    return "\n".join(f"  {name:<11}{value}" for name, value in rows.items())


def _as_told(config: Config) -> str:
    """What a description of images says of their labels."""
    classes = config.data.classes
    if size := config.label_size:
        return f"labels of {size} numbers{', hashed words' if config.data.name_size else ''}"
    return f"{config.num_classes} classes" + (f": {few(classes)}" if classes and config.num_classes else "")


def _as_latents(encoding: Encoding) -> str:
    """What a description of images says of latents that they are drawn as."""
    own = (*encoding.shape, encoding.channels)
    return "" if own == encoding.picture_shape else f" as latents of {'x'.join(map(str, own))}"
