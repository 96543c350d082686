"""The log-variance of the error at every timestep of a stage, learned beside the network (Karras et al. 2024, equation 14).

The loss w e^(-u) |z_hat - z|^2 + u is least for e^u = E[w |z_hat - z|^2]: every timestep then weighs one over its own
error, whatever the noise schedule and w, which is only where u begins. u(stage, t) is linear between knots. It is trained
with the network, as one more entry of what is trained, and no denoiser has it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ssd_jax.process.stages import Stage

ENTRY = "log-variance"  # among the parameters; no attribute of a network, whose names they else have, is called so
KNOTS = 16  # of a stage, or as many as it has timesteps
SCALE = 10.0  # of a knot in nats: Adam moves numbers by about the learning rate a step, and u has nats to go


def first_log_variances(stages: Sequence[Stage]) -> dict[str, Float[Array, "knots"]]:
    """u = 0 of every stage by its name, as knots, noisiest last."""
    return {str(stage): jnp.zeros(min(KNOTS, stage.t_max + 1 - stage.t_min)) for stage in stages}


def log_variance(parameters: Mapping[str, Any], stage: Stage) -> Callable[[Int[Array, "batch"]], Float[Array, "batch"]]:
    """u of timesteps of a stage.

    Its gradient is scaled so that it counts little where the gradient of all parameters is clipped together; Adam makes up
    for any factor.

    Args:
        parameters: of which ENTRY holds the knots.
        stage: whose.
    """
    knots = parameters[ENTRY][str(stage)].astype(jnp.float32)

    def of(t: Int[Array, "batch"]) -> Float[Array, "batch"]:
        at = jnp.linspace(stage.t_min, stage.t_max, len(knots))
        value = SCALE * (jnp.interp(t, at, knots) if len(knots) > 1 else jnp.broadcast_to(knots, t.shape))
        share = SCALE**-2
        return share * value + jax.lax.stop_gradient((1 - share) * value)

    return of


def of_network(parameters: dict) -> dict:
    """What is trained without the log-variances: the network's parameters."""
    return {name: each for name, each in parameters.items() if name != ENTRY}
