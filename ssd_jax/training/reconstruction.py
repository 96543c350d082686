"""What an autoencoder is trained on: pictures and what it makes of them (Kingma & Welling 2014, Rombach et al. 2022)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssd_jax.data.encoding import PixelEncoding
from ssd_jax.errors import InputError, brief, check_range, section
from ssd_jax.network.autoencoder import Autoencoder
from ssd_jax.network.random_features import feature_maps, random_kernels
from ssd_jax.process.stages import Stage
from ssd_jax.training.loss import Shares
from ssd_jax.training.objective import Batch, Loss, gradient_operations

SEED = 0  # of the network that compares pictures
LEAST_SIDE = 16  # of pictures that it can compare
MAX_SIDE, MAX_WEIGHT = 4096, 1e6


@section("reconstruction")
@dataclass(frozen=True)
class ReconstructionConfig:
    """The `reconstruction` section of the config of an autoencoder.

    Attributes:
        shape: (h, w) of the pictures that it is trained on; later they may have any size that its levels divide.
        perceptual_weight: >= 0, of the mean absolute difference between the feature maps of pictures and reconstructions
            (`network.random_features`), beside that between their pixels; 0 for none.
        divergence_weight: >= 0, of the Kullback-Leibler divergence of the latents from N(0, I), in nats per number of a
            picture; the more, the smoother and the less exact.
    """

    shape: tuple[int, int] = (64, 64)
    perceptual_weight: float = 1.0
    divergence_weight: float = 1e-6

    def __post_init__(self):
        least = LEAST_SIDE if self.perceptual_weight else 1
        if not all(least <= side <= MAX_SIDE for side in self.shape):
            raise InputError(
                f"reconstruction.shape is {brief(self.shape)}, but sides must be from {least}"
                f"{' (1 without perceptual_weight)' if least > 1 else ''} to {MAX_SIDE}"
            )
        check_range("reconstruction.perceptual_weight", self.perceptual_weight, low=0, high=MAX_WEIGHT)
        check_range("reconstruction.divergence_weight", self.divergence_weight, low=0, high=MAX_WEIGHT)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The loss of an autoencoder, an `Objective` of one stage, without classes.

    Attributes:
        config: weights of its terms.
        encoding: of pictures as numbers in [-1, 1].
        autoencoder: with `jax.ShapeDtypeStruct`s for parameters.
    """

    config: ReconstructionConfig
    encoding: PixelEncoding
    autoencoder: Autoencoder

    stages = (Stage(0, 0, 0, 0),)
    log_snr = None
    labelled = False

    @property
    def parameters(self) -> dict:
        """Shapes and types of what is trained."""
        return self.autoencoder.parameters

    @cached_property
    def _kernels(self) -> list[np.ndarray]:
        return random_kernels(SEED)

    def terms(self, parameters: Any, batch: Batch, key: jax.Array, *, training: bool = True) -> dict[str, Float[Array, ""]]:
        """Means over the pictures of what the loss is made of, by name, each yet without its weight.

        Args:
            parameters: of the autoencoder.
            batch: "image", uint8 [batch, h, w, channels], and "number" of each in the step.
            key: of the latents' noise, with those numbers.
            training: whether latents are drawn; otherwise they are the means.

        Returns:
            "pixels": mean absolute difference in [-1, 1]; "perceptual": that of feature maps; "divergence": nats per number
            of a picture.
        """
        autoencoder, pictures = replace(self.autoencoder, parameters=parameters), self.encoding.encode(batch["image"])
        moments = autoencoder.encode(pictures)
        latents = moments.mean
        if training:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["number"])
            latents = moments.draw(jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))(keys))
        found = autoencoder.decode(latents)
        terms = {"pixels": jnp.abs(found - pictures).mean()}
        if self.config.perceptual_weight:
            terms["perceptual"] = self._perceptual(pictures, found)
        return terms | {"divergence": moments.divergence().mean() / pictures[0].size}

    def losses(self, shares: Mapping[Stage, Shares]) -> dict[Stage, Loss]:
        """The one; there are no timesteps to share draws out among."""
        return dict.fromkeys(self.stages, self.loss)

    def loss(self, parameters: Any, batch: Batch, key: jax.Array, *, training: bool = True) -> Float[Array, ""]:
        """The weighted sum of `terms`."""
        terms = self.terms(parameters, batch, key, training=training)
        weights = {"perceptual": self.config.perceptual_weight, "divergence": self.config.divergence_weight}
        return sum((weights.get(name, 1.0) * term for name, term in terms.items()), jnp.zeros(()))

    def flops(self, stage: Stage) -> float:
        """`gradient_operations` of the loss."""
        return gradient_operations(self.loss, self.parameters, self.abstract_draws(1))

    def abstract_draws(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of so many pictures with their numbers."""
        shape = (size, *self.encoding.shape, self.encoding.channels)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.uint8), "number": jax.ShapeDtypeStruct((size,), jnp.int32)}

    def _perceptual(self, pictures: jax.Array, found: jax.Array) -> jax.Array:
        """Mean absolute difference of the feature maps, every layer counting the same."""
        maps = (feature_maps(seen(each), self._kernels) for each in (pictures, found))
        return jnp.stack([jnp.abs(one - other).mean() for one, other in zip(*maps, strict=True)]).mean()


def seen(pictures: Float[Array, "n h w channels"]) -> Float[Array, "n h w 3"]:
    """Pictures of 1, 3 or 4 channels in [-1, 1] as RGB, transparent ones on white; differentiable."""
    if pictures.shape[-1] == 1:
        return jnp.broadcast_to(pictures, (*pictures.shape[:-1], 3))
    if pictures.shape[-1] == 3:
        return pictures
    opacity = (pictures[..., 3:] + 1) / 2
    return opacity * pictures[..., :3] + 1 - opacity
