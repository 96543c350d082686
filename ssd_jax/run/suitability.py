"""What some uses need of a model, which others do not."""

from ssd_jax.build import Experiment
from ssd_jax.data.encoding import PixelEncoding
from ssd_jax.errors import InputError


def check_prior_is_noise(experiment: Experiment, what: str) -> None:
    """Raises InputError if samples start from images of the training data, which `what`, e.g. "a bundle", has not."""
    if not experiment.process.prior_is_noise:
        raise InputError(
            f"x_T-1 of this process is not noise (log-SNR {experiment.process.log_snr[-1]:.2f}), so that drawing begins "
            f"with images of the training data, which {what} has not; train with process.zero_terminal_snr=True"
        )


def check_is_of_images(experiment: Experiment, what: str) -> None:
    """Raises InputError unless the model draws images, of two axes, which `what`, e.g. "a service", takes alone."""
    if len(experiment.process.shape) != 2:
        raise InputError(
            f"the model draws arrays of shape {experiment.process.shape}, but {what} takes images of (h, w) alone; draw "
            "with launch.sample"
        )


def check_draws_pixels(experiment: Experiment, what: str) -> None:
    """Raises InputError if samples are latents, of which `what`, e.g. "a bundle", makes no pictures."""
    if not isinstance(experiment.encoding, PixelEncoding):
        raise InputError(f"the model draws latents, of which {what} makes no pictures; draw with launch.sample")


def check_labels_are_classes(experiment: Experiment, what: str) -> None:
    """Raises InputError if labels are vectors, of which `what`, e.g. "a bundle", can be given none."""
    if size := experiment.config.label_size:
        raise InputError(
            f"the labels of the model are vectors of {size} numbers, but {what} takes classes alone; draw with "
            "launch.sample"
        )
