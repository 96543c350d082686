"""Emoji at 64 px, 4 levels (64, 32, 16, 8), on one GPU.

python -m launch.train --config configs/openmoji64.py --workdir runs/openmoji64
"""

from ssd_jax.config import default_config


def get_config():
    config = default_config()
    config.data.source = "openmoji"
    config.process.image_size = 64
    config.process.num_levels = 4
    config.process.gamma = 0.5
    config.model.widths = (128, 256, 256, 256)
    config.model.num_res_blocks = 2
    config.model.attention_levels = (2, 3)
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.train.steps = 50_000
    config.train.batch_size = 128
    config.train.learning_rate = 2e-4
    config.train.warmup_steps = 1000
    config.train.ema_decay = 0.9995
    config.train.sample_every = 5000
    config.train.checkpoint_every = 5000
    return config
