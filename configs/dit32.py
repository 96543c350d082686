"""Emoji at 32 px by a transformer, the Flexi-DiT, on a laptop CPU: four levels (32, 16, 8, 4) of 64, 16, 4 and 1 tokens.

python -m launch.train --config configs/dit32.py --workdir runs/dit32

2.1 million parameters, eight classes. It predicts the clean image, as JiT does (Li & He 2025).
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiDiTConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji", balance=True),
            process=ProcessConfig(image_size=32, num_levels=4, resolution_schedule="convex_decay", gamma=0.7),
            model=FlexiDiTConfig(patch_size=(4,), width=128, depth=6, num_heads=4, num_classes=8, label_dropout=0.1),
            train=TrainConfig(
                steps=3000,
                batch_size=32,
                allocation="cost_aware",
                flops_per_step=1.0,
                draws_multiple=1,
                learning_rate=1e-3,
                warmup_steps=100,
                ema_decay=0.998,
                loss_weighting="constant",
                sample_every=3000,
                checkpoint_every=250,
            ),
            sample=SampleConfig(num=32, solver="dpmpp_2m", num_steps=30),
        )
    )
