"""Published checkpoints in: files of the PyTorch Flexi-UNet (Mukhopadhyay et al. 2026) and of ADM as runs."""

import os
import re

import numpy as np

from ssd_jax.build import build
from ssd_jax.config import AnyConfig, Config
from ssd_jax.data.sources import DataConfig
from ssd_jax.errors import InputError, brief
from ssd_jax.files.paths import Path, absolute, check_new, new_folder, to_path
from ssd_jax.files.torch_file import read_torch_file
from ssd_jax.interop.guided_diffusion import (
    RELEASED,
    ReferenceSettings,
    StateDict,
    config_from_reference,
    is_adm,
    levels_with_adapters,
    parameters_from_reference,
    some,
)
from ssd_jax.network.flexi_unet import FlexiUNetConfig
from ssd_jax.network.parameterisation import DenoiserConfig
from ssd_jax.process.config import ProcessConfig
from ssd_jax.run import checkpoint
from ssd_jax.run.digest import digests
from ssd_jax.run.load import load
from ssd_jax.run.record import Damaged, check_finite
from ssd_jax.run.trained import Trained
from ssd_jax.run.workdir import claim_workdir
from ssd_jax.training.config import TrainConfig
from ssd_jax.training.ema import MAIN


def settings_from_name(path: str | Path) -> dict[str, int]:
    """image_size, num_levels and step as far as the name of a released file shows them.

    E.g. 64, 4 and 1000000 for ssd_64res_celeba_4levels_ema_0.9999_1000000.pt; empty for other names.
    """
    match = re.match(
        r"ssd_(?P<image_size>\d{1,5})res_.*?_(?P<num_levels>\d{1,2})levels(?:.*_(?P<step>\d{1,9})\.)?",
        os.path.basename(path),
    )
    return {name: int(number) for name, number in match.groupdict().items() if number} if match else {}


def import_checkpoint(
    path: str | Path,
    workdir: str | Path,
    process: ProcessConfig,
    settings: ReferenceSettings = RELEASED,
) -> Trained:
    """Makes `workdir` a run with the weights of a published checkpoint, which `load` and the commands read like any other.

    Args:
        path: file of `torch.save`: {"model": state dict, "step": int} or the state dict alone.
        workdir: must be empty or new; is made whole or not at all.
        process: the scale-space process that the weights were trained for.
        settings: what the file does not tell.

    Returns:
        The run, as `load` reads it.

    Raises:
        InputError: if the file cannot be read, fits no FlexiUNet or not the process, or `workdir` is taken.
    """
    workdir = absolute(to_path(workdir))
    check_new(workdir)  # before anything is read
    trained = read_checkpoint(path, process, settings)
    experiment, averages = trained.experiment, {MAIN: trained.network.parameters}
    with new_folder(workdir) as folder:
        claim_workdir(folder, experiment.config)
        with checkpoint.open_checkpoints(folder, writable=True) as checkpoints:
            checkpoint.save(checkpoints, trained.step, experiment, {"ema": averages})
    return load(workdir)


def read_checkpoint(path: str | Path, process: ProcessConfig, settings: ReferenceSettings = RELEASED) -> Trained:
    """The weights of a published checkpoint, in memory; arguments and errors as of `import_checkpoint`."""
    return _trained(path, *_weights(path), process, settings)


def read_origin(path: str | Path, config: AnyConfig) -> Trained:
    """A published Flexi-UNet as what a run of `config` starts from, taken for one of its process and attention.

    Of levels it has those that its name tells, or that its adapters are for.

    Raises:
        InputError: as `import_checkpoint`, if the config's network is another, or if the file is one of ADM.
    """
    if not (isinstance(config, Config) and isinstance(config.model, FlexiUNetConfig)):
        raise InputError(f"init_from {str(path)!r} is a file, which only the network flexi_unet can start from")
    state_dict, step = _weights(path)
    if is_adm(state_dict):
        raise InputError(
            f"init_from {str(path)!r} is of ADM, whose tensors tell neither the order of its attention nor what it "
            "predicts: make a run of it by launch.import_reference, and start from that"
        )
    process, model = config.process, config.model
    known = settings_from_name(path).get("num_levels", levels_with_adapters(state_dict, process.shape[0]))
    if known < process.num_levels:  # the parameters do not depend on where levels begin
        process = ProcessConfig(shape=process.shape, num_levels=known, num_timesteps=process.num_timesteps)
    sizes = tuple(process.shape[0] >> level for level in model.attention_levels)
    return _trained(path, state_dict, step, process, ReferenceSettings(sizes, model.num_heads, model.head_width))


def _trained(
    path: str | Path, state_dict: StateDict, step: int, process: ProcessConfig, settings: ReferenceSettings
) -> Trained:
    """The tensors of the file at `path` as a model. Raises InputError if they or the process cannot be so."""
    image_size, num_levels = process.shape[0], process.num_levels
    model = config_from_reference(state_dict, image_size=image_size, num_levels=num_levels, settings=settings)
    parameterisation = settings.parameterisation or ("eps" if is_adm(state_dict) else "x0")
    denoiser = DenoiserConfig(parameterisation, scale_inputs=parameterisation == "x0")  # which never scales
    # What trained it is not known: there is no data to go on with.
    data, train = DataConfig(source="folder", channels=3, crop="adm"), TrainConfig(steps=max(step, 1))
    config = Config(data=data, process=process, model=model, denoiser=denoiser, train=train)
    experiment = build(config)
    _ = experiment.parameterisation  # fails before anything is converted, if the process has no such one
    parameters = parameters_from_reference(state_dict, experiment, new_attention_order=settings.new_attention_order)
    try:
        check_finite(digests(parameters))
    except Damaged as error:
        raise InputError(f"{str(path)!r} cannot be used: {error}; download or train it again") from error
    return Trained(experiment, experiment.denoiser(parameters), step)


def _weights(path: str | Path) -> tuple[dict[str, np.ndarray], int]:
    """State dict and training step of a checkpoint file; the step is 0 if neither the file nor its name tells."""
    contents = read_torch_file(path)
    state_dict = contents["model"] if isinstance(contents.get("model"), dict) else contents
    step = contents.get("step", settings_from_name(path).get("step", 0))
    others = [str(k)[:99] for k, v in state_dict.items() if not (isinstance(k, str) and isinstance(v, np.ndarray))]
    if others or not isinstance(step, int) or not 0 <= step < 2**31:
        raise InputError(
            f"{str(path)!r} must hold tensors by name, or these as 'model' beside an integer 'step', 0 <= step < 2^31, but "
            f"step is {brief(step)} and these are no tensors: {some(others)}"
        )
    return state_dict, step
