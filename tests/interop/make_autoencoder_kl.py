"""Writes tests/golden/autoencoder_kl: a tiny AutoencoderKL of diffusers with random weights, and what it makes of pictures.

pip install torch diffusers safetensors  # in an environment of its own; made with torch 2.13.0, diffusers 0.42.1
python tests/interop/make_autoencoder_kl.py [FOLDER [SETTING=VALUE ...]]
"""

import ast
import sys
from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from diffusers import AutoencoderKL  # pyright: ignore[reportMissingImports]

GOLDEN = Path(__file__).parents[1] / "golden" / "autoencoder_kl"
WIDTHS = (8, 16, 16)


def main(folder: Path, *changes: str) -> None:
    torch.manual_seed(0)
    changed = {name: ast.literal_eval(value) for name, _, value in (each.partition("=") for each in changes)}
    settings = {
        "down_block_types": ("DownEncoderBlock2D",) * len(WIDTHS),
        "up_block_types": ("UpDecoderBlock2D",) * len(WIDTHS),
        "block_out_channels": WIDTHS,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    model = AutoencoderKL(**(settings | changed)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            parameter.copy_(parameter.half())  # exactly what the file holds
        pictures = 2 * torch.rand(2, 3, 24, 16) - 1
        latents = torch.randn(2, model.config.latent_channels, 6, 4)
        moments, decoded = model.encode(pictures).latent_dist.parameters, model.decode(latents).sample
    model.half().save_pretrained(folder, variant="fp16")
    arrays = {"pictures": pictures, "moments": moments, "latents": latents, "decoded": decoded}
    np.savez_compressed(folder / "outputs.npz", **{name: each.numpy() for name, each in arrays.items()})  # NCHW


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else GOLDEN, *sys.argv[2:])
