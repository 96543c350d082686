"""Makes a folder of weights of an autoencoder of diffusers, whose latents models can be trained on; PyTorch is not needed.

python -m launch.import_autoencoder --folder sd-vae-ft-mse --workdir runs/autoencoder
python -m launch.prepare --config openmoji64 --latents runs/autoencoder --out data/latents

The folder holds config.json, of the class AutoencoderKL, and diffusion_pytorch_model.safetensors (or its fp16 variant).
"""

from absl import flags

from ssd_jax.interop.diffusers_vae import import_diffusers_autoencoder

from .common.command import run

FOLDER = flags.DEFINE_string("folder", None, "Where diffusers' save_pretrained wrote the autoencoder.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the weights; must be empty or new.", required=True)


def main() -> None:
    trained = import_diffusers_autoencoder(FOLDER.value, WORKDIR.value)
    model = trained.autoencoder.config
    print(
        f"{WORKDIR.value}: autoencoder {trained.digest}, sides over {model.factor}, {model.latent_channels} channels\n"
        f"prepare data with it:  python -m launch.prepare --latents {WORKDIR.value} --config ... --out ..."
    )


if __name__ == "__main__":
    run(main)
