"""An autoencoder of emoji at 128 px, with latents of 32x32x4, on one GPU; or of 16x16x8, on a laptop CPU.

python -m launch.train --config configs/autoencoder_openmoji128.py --workdir runs/autoencoder
python -m launch.train --config configs/autoencoder_openmoji128.py:laptop --workdir runs/autoencoder

13.9 million parameters; a step of 32 images takes 5.8 TFLOP. Sized for a GPU with 24 GB or more; not tried on one yet.
`:laptop` is trained on emoji of 64 px, and encodes those of 128 px all the same.
"""

from ml_collections import ConfigDict

from ssd_jax.config import (
    AutoencoderConfig,
    AutoencoderRunConfig,
    DataConfig,
    ReconstructionConfig,
    TrainConfig,
    to_config_dict,
)
from ssd_jax.errors import check_name

VARIANTS = {
    "gpu": (
        ReconstructionConfig(shape=(128, 128)),
        AutoencoderConfig(widths=(64, 128, 256), num_res_blocks=2, dtype="bfloat16"),
        TrainConfig(
            steps=20_000,
            batch_size=32,
            learning_rate=2e-4,
            warmup_steps=500,
            sample_every=1000,
            checkpoint_every=1000,
        ),
    ),
    "laptop": (
        ReconstructionConfig(shape=(64, 64)),
        AutoencoderConfig(widths=(16, 32, 64, 64), latent_channels=8, num_groups=16),
        TrainConfig(
            steps=4000,
            batch_size=8,
            learning_rate=1e-3,
            ema_decay=0.998,
            sample_every=1000,
            checkpoint_every=200,
        ),
    ),
}


def get_config(variant: str = "gpu") -> ConfigDict:
    check_name("variant of the config", variant, VARIANTS)
    reconstruction, model, train = VARIANTS[variant]
    data = DataConfig(source="openmoji", balance=True, flip=True)
    return to_config_dict(AutoencoderRunConfig(data=data, reconstruction=reconstruction, model=model, train=train))
