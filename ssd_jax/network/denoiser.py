"""The denoiser: a network and its parameters as a function denoise(x, t, label, *, stage) -> z_hat.

Samplers, guidance and analytic denoisers all meet at this signature (`sampling.denoise.Denoise`).
"""

from dataclasses import dataclass, field

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from ssd_jax.network.flexi_unet import FlexiUNet
from ssd_jax.process.stages import Stage


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Denoiser:
    """A FlexiUNet that predicts z. A pytree: `parameters` are its leaves.

    Predictions are the network's own; `guidance` has what may follow: guidance, then clipping to the range of images.

    Attributes:
        parameters: pure dict of arrays.
        graphdef: the network without its parameters, static (`flax.nnx.split`).
    """

    parameters: dict
    graphdef: nnx.GraphDef[FlexiUNet] = field(metadata={"static": True})

    def __call__(
        self,
        x: Float[Array, "batch h w channels"],
        t: Num[Array, "batch"],
        label: Int[Array, "batch"] | None = None,
        *,
        stage: Stage,
    ) -> Float[Array, "batch height width channels"]:
        """z-hat at stage.out_level.

        Args:
            x: states at stage.in_level, [batch, h, w, channels].
            t: timesteps, [batch].
            label: classes, int [batch], exactly if the network has classes.
            stage: which path of the network to take.
        """
        model = nnx.merge(self.graphdef, self.parameters)
        return model(x, t, label, in_level=stage.in_level, out_level=stage.out_level)
