"""Emoji at 32 px, four levels (32, 16, 8, 4), a small network: what `launch.studies.experiment` trains many times over.

python -m launch.studies.experiment --config configs/experiment32.py --out runs/experiment

1.4 million parameters, eight classes, 48,000 images a run: enough to tell processes from each other, not for fine emoji. A
run takes about five minutes on two idle CPU cores. docs/experiment.md has what came out.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji", balance=True),
            # The resolution falls where it loses less than 0.001 nats per pixel, by the spectrum of natural images.
            process=ProcessConfig(image_size=32, num_levels=4, resolution_schedule="information", tolerance=1e-3),
            model=FlexiUNetConfig(widths=(24, 48, 64, 64), attention_levels=(2, 3), num_classes=8, label_dropout=0.1),
            train=TrainConfig(
                steps=1500,
                batch_size=32,
                learning_rate=1.5e-3,
                warmup_steps=50,
                ema_decay=0.998,
                loss_weighting="constant",  # one that depends on the SNR would weigh the two SNR policies differently
                log_every=50,
                sample_every=1500,
                checkpoint_every=250,
            ),
        )
    )
