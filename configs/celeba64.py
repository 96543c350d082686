"""CelebA at 64 px, four levels (64, 32, 16, 8), on 8 GPUs: an entry of the paper's grid. Not trained yet.

python -m launch.prepare --config celeba64 --out data/celeba64 \\
    --config.data.source=tfds --config.data.name=celeb_a
python -m launch.train --config configs/celeba64.py --workdir runs/celeba64
python -m launch.train --config configs/celeba64.py:published --workdir runs/celeba64_published

Other numbers of levels are `--config.process.num_levels=2`, and 1 for DDPM that predicts x_0; ours needs no more.
configs/_paper.py says what `:published` changes. TFDS wants `tfds build celeb_a --file_format=array_record` first; a
folder of images does as well: `--config.data.source=folder --config.data.folder=PATH`.

91.6 million parameters. A step costs what 256 images of one level do, whatever the levels; with four it is of 461 draws.
30 calls of sampling take 0.78 of one level's operations. On 8 H100 the largest program of training needs 3.4 GiB a GPU
(one level: 4.8); 1,000,000 steps take at least 1.9 hours (one level: 2.0), at published peaks that are never reached and
with the traffic of that program alone:

python -m launch.forecast --config celeba64 --hardware h100:8 --quick

Published FID to beat: DDPM-eps 2.22, two levels 2.14, four levels 4.28.
"""

from ml_collections import ConfigDict

from ._paper import paper_config


def get_config(variant: str = "ours") -> ConfigDict:
    return paper_config(variant, data="celeba", image_size=64, num_levels=4, steps=1_000_000)
