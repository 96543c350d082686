"""ImageNet at 256 px, six levels (256, 128, .., 8), on 8 GPUs: an entry of the paper's grid. Not trained yet.

python -m launch.prepare --config imagenet256 --out data/imagenet256 \\
    --config.data.source=tfds --config.data.name=imagenet2012
python -m launch.train --config configs/imagenet256.py --workdir runs/imagenet256
python -m launch.train --config configs/imagenet256.py:published --workdir runs/imagenet256_published

Conditional on the 1000 classes; a tenth of the labels is dropped, so that samples can be guided: `--guidance` of
launch.sample and launch.evaluate. Other numbers of levels are `--config.process.num_levels=3`, and 1 for DDPM that
predicts x_0; ours needs no more. configs/_paper.py says what `:published` changes, which knows no classes, as the
code was released. TFDS wants `tfds build imagenet2012 --file_format=array_record` first; a folder with a sub-folder for
each class does as well: `--config.data.source=folder --config.data.folder=PATH`.

124.3 million parameters, those of configs/celeba256.py and classes. A step costs what 256 images of one level do,
whatever the levels; with six it is of 899 draws. 30 calls of sampling take 0.55 of one level's operations. On 8 H100 the
largest program of training needs 15.9 GiB a GPU (one level: 31.5); 300,000 steps take at least 4.3 hours (one level: 5.0),
at published peaks that are never reached and with the traffic of that program alone:

python -m launch.forecast --config imagenet256 --hardware h100:8 --quick

We know of no published FID at this size.
"""

from ml_collections import ConfigDict

from ._paper import paper_config


def get_config(variant: str = "ours") -> ConfigDict:
    return paper_config(variant, data="imagenet", image_size=256, num_levels=6, steps=300_000, num_classes=1000)
