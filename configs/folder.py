"""A folder of your own images (PNG, JPEG, WebP of any size) at 64 px, 4 levels, on one GPU.

python -m launch.train --config configs/folder.py --workdir runs/mine --config.data.folder=PATH

Images are centre-cropped, resized and flipped at random. `--config.data.split_file=FILE` restricts training to the paths
listed in FILE. If the folder has one sub-folder per class, `--config.model.num_classes=N` makes a conditional model.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, ModelConfig, ProcessConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="folder", flip=True),
            process=ProcessConfig(image_size=64, num_levels=4, resolution_schedule="convex_decay", gamma=0.5),
            model=ModelConfig(
                widths=(128, 256, 256, 256),
                num_res_blocks=2,
                attention_levels=(2, 3),
                dropout=0.1,
                dtype="bfloat16",
            ),
            train=TrainConfig(
                steps=200_000,
                batch_size=128,
                learning_rate=1e-4,
                warmup_steps=1000,
                ema_decay=0.9999,
                sample_every=5000,
                checkpoint_every=5000,
            ),
        )
    )
