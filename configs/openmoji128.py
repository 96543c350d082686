"""Emoji at 128 px in pixels, five levels (128, 64, .., 8), a network for laptops: what latents are measured against.

python -m launch.train --config configs/openmoji128.py --workdir runs/pixels128

docs/guides/latents.md has what came out, beside `latents_openmoji128.py:laptop`.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji", balance=True),
            process=ProcessConfig(image_size=128, num_levels=5, resolution_schedule="convex_decay", gamma=0.7),
            model=FlexiUNetConfig(widths=(16, 24, 48, 64, 64), attention_levels=(3, 4), num_classes=8, label_dropout=0.1),
            train=TrainConfig(
                steps=1000,
                batch_size=8,
                allocation="cost_aware",
                flops_per_step=1.0,
                draws_multiple=1,
                learning_rate=1.5e-3,
                warmup_steps=50,
                ema_decay=0.998,
                loss_weighting="constant",
                log_every=50,
                sample_every=1000,
                checkpoint_every=100,
            ),
            sample=SampleConfig(num=32, num_steps=30),
        )
    )
