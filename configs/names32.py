"""Emoji at 32 px by their names on a laptop CPU: labels are vectors, the hashed words of what Unicode calls an emoji.

python -m launch.train --config configs/names32.py --workdir runs/names32
python -m launch.sample --workdir runs/names32 --label "red heart" --num 16 --out samples/hearts

As configs/openmoji32.py, but for the labels: 128 numbers each, of 1,918 names such as "red heart", "grinning face" or
"Germany" (`data.name_size`; OpenMoji's own 542 additions have no name, and a label of zeros). A tenth is dropped, so that
samples can be guided. The words of --label are hashed as those of the names were, so that words of several names may be put
together; one that is in no name says only what it is spelt like.

Three levels (32, 16, 8), 0.9 million parameters. Not trained yet.
"""

from ml_collections import ConfigDict

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, to_config_dict


def get_config() -> ConfigDict:
    return to_config_dict(
        Config(
            data=DataConfig(source="openmoji", name_size=128),
            process=ProcessConfig(image_size=32, num_levels=3, resolution_schedule="information", tolerance=1e-4, blur=4.0),
            model=FlexiUNetConfig(widths=(24, 48, 64), attention_levels=(2,), label_size=128, label_dropout=0.1),
            train=TrainConfig(
                steps=5000,
                batch_size=16,
                allocation="cost_aware",
                flops_per_step=0.5,
                draws_multiple=4,
                learning_rate=1.5e-3,
                warmup_steps=50,
                ema_decay=0.998,
                loss_weighting="constant",
                log_every=50,
                sample_every=2500,
                checkpoint_every=250,
            ),
            sample=SampleConfig(solver="dpmpp_2m_sde", num_steps=30, guidance=2.0),
        )
    )
