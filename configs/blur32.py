"""Blur and noise together at one resolution: blurring diffusion (Hoogeboom & Salimans 2023) on 32 px emoji.

python -m launch.train --config configs/blur32.py --workdir runs/blur32

Every state is blurred as well as noisy, up to a standard deviation of 8 pixels at the end; the network predicts the sharp
image. All calls are at full resolution: this shows another operator at work, it saves nothing.
"""

from typing import Any

from ml_collections import ConfigDict

from ssd_jax.config import ProcessConfig

from . import openmoji32


def get_config() -> ConfigDict:
    config: Any = openmoji32.get_config()
    config.process.update(vars(ProcessConfig(image_size=32, num_levels=1, blur=8.0)))
    return config
