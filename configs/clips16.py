"""Moving emoji, 8 frames of 16 px, on a laptop CPU.

python -m launch.train --config configs/clips16.py --workdir runs/clips16
python -m launch.sample --workdir runs/clips16 --num 16 --label turning --out samples/clips16

Three levels (8x16x16, 8x8x8, 4x4x4: first smaller frames, then fewer of them as well), 1.2 million parameters, the four
motions as classes. A sample costs 0.72 of the operations of as many calls at full size. On two CPU cores, both busy, its
1500 steps took 22 minutes. Expect coloured things that turn, grow, slide and change; what moves fast is still too faint: of
the power over time the data's slowest cycle has 0.84, the fastest 0.29 (`launch.evaluate --num 256`). docs/guides/clips.md
has what three times the steps bring.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="clips"),
            process=ProcessConfig(
                shape=(8, 16, 16),
                num_levels=3,
                factors=((1, 2, 2), (2, 2, 2)),
                # Where `launch.analyze`, by the spectrum of the clips, lets levels lose 0.001 nats per pixel.
                resolution_schedule="threshold",
                thresholds=(0.5015, 0.5795),
            ),
            model=FlexiUNetConfig(
                widths=(24, 48, 64), attention_levels=(2,), factorised=True, num_classes=4, label_dropout=0.1
            ),
            train=TrainConfig(
                steps=1500,
                batch_size=16,
                allocation="cost_aware",
                flops_per_step=0.5,
                draws_multiple=4,
                learning_rate=1.5e-3,
                warmup_steps=50,
                ema_decay=0.997,
                loss_weighting="constant",
                log_every=10,
                sample_every=1500,
                checkpoint_every=200,
            ),
            sample=SampleConfig(solver="dpmpp_2m_sde", num_steps=30, guidance=2.0),
        )
    )
