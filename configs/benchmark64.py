"""A process of 4 levels at 64 px and a small network: what `launch.benchmark` times, on a CPU.

python -m launch.benchmark --config configs/benchmark64.py

1.7 million parameters; nothing is learned, so the data are of no account. docs/benchmark.md has what came out.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            # Resolution falls where natural images lose less than 0.0015 nats per pixel; the table of errors has the price.
            process=ProcessConfig(image_size=64, num_levels=4, resolution_schedule="information", tolerance=1.5e-3),
            model=FlexiUNetConfig(widths=(32, 64, 64, 64), num_res_blocks=1, attention_levels=(2, 3)),
            train=TrainConfig(batch_size=64),
            sample=SampleConfig(num=16),
        )
    )
