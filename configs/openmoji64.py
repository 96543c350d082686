"""Emoji at 64 px, 4 levels (64, 32, 16, 8), on one GPU.

python -m launch.train --config configs/openmoji64.py --workdir runs/openmoji64

Eight classes, with label dropout for guidance. What won at 32 px, and at 64 px with a small network (docs/results.md): blur
within the levels, draws shared out by cost, a step that costs what 128 images of one level do, the timesteps of samples
searched. Those runs shared draws out by noise, too, which `launch.studies.allocation` measures on a run. Sized for a GPU
with 24 GB or more; not tried on one yet.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji", balance=True),
            process=ProcessConfig(image_size=64, num_levels=4, resolution_schedule="convex_decay", gamma=0.7, blur=4.0),
            model=FlexiUNetConfig(
                widths=(128, 256, 256, 256),
                num_res_blocks=2,
                attention_levels=(2, 3),
                dropout=0.1,
                num_classes=8,
                label_dropout=0.1,
                dtype="bfloat16",
            ),
            train=TrainConfig(
                steps=50_000,
                batch_size=128,
                allocation="cost_aware",
                flops_per_step=1.0,  # of 128 images at full resolution
                learning_rate=2e-4,
                warmup_steps=1000,
                ema_decay=0.9995,
                sample_every=5000,
                checkpoint_every=5000,
            ),
            sample=SampleConfig(spacing="optimal"),
        )
    )
