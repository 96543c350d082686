"""Makes a run of a published PyTorch checkpoint; PyTorch is not needed. Then sample it like any other run.

python -m launch.import_reference --checkpoint ssd_64res_celeba_4levels_ema_0.9999_1000000.pt --workdir runs/celeba64
python -m launch.sample --workdir runs/celeba64 --num 64 --solver ancestral --num_steps 1000 --out samples/celeba64

The seven released checkpoints:

    data set    image_size  num_levels
    CelebA              64        2, 4
    CelebA             128        3, 5
    CelebA             256        3, 6
    ImageNet            64           2

image_size and num_levels come from the name of a released file, ssd_<image_size>res_<data>_<num_levels>levels_..., unless
given; widths, blocks and classes from its tensors. Attention heads and the resolution schedule show in neither: give them
where a checkpoint was trained with others than the defaults.
"""

from pathlib import Path
from typing import Any

from absl import flags

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.interop import published as interop

from .common.command import run

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A .pt file of torch.save.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the run; must be empty or new.", required=True)
IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Pixels on a side; by default from the file's name.")
NUM_LEVELS = flags.DEFINE_integer("num_levels", None, "Levels of the process; by default from the file's name.")
ATTENTION = flags.DEFINE_list("attention_resolutions", ["16", "8"], "Pixel sizes at which attention runs.")
NUM_HEADS = flags.DEFINE_integer("num_heads", 4, "Attention heads.")
RESOLUTION_SCHEDULE = flags.DEFINE_string("resolution_schedule", "convex_decay", "When the resolution changes.")
GAMMA = flags.DEFINE_float("gamma", 0.5, "Shape of the resolution schedule.")
NUM_TIMESTEPS = flags.DEFINE_integer("num_timesteps", 1000, "T.")


def main() -> None:
    trained = interop.import_checkpoint(
        CHECKPOINT.value, WORKDIR.value, _process(), attention_resolutions=_resolutions(), num_heads=NUM_HEADS.value
    )
    model: Any = trained.config.model
    print(
        f"{CHECKPOINT.value}, step {trained.step}: widths {model.widths}, {model.num_res_blocks} ResBlocks a level, "
        f"{model.num_classes} classes\n"
        f"sample it:  python -m launch.sample --workdir {WORKDIR.value} --out {WORKDIR.value}/samples"
        + (" --label 0" if model.num_classes else "")
    )


def _process() -> ProcessConfig:
    """The published process."""
    settings = interop.settings_from_name(CHECKPOINT.value)
    for flag in (IMAGE_SIZE, NUM_LEVELS):
        if flag.value is not None:
            settings[flag.name] = flag.value
        elif flag.name not in settings:
            raise InputError(f"--{flag.name} is missing, and the name {Path(CHECKPOINT.value).name!r} does not tell it")
    return ProcessConfig(
        image_size=settings["image_size"],
        num_levels=settings["num_levels"],
        num_timesteps=NUM_TIMESTEPS.value,
        noise_schedule="linear",
        resolution_schedule=RESOLUTION_SCHEDULE.value,
        gamma=GAMMA.value,
        operator="bilinear",
        snr_policy="published",
    )


def _resolutions() -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in ATTENTION.value)
    except ValueError as error:
        raise InputError(
            f"--attention_resolutions is {','.join(ATTENTION.value)!r}, but must be pixel sizes, e.g. 16,8"
        ) from error


if __name__ == "__main__":
    run(main)
