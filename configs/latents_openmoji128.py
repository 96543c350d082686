"""Emoji at 128 px as latents of 32x32x4, 3 levels (32, 16, 8), on one GPU.

python -m launch.train --config configs/autoencoder_openmoji128.py --workdir runs/autoencoder
python -m launch.prepare --config autoencoder_openmoji128 --latents runs/autoencoder --out data/latents128
python -m launch.train --config configs/latents_openmoji128.py --workdir runs/latents128

Not tried on a GPU yet, nor trained.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, EncodingConfig, FlexiUNetConfig, ProcessConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="array_record", folder="data/latents128", balance=True),
            encoding=EncodingConfig(autoencoder="runs/autoencoder"),
            process=ProcessConfig(image_size=32, num_levels=3, resolution_schedule="convex_decay", gamma=0.5),
            model=FlexiUNetConfig(
                widths=(128, 256, 256),
                num_res_blocks=2,
                attention_levels=(1, 2),
                dropout=0.1,
                num_classes=8,
                label_dropout=0.1,
                dtype="bfloat16",
            ),
            train=TrainConfig(
                steps=50_000,
                batch_size=128,
                learning_rate=2e-4,
                warmup_steps=1000,
                ema_decay=0.9995,
                sample_every=5000,
                checkpoint_every=5000,
            ),
        )
    )
