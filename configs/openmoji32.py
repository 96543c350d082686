"""Emoji at 32 px on a laptop CPU: what `python -m launch.quickstart` trains.

python -m launch.train --config configs/openmoji32.py --workdir runs/openmoji32

Three levels (32, 16, 8), 0.91 million parameters. On two shared CPU cores it runs at 41 to 46 images/s; the quickstart
took 9 minutes in all, and its samples have flat colours and black outlines, and shapes that resemble objects.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, ModelConfig, ProcessConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji"),
            process=ProcessConfig(image_size=32, num_levels=3, resolution_schedule="equal"),
            model=ModelConfig(widths=(24, 48, 64), attention_levels=(2,)),
            train=TrainConfig(
                steps=1000,
                batch_size=16,
                learning_rate=1e-3,
                warmup_steps=50,
                ema_decay=0.997,
                loss_weighting="constant",  # in a run this short, what the noisiest states lack shows most
                log_every=10,
                checkpoint_every=100,
            ),
        )
    )
