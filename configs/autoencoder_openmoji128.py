"""An autoencoder of emoji at 128 px, with latents of 32x32x4, on one GPU.

python -m launch.train --config configs/autoencoder_openmoji128.py --workdir runs/autoencoder

13.9 million parameters; a step of 32 images takes 5.8 TFLOP. Sized for a GPU with 24 GB or more; not tried on one yet.
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


def get_config() -> ConfigDict:
    return to_config_dict(
        AutoencoderRunConfig(
            data=DataConfig(source="openmoji", balance=True, flip=True),
            reconstruction=ReconstructionConfig(shape=(128, 128)),
            model=AutoencoderConfig(widths=(64, 128, 256), num_res_blocks=2, dtype="bfloat16"),
            train=TrainConfig(
                steps=20_000,
                batch_size=32,
                learning_rate=2e-4,
                warmup_steps=500,
                sample_every=1000,
                checkpoint_every=1000,
            ),
        )
    )
