"""Levels without training: a network of one level, run on the small states of a process of several.

The idea is that of SPEED: to a network that acts on pictures of any size, a small noisy state is a picture like others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from ssd_jax.build import build
from ssd_jax.errors import InputError, checked_arguments
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.reverse import pseudo_inverse
from ssd_jax.process.stages import Stage
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.denoise import Denoise


@checked_arguments
def without_training(trained: Trained, process: ScaleSpaceProcess) -> Denoise:
    """The denoiser of another process, of several levels, that a network of one level is.

    A state a_t A_t x_0 + sigma_t eps is a small picture with white noise: for the network D one of its own at the timestep
    t' whose log-SNR is nearest to l_t, once its noise has that size,

        z_hat(x, t) = D(x sigma_t' / sigma_t, t').

    That of an up-step is enlarged by M^+, so that it has the network's coarse structure and no detail. Neither is what a
    network trained on small pictures would say: small pictures are sharper than crops of large ones.

    Args:
        trained: a model of one level, of a network that takes the shapes of all levels.
        process: without blur, its level 0 of the model's shape.

    Raises:
        InputError: for another model or process, or a network that does not take the small shapes.
    """
    own, config = trained.process, trained.config
    if own.num_levels > 1 or own.dissipation is not None or process.dissipation is not None or own.shape != process.shape:
        raise InputError(
            f"the model has {own.num_levels} level(s) of shape {own.shape} and the process {process.shape}, but levels "
            "without training need a model of one level and a process of the same shape, both without blur"
        )
    networks = {}
    for level in process.used_levels:
        small = replace(config, process=replace(config.process, shape=process.level_shape(level)))
        networks[level] = build(small, trained.experiment.statistics).denoiser(trained.network.parameters)
    timesteps = matched_timesteps(process, own)
    scale = np.where(process.sigma > 0, own.sigma[timesteps] / np.where(process.sigma > 0, process.sigma, 1), 1)
    return _OnSmallStates(networks, timesteps, scale.astype(np.float32), process, own.stages[0])


def matched_timesteps(process: ScaleSpaceProcess, own: ScaleSpaceProcess) -> Int[np.ndarray, "timesteps"]:
    """For every timestep of a process, that of another whose state has the nearest log-SNR, int32 [T]."""
    wanted, found = (np.clip(each.log_snr, -1e3, 1e3) for each in (process, own))
    return np.abs(wanted[:, None] - found).argmin(axis=1).astype(np.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class _OnSmallStates:
    """`without_training`: the network for each level, t' and sigma_t' / sigma_t, the process, the network's only stage."""

    networks: Mapping[int, Denoiser]
    timesteps: Any
    scale: Any
    process: ScaleSpaceProcess = field(metadata={"static": True})
    own: Stage = field(metadata={"static": True})

    def __call__(
        self,
        x: Float[Array, "batch *in_shape channels"],
        t: Num[Array, "batch"],
        label: Num[Array, "batch *vector"] | None = None,
        *,
        stage: Stage,
    ) -> Float[Array, "batch *out_shape channels"]:
        scaled = x * jnp.expand_dims(jnp.asarray(self.scale)[t], range(1, x.ndim))
        z: jax.Array = self.networks[stage.in_level](scaled, jnp.asarray(self.timesteps)[t], label, stage=self.own)
        for level in reversed(range(stage.out_level, stage.in_level)):
            z = pseudo_inverse(self.process.operators[level], z)
        return z
