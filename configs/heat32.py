"""Blur instead of noise: the inverse heat equation (Rissanen et al. 2023) on 32 px emoji.

python -m launch.train --config configs/heat32.py --workdir runs/heat32

The noise stays at sigma = 0.01 while the blur grows until only the mean colour is left. x_{T-1} is no noise then: samples
start from blurred training images.
"""

from typing import Any

from ml_collections import ConfigDict

from ssd_jax.config import ProcessConfig

from . import openmoji32


def get_config() -> ConfigDict:
    config: Any = openmoji32.get_config()
    config.process.update(
        vars(ProcessConfig(image_size=32, num_levels=1, num_timesteps=200, noise_schedule="constant", blur=24.0))
    )
    config.sample.solver = "ancestral"
    return config
