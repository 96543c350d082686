"""Emoji at 32 px on a laptop CPU: what `python -m launch.quickstart` trains.

python -m launch.train --config configs/openmoji32.py --workdir runs/openmoji32

Three levels (32, 16, 8), 0.9 million parameters, eight classes (faces, people, nature, food, places, objects, symbols,
flags). Blur within the levels, levels where the data's information allows them, draws shared out by cost:
docs/results.md says what that gains. On two CPU cores it takes about 6 steps/s. Expect flat colours, black
outlines, yellow faces and plain flags; more steps make better emoji.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji", balance=True),
            # The lowest resolution that loses less than 0.0001 nats per pixel of what blur and noise leave.
            process=ProcessConfig(image_size=32, num_levels=3, resolution_schedule="information", tolerance=1e-4, blur=4.0),
            model=FlexiUNetConfig(widths=(24, 48, 64), attention_levels=(2,), num_classes=8, label_dropout=0.1),
            train=TrainConfig(
                steps=1700,
                batch_size=16,
                allocation="cost_aware",
                flops_per_step=0.5,  # of 16 images at full resolution: about 16 of 8 px, 2 of 16 px and 4 of 32 px
                draws_multiple=4,  # XLA's CPU convolutions are slow on 3 or 7 images
                learning_rate=1.5e-3,
                warmup_steps=50,
                ema_decay=0.997,
                loss_weighting="constant",  # in a run this short, what the noisiest states lack shows most
                log_every=10,
                sample_every=1700,
                checkpoint_every=200,
            ),
            sample=SampleConfig(solver="dpmpp_2m_sde", num_steps=30, guidance=2.0),
        )
    )
