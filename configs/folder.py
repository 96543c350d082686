"""A folder of your own images (PNG, JPEG, WebP of any size) at 64 px, 4 levels, on one GPU.

python -m launch.train --config configs/folder.py --workdir runs/mine --config.data.folder=PATH

Images are centre-cropped, resized and flipped at random. `--config.data.split_file=FILE` restricts training to the paths
listed in FILE. If the folder has one sub-folder per class, `--config.model.num_classes=N` makes a conditional model.
"""

from ssd_jax.config import default_config


def get_config():
    config = default_config()
    config.data.source = "folder"
    config.data.flip = True
    config.process.image_size = 64
    config.process.num_levels = 4
    config.model.widths = (128, 256, 256, 256)
    config.model.num_res_blocks = 2
    config.model.attention_levels = (2, 3)
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.train.steps = 200_000
    config.train.batch_size = 128
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 1000
    config.train.ema_decay = 0.9999
    config.train.sample_every = 5000
    config.train.checkpoint_every = 5000
    return config
