"""Which stages a training step gets, and how many images each of them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError
from ssd_jax.process.stages import Stage
from ssd_jax.training.config import TrainConfig


def stage_probabilities(stages: Sequence[Stage], up_share: float) -> Float[np.ndarray, "stages"]:
    """Probability that a training image belongs to each stage, [len(stages)], summing to 1.

    The up stages share `up_share` equally; the stay stages share the rest in proportion to their timesteps.
    """
    is_up = np.array([stage.is_up for stage in stages])
    timesteps = np.array([stage.t_max - stage.t_min + 1 for stage in stages], np.float64)
    if not is_up.any():
        up_share = 0.0
    stay = np.where(is_up, 0, timesteps)
    return np.where(is_up, up_share / max(is_up.sum(), 1), (1 - up_share) * stay / stay.sum())


def split_batch(batch_size: int, probabilities: Float[np.ndarray, "stages"], num_devices: int) -> Int[np.ndarray, "stages"]:
    """How many images of a mixed batch go to each stage: multiples of `num_devices`, at least one of them each.

    The sizes follow the probabilities as closely as that allows; the loss weights each stage's mean by its exact
    probability, so the expected loss does not depend on the rounding.

    Raises:
        InputError: if batch_size is no multiple of num_devices or too small to serve every stage.
    """
    num_stages = len(probabilities)
    if batch_size % num_devices or batch_size < num_stages * num_devices:
        raise InputError(
            f"train.batch_size is {batch_size}, but mixed training of {num_stages} stages on {num_devices} device(s) "
            f"needs a multiple of {num_devices} that is at least {num_stages * num_devices}; raise it, use fewer "
            'levels, or set train.stage_sampling = "single"'
        )
    units = batch_size // num_devices
    # One image at a time goes where most are wanting. All but the last few are dealt out at once: no stage can get fewer.
    sizes = np.maximum((probabilities * units).astype(int) - num_stages, 1)
    for _ in range(units - int(sizes.sum())):
        sizes[np.argmax(probabilities * units - sizes)] += 1
    return sizes * num_devices


def pick_stage(stages: Sequence[Stage], probabilities: Float[np.ndarray, "stages"], seed: int, step: int) -> Stage:
    """The stage of training step `step` in "single" stage sampling: the same on every process of a job."""
    return stages[np.random.default_rng((seed, step)).choice(len(stages), p=probabilities)]


def stage_batch_sizes(stages: Sequence[Stage], config: TrainConfig, num_devices: int) -> tuple[int, ...]:
    """Images per step that the program of each stage takes, over all devices.

    Raises:
        InputError: if train.batch_size does not fit the stages and the devices.
    """
    if config.stage_sampling == "mixed":
        return tuple(split_batch(config.batch_size, stage_probabilities(stages, config.up_share), num_devices).tolist())
    if config.batch_size % num_devices:
        raise InputError(f"train.batch_size is {config.batch_size}, but must be a multiple of the {num_devices} device(s)")
    return (config.batch_size,) * len(stages)
