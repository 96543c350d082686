"""A folder of your own images, PNG, JPEG or WebP, at 32 px on a laptop CPU.

python -m launch.train --config configs/folder32.py --workdir runs/mine32 --config.data.folder=PATH

The quickstart's network and process (its levels change where images with a natural spectrum allow it) on your own images:
centre-cropped, resized and flipped at random. At about 6 steps/s on two CPU cores its 5000 steps take a quarter of an hour.
A folder with one sub-folder per class makes a conditional model with `--config.model.num_classes=N
--config.model.label_dropout=0.1`; its samples can be guided.
"""

from typing import Any

from ml_collections import ConfigDict

from . import openmoji32


def get_config() -> ConfigDict:
    config: Any = openmoji32.get_config()
    config.data.update(source="folder", flip=True, balance=False)
    config.model.update(num_classes=0, label_dropout=0.0)
    config.train.update(steps=5000, sample_every=1000, checkpoint_every=500)
    config.sample.guidance = 1.0
    return config
