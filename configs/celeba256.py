"""CelebA at 256 px, six levels (256, 128, .., 8), on 8 GPUs: an entry of the paper's grid. Not trained yet.

python -m launch.prepare --config celeba256 --out data/celeba256 \\
    --config.data.source=tfds --config.data.name=celeb_a
python -m launch.train --config configs/celeba256.py --workdir runs/celeba256
python -m launch.train --config configs/celeba256.py:published --workdir runs/celeba256_published

Other numbers of levels are `--config.process.num_levels=3`, 4, and 1 for DDPM that predicts x_0; ours needs no
more. configs/_paper.py says what `:published` changes. TFDS wants `tfds build celeb_a --file_format=array_record`
first; a folder of images does as well: `--config.data.source=folder --config.data.folder=PATH`. Aligned images of CelebA
have 178 x 218 pixels and are enlarged; whether the published ones were is not known.

123.8 million parameters. A step costs what 256 images of one level do, whatever the levels; with six it is of 899 draws.
30 calls of sampling take 0.55 of one level's operations. On 8 H100 the largest program of training needs 15.9 GiB a GPU
(one level: 31.5); 300,000 steps take at least 4.3 hours (one level: 5.0), at published peaks that are never reached and
with the traffic of that program alone:

python -m launch.forecast --config celeba256 --hardware h100:8 --quick

Published FID to beat: DDPM 5.52, four levels 10.5, six levels 13.5; published hours of training 87, 52 and 43.
"""

from ml_collections import ConfigDict

from ._paper import paper_config


def get_config(variant: str = "ours") -> ConfigDict:
    return paper_config(variant, data="celeba", image_size=256, num_levels=6, steps=300_000)
