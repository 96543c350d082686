"""Makes a run of a published PyTorch checkpoint; PyTorch is not needed. Then sample it, or train on, like any other run.

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

Checkpoints of ADM (guided-diffusion) are of one level; what they were trained with else is said by the flags that its own
scripts took (`num_head_channels` is --head_width here). Variances that it predicts are left out.

python -m launch.import_reference --checkpoint 256x256_diffusion_uncond.pt --image_size 256 --num_levels 1 \
    --attention_resolutions 32,16,8 --head_width 64 --workdir runs/adm256
"""

import shlex
from pathlib import Path
from typing import Any

from absl import flags

from ssd_jax.config import Config, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.interop import published as interop
from ssd_jax.interop.guided_diffusion import ReferenceSettings
from ssd_jax.process.config import NOISE_SCHEDULES

from .common.command import run

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A .pt file of torch.save.", required=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the run; must be empty or new.", required=True)
IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "Pixels on a side; by default from the file's name.")
NUM_LEVELS = flags.DEFINE_integer("num_levels", None, "Levels of the process; by default from the file's name.")
ATTENTION = flags.DEFINE_list("attention_resolutions", ["16", "8"], "Pixel sizes at which attention runs.")
NUM_HEADS = flags.DEFINE_integer("num_heads", 4, "Attention heads.")
HEAD_WIDTH = flags.DEFINE_integer("head_width", 0, "Channels of each head instead (num_head_channels there); 0 for none.")
NEW_ATTENTION_ORDER = flags.DEFINE_boolean("new_attention_order", False, "As use_new_attention_order there.")
PARAMETERISATION = flags.DEFINE_string("parameterisation", None, "What it predicts; by default x0, of ADM eps.")
NOISE_SCHEDULE = flags.DEFINE_string("noise_schedule", "linear", f"One of {', '.join(NOISE_SCHEDULES)}.")
RESOLUTION_SCHEDULE = flags.DEFINE_string("resolution_schedule", "convex_decay", "When the resolution changes.")
GAMMA = flags.DEFINE_float("gamma", 0.5, "Shape of the resolution schedule.")
NUM_TIMESTEPS = flags.DEFINE_integer("num_timesteps", 1000, "T.")

# What another run must set to have the same network, which means the same.
TOLD = (
    *(("model", name) for name in ("widths", "num_res_blocks", "attention_levels", "num_heads", "head_width")),
    *(("model", name) for name in ("resampling", "stem_skip")),
    *(("denoiser", name) for name in ("parameterisation", "scale_inputs")),
)


def main() -> None:
    settings = ReferenceSettings(
        _resolutions(), NUM_HEADS.value, HEAD_WIDTH.value, NEW_ATTENTION_ORDER.value, PARAMETERISATION.value
    )
    trained = interop.import_checkpoint(CHECKPOINT.value, WORKDIR.value, _process(), settings)
    model: Any = trained.config.model
    print(
        f"{CHECKPOINT.value}, step {trained.step}: widths {model.widths}, {model.num_res_blocks} ResBlocks a level, "
        f"{model.num_classes} classes\n"
        f"taken for:  noise {trained.config.process.noise_schedule}, attention of "
        + (f"heads of {model.head_width} channels" if model.head_width else f"{model.num_heads} heads")
        + f" in the {'new' if NEW_ATTENTION_ORDER.value else 'old'} order, "
        f"prediction {trained.config.denoiser.parameterisation}\n"
        f"sample it:  python -m launch.sample --workdir {WORKDIR.value} --out {WORKDIR.value}/samples"
        + (" --label 0" if model.num_classes else "")
        + "\nor train on:  python -m launch.train --config .. --workdir .. "
        + f"--init_from {WORKDIR.value} {_as_flags(trained.config)}"
    )


def _as_flags(config: Config) -> str:
    """TOLD as flags."""
    settings = [f"{section}.{name}={getattr(getattr(config, section), name)}" for section, name in TOLD]
    return " ".join(shlex.quote(f"--config.{each}") for each in settings)


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
        noise_schedule=NOISE_SCHEDULE.value,
        resolution_schedule=RESOLUTION_SCHEDULE.value,
        gamma=GAMMA.value,
        operator="bilinear",
        snr_policy="published" if settings["num_levels"] > 1 else "preserve",  # which of one level are the same
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
