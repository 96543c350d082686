"""Emoji at 128 px as latents of 32x32x4 on one GPU, or of 16x16x8 on a laptop CPU, 3 levels.

python -m launch.train --config configs/autoencoder_openmoji128.py --workdir runs/autoencoder
python -m launch.prepare --config openmoji128 --latents runs/autoencoder --out data/latents128
python -m launch.train --config configs/latents_openmoji128.py --workdir runs/latents128

and, for a laptop, the first and the last with `:laptop` after the config. Not tried on a GPU yet. docs/guides/latents.md
has what `:laptop` gives.
"""

from ml_collections import ConfigDict

from ssd_jax.config import (
    Config,
    DataConfig,
    EncodingConfig,
    FlexiUNetConfig,
    ProcessConfig,
    SampleConfig,
    TrainConfig,
    to_config_dict,
)
from ssd_jax.errors import check_name

# Process, network and training of every variant.
VARIANTS = {
    "gpu": (
        ProcessConfig(image_size=32, num_levels=3, resolution_schedule="convex_decay", gamma=0.5),
        FlexiUNetConfig(
            widths=(128, 256, 256),
            num_res_blocks=2,
            attention_levels=(1, 2),
            dropout=0.1,
            num_classes=8,
            label_dropout=0.1,
            dtype="bfloat16",
        ),
        TrainConfig(
            steps=50_000,
            batch_size=128,
            learning_rate=2e-4,
            warmup_steps=1000,
            ema_decay=0.9995,
            sample_every=5000,
            checkpoint_every=5000,
        ),
    ),
    "laptop": (
        ProcessConfig(image_size=16, num_levels=3, resolution_schedule="convex_decay", gamma=0.5),
        FlexiUNetConfig(widths=(48, 96, 96), attention_levels=(1, 2), num_classes=8, label_dropout=0.1),
        TrainConfig(
            steps=2000,
            batch_size=32,
            allocation="cost_aware",
            flops_per_step=1.0,
            draws_multiple=1,
            learning_rate=1.5e-3,
            warmup_steps=50,
            ema_decay=0.998,
            loss_weighting="constant",
            log_every=50,
            sample_every=2000,
            checkpoint_every=200,
        ),
    ),
}


def get_config(variant: str = "gpu") -> ConfigDict:
    check_name("variant of the config", variant, VARIANTS)
    process, model, train = VARIANTS[variant]
    return to_config_dict(
        Config(
            data=DataConfig(source="array_record", folder="data/latents128", balance=True),
            encoding=EncodingConfig(autoencoder="runs/autoencoder"),
            process=process,
            model=model,
            train=train,
            sample=SampleConfig(num=32, num_steps=30),
        )
    )
