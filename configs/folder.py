"""A folder of your own images, PNG, JPEG or WebP, at 64 px on a GPU.

python -m launch.train --config configs/folder.py --workdir runs/mine --config.data.folder=PATH

Images are centre-cropped, resized and flipped at random. `--config.data.split_file=FILE` restricts training to the paths
listed in FILE; classes keep their numbers. If the folder has one sub-folder per class, `--config.model.num_classes=N`
makes a conditional model, which knows its classes by name (`--label NAME`); its samples can be guided.
"""

from typing import Any

from ml_collections import ConfigDict

from . import openmoji64


def get_config() -> ConfigDict:
    config: Any = openmoji64.get_config()
    config.data.update(source="folder", flip=True, balance=False)
    config.model.num_classes = 0
    config.train.update(steps=200_000, learning_rate=1e-4, ema_decay=0.9999)
    return config
