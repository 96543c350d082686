"""ImageNet at 64 px, four levels (64, 32, 16, 8), on 8 GPUs: an entry of the paper's grid. Not trained yet.

python -m launch.prepare --config imagenet64 --out data/imagenet64 \\
    --config.data.source=tfds --config.data.name=imagenet2012
python -m launch.train --config configs/imagenet64.py --workdir runs/imagenet64
python -m launch.train --config configs/imagenet64.py:published --workdir runs/imagenet64_published

Conditional on the 1000 classes; a tenth of the labels is dropped, so that samples can be guided: `--guidance` of
launch.sample and launch.evaluate. Other numbers of levels are `--config.process.num_levels=2`, and 1 for DDPM that
predicts x_0; ours needs no more. configs/_paper.py says what `:published` changes, which knows no classes, as the
code was released. TFDS wants `tfds build imagenet2012 --file_format=array_record` first; a folder with a sub-folder for
each class does as well: `--config.data.source=folder --config.data.folder=PATH`. So do the images of
`imagenet_resized/64x64`, which were made small in another way.

92.2 million parameters, those of configs/celeba64.py and classes. A step costs what 256 images of one level do, whatever
the levels; with four it is of 461 draws. 30 calls of sampling take 0.78 of one level's operations. On 8 H100 the largest
program of training needs 3.4 GiB a GPU (one level: 4.8); 1,000,000 steps take at least 1.9 hours (one level: 2.0), at
published peaks that are never reached and with the traffic of that program alone:

python -m launch.forecast --config imagenet64 --hardware h100:8 --quick

Published FID to beat: DDPM 12.8, two levels 13.1, four levels 17.9; without classes, as far as the released code shows.
"""

from ml_collections import ConfigDict

from ._paper import paper_config


def get_config(variant: str = "ours") -> ConfigDict:
    return paper_config(variant, data="imagenet", image_size=64, num_levels=4, steps=1_000_000, num_classes=1000)
