"""Spectra of what a config trains on, pixels or latents, and of what may be assumed of them."""

import numpy as np
from jaxtyping import Float

from ssd_jax.build import Experiment
from ssd_jax.data import Source, image_batches, make_source
from ssd_jax.process.spectrum import measured_spectrum, natural_spectrum


def source_of(experiment: Experiment) -> Source:
    """The data that its config names."""
    return make_source(experiment.config.data, experiment.encoding.picture_shape[:-1])


def measured(experiment: Experiment, num: int) -> Float[np.ndarray, "*shape"]:
    """Of x_0 of so many of its data."""
    batches = image_batches(source_of(experiment), num)
    return measured_spectrum(np.asarray(experiment.encoding.encode(batch)) for batch in batches)


def assumed(experiment: Experiment, slope: float) -> Float[np.ndarray, "*shape"]:
    """A power law, of natural images or of latents, whose deviation is 1."""
    std = 0.5 if experiment.encoding.bound else 1.0
    return natural_spectrum(experiment.process.shape, slope=slope, std=std)
