"""Networks for tests: every parameter random, because at birth heads and residual ends are zero and would hide mistakes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd_jax.build import build
from ssd_jax.config import Config, FlexiUNetConfig, ProcessConfig
from ssd_jax.network.blocks import drop
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.run.trained import Trained
from ssd_jax.training.objective import Denoising


def randomised(abstract, scale: float = 0.2, seed: int = 0):
    """Parameters ~ N(0, scale^2) of such shapes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape, np.float32)), abstract)


def random_denoiser(model: FlexiUNetConfig, process: ProcessConfig, scale: float = 0.2, seed: int = 0) -> Denoiser:
    """A denoiser with random parameters."""
    experiment = build(Config(process=process, model=model))
    return experiment.denoiser(randomised(experiment.abstract_parameters, scale, seed))


def random_trained(config: Config, seed: int = 1) -> Trained:
    """A trained model with random parameters, of step 7."""
    statistics = DataStatistics((0.3,) * config.process.num_timesteps)
    experiment = build(config, statistics if config.denoiser.parameterisation != "x0" else None)
    return Trained(experiment, experiment.denoiser(randomised(experiment.abstract_parameters, seed=seed)), 7)


class Dense(nnx.Module):
    """One hidden layer between the pixels of any two levels, with classes and dropout: compiles in a moment."""

    def __init__(self, shapes, *, hidden: int, num_classes: int, dropout: float, dtype=jnp.float32):
        sizes, rngs = [3 * int(np.prod(shape)) for shape in shapes], nnx.Rngs(0)
        self.shapes, self.dropout = shapes, dropout
        self.inward = nnx.List([nnx.Linear(size, hidden, dtype=dtype, rngs=rngs) for size in sizes])
        self.outward = nnx.List([nnx.Linear(hidden, size, dtype=dtype, rngs=rngs) for size in sizes])
        self.embed_label, self.scale = nnx.Embed(num_classes, hidden, rngs=rngs), nnx.Param(jnp.ones(hidden))

    @property
    def num_levels(self) -> int:
        return len(self.shapes)

    def __call__(self, x, t, label, *, in_level, out_level, dropout_keys=None):
        h = self.inward[in_level](x.reshape(len(x), -1)) + jnp.cos(t / 7)[:, None] * self.scale[...]
        h = drop(h + self.embed_label(label), self.dropout, dropout_keys)
        out = self.outward[out_level](nnx.silu(h)).astype(jnp.float32)
        return out.reshape(len(x), *self.shapes[out_level], 3)


def dense_objective(config: Config, **settings) -> tuple[Denoising, dict]:
    """The objective of a config, with classes, but of a Dense network; and its parameters."""
    objective = build(config).objective
    network = Dense(objective.process.level_shapes, num_classes=config.model.num_classes + 1, **settings)
    graphdef, state = nnx.split(network)
    parameters = nnx.to_pure_dict(state)
    denoiser = replace(objective.denoiser, graphdef=graphdef, parameters=jax.eval_shape(lambda: parameters))
    return replace(objective, denoiser=denoiser), parameters
