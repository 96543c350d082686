"""Whether generated images are copies of training images."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError
from ssd_jax.metrics.distances import nearest

NEAR = 0.05  # quantile of the reference distances below which a generated image is suspiciously near


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How near generated images are to their nearest training images, against images that are no copies.

    Attributes:
        distances: of each generated image to its nearest training image, float64 [n].
        nearest: which training image that is, int [n].
        median: of `distances`.
        reference_median: of the same distance of images that are no copies.
        near_share: of generated images nearer than 95 % of those; 0.05 if the generator draws new images of the same kind.
        nearer_probability: that a generated image is nearer to the training images than one that is no copy is, ties half
            counted (Meehan, Chaudhuri & Dasgupta 2020): 0.5 for new images, 1 for copies, 0 for images of another kind.
    """

    distances: Float[np.ndarray, "n"]
    nearest: Int[np.ndarray, "n"]
    median: float
    reference_median: float
    near_share: float
    nearer_probability: float


def memorisation(
    generated: Float[np.ndarray, "n d"],
    training: Float[np.ndarray, "m _"],
    held_out: Float[np.ndarray, "k _"] | None = None,
) -> Memorisation:
    """Compares distances to the nearest training image, in a feature space.

    Args:
        generated, training: features. Give all training images: of those left out copies are not found.
        held_out: features of images of the same kind that were not trained on: the images that are no copies. Without
            them, each training image and its nearest other one stand in; duplicates among them then hide copies.

    Raises:
        InputError: if the features are not of one length, or there are fewer than two training images.
    """
    if len(training) < 2:
        raise InputError(f"{len(training)} training image(s) have no neighbours; give two or more")
    distances, indices = nearest(generated, training)
    if held_out is None:
        reference, _ = nearest(training, training, skip_self=True)
    else:
        reference, _ = nearest(held_out, training)
    ordered = np.sort(reference)
    farther = len(ordered) - np.searchsorted(ordered, distances, side="right")
    equal = len(ordered) - np.searchsorted(ordered, distances, side="left") - farther
    return Memorisation(
        distances=distances,
        nearest=indices,
        median=float(np.median(distances)),
        reference_median=float(np.median(reference)),
        near_share=float((distances < np.quantile(reference, NEAR)).mean()),
        nearer_probability=float((farther + equal / 2).mean() / len(ordered)),
    )
