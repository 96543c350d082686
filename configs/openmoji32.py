"""Emoji at 32 px on a laptop CPU: what `python -m launch.quickstart` trains.

python -m launch.train --config configs/openmoji32.py --workdir runs/openmoji32

PLACEHOLDER
"""

from ssd_jax.config import default_config


def get_config():
    config = default_config()
    config.data.source = "openmoji"
    config.process.image_size = 32
    config.process.num_levels = 3
    config.process.resolution_schedule = "equal"
    config.model.widths = (24, 48, 64)
    config.model.attention_levels = (2,)
    config.train.steps = 700
    config.train.batch_size = 32
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 50
    config.train.ema_decay = 0.995
    config.train.log_every = 10
    config.train.sample_every = 10_000
    config.train.checkpoint_every = 100
    return config
