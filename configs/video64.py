"""Your own videos, 16 frames of 64 px, four levels (16x64x64, 16x32x32, 8x16x16, 4x8x8), on GPUs.

python -m launch.train --config configs/video64.py --config.data.folder=my_videos --workdir runs/video64

A folder of GIF, WebP or MP4 files. 120.9 million parameters, factorised over space and time; a step costs what 64 clips at
full size do, and is of 152 draws. 30 calls of sampling take 0.68 of one level's operations. On 8 H100 the largest program
of training needs 11.0 GiB a GPU (one level: 16.1); 200,000 steps take at least 1.5 hours (one level: 1.6), at published
peaks that are never reached and with the traffic of that program alone. Not trained:

python -m launch.forecast --config video64 --hardware h100:8 --quick
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="video", flip=True),
            process=ProcessConfig(shape=(16, 64, 64), num_levels=4, factors=((1, 2, 2), (2, 2, 2))),
            model=FlexiUNetConfig(
                widths=(128, 256, 384, 512),
                num_res_blocks=2,
                attention_levels=(2, 3),
                dropout=0.1,
                dtype="bfloat16",
                factorised=True,
            ),
            train=TrainConfig(
                steps=200_000,
                batch_size=64,
                allocation="cost_aware",
                flops_per_step=1.0,
                learning_rate=2e-4,
                warmup_steps=1000,
                ema_decay=0.9999,
                sample_every=10_000,
                checkpoint_every=5000,
            ),
            sample=SampleConfig(num=16, solver="dpmpp_2m", num_steps=30),
        )
    )
