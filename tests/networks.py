"""Networks for tests: every parameter random, because at birth heads and residual ends are zero and would hide mistakes."""

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.build import build
from ssd_jax.config import Config, FlexiUNetConfig, ProcessConfig
from ssd_jax.network.denoiser import Denoiser


def randomised(abstract, scale: float = 0.2, seed: int = 0):
    """Parameters ~ N(0, scale^2) of such shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape, np.float32)), abstract)


def random_denoiser(model: FlexiUNetConfig, process: ProcessConfig, scale: float = 0.2, seed: int = 0) -> Denoiser:
    """A denoiser with random parameters."""
    experiment = build(Config(process=process, model=model))
    return experiment.denoiser(randomised(experiment.abstract_parameters, scale, seed))
