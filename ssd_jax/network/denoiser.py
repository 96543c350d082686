"""The denoiser: a network, its parameters and what its output means, as a function denoise(x, t, label, *, stage) -> z_hat.

Samplers, guidance and analytic denoisers all meet at this signature (`sampling.denoise.Denoise`).
"""

from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Key, Num

from ssd_jax.network.parameterisation import Parameterisation
from ssd_jax.process.stages import Stage


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Denoiser:
    """A network that predicts z, in training and in sampling. A pytree: parameters and tables are its leaves.

    Predictions are not clipped; `guidance` has what may follow: guidance, then clipping to the range of images.

    Attributes:
        parameters: pure dict of arrays.
        graphdef: the network without its parameters, static (`flax.nnx.split`).
        parameterisation: what the network is told and what its output means.
    """

    parameters: dict
    graphdef: nnx.GraphDef[Any] = field(metadata={"static": True})
    parameterisation: Parameterisation

    def __call__(
        self,
        x: Float[Array, "batch *in_shape channels"],
        t: Num[Array, "batch"],
        label: Num[Array, "batch *vector"] | None = None,
        *,
        stage: Stage,
        dropout_keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch *out_shape channels"]:
        """z-hat at stage.out_level.

        Args:
            x: states at stage.in_level, [batch, *spatial, channels].
            t: timesteps, [batch].
            label: int [batch] or float [batch, label_size], exactly if the network has labels.
            stage: which path of the network to take.
            dropout_keys: one per image, in training; None for no dropout.
        """
        network = nnx.merge(self.graphdef, self.parameters)
        scaled, told = self.parameterisation.inputs(x, t)
        levels = {"in_level": stage.in_level, "out_level": stage.out_level}
        output = network(scaled, told, label, **levels, dropout_keys=dropout_keys)
        return self.parameterisation.z_hat(output, x, t, stage=stage)
