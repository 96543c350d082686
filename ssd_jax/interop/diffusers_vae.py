"""Autoencoders of diffusers: a folder of config.json and diffusion_pytorch_model.safetensors, read without PyTorch.

Those of the class AutoencoderKL, which Stable Diffusion 1 to 3 and FLUX have.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ssd_jax.data.protocol import CHANNELS
from ssd_jax.errors import InputError, brief, checked_fields, few, one_line
from ssd_jax.files.json_file import read_json
from ssd_jax.files.paths import absolute, check_new, to_path
from ssd_jax.network.autoencoder import Autoencoder, AutoencoderConfig, abstract_autoencoder
from ssd_jax.run.autoencoder import TrainedAutoencoder, load_autoencoder, of_weights, write_autoencoder
from ssd_jax.run.digest import named

CLASS = "AutoencoderKL"
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")  # the first that is there
# Fields of config.json, with what diffusers takes where they are not given, by our names.
SETTINGS: dict[str, tuple[str, Any]] = {
    "widths": ("block_out_channels", (64,)),
    "num_res_blocks": ("layers_per_block", 1),
    "latent_channels": ("latent_channels", 4),
    "num_groups": ("norm_num_groups", 32),
    "attention": ("mid_block_add_attention", True),
    "pointwise": ("use_quant_conv", True),
}
# What says nothing of the network: sizes, and how others scale latents, which here is measured on the data.
WITHOUT_EFFECT = ("sample_size", "scaling_factor", "shift_factor", "latents_mean", "latents_std", "force_upcast")
# Our names of layers, as they begin, and diffusers'.
LAYERS = {
    "stem": "conv_in",
    "head_norm": "conv_norm_out",
    "head": "conv_out",
    "middle/before": "mid_block.resnets.0",
    "middle/after": "mid_block.resnets.1",
    "middle/attention": "mid_block.attentions.0",
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# Of the attention, by the names of today and by those of before diffusers 0.15.
ATTENTION = {"norm": ["group_norm"], "out": ["to_out.0", "proj_attn"]}
QUERY_KEY_VALUE = (["to_q", "query"], ["to_k", "key"], ["to_v", "value"])


def read_diffusers_autoencoder(folder: str | Path) -> Autoencoder:
    """The autoencoder of a folder that diffusers' `AutoencoderKL.save_pretrained` wrote, in float32.

    Raises:
        InputError: if it holds no AutoencoderKL, one with options that change the network, or other tensors than it needs.
    """
    folder = Path(folder)
    config, channels = _config(folder / CONFIG)
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise InputError(f"{str(folder)!r} holds neither {' nor '.join(WEIGHTS)}; give a folder of an {CLASS}")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {one_line(error)}; download it again") from error
    abstract = abstract_autoencoder(config, channels)
    try:
        return Autoencoder(_parameters(tensors, abstract), config, channels)
    except InputError as error:
        raise InputError(f"{str(file)!r} does not fit its {CONFIG}: {error}; download both again") from error


def import_diffusers_autoencoder(folder: str | Path, workdir: str | Path) -> TrainedAutoencoder:
    """Makes `workdir`, which must be empty or new, a folder of weights that configs can name. Errors as of the reading."""
    out = absolute(to_path(workdir))
    check_new(out)  # before anything is read
    write_autoencoder(of_weights(read_diffusers_autoencoder(folder)), out)
    return load_autoencoder(out)


def _config(file: Path) -> tuple[AutoencoderConfig, int]:
    """The settings and the channels of pictures that a config.json says."""
    try:
        found = read_json(file)
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {one_line(error)}; give a folder of an {CLASS}") from error
    if not isinstance(found, dict) or found.get("_class_name") != CLASS:
        kind = found.get("_class_name") if isinstance(found, dict) else None
        raise InputError(f"{str(file)!r} is of a {brief(kind)}, but only diffusers' {CLASS} can be read")
    given = {name: value for name, value in found.items() if not name.startswith("_") and name not in WITHOUT_EFFECT}
    settings = {ours: given.pop(theirs, default) for ours, (theirs, default) in SETTINGS.items()}
    channels = given.pop("in_channels", 3)
    levels = len(settings["widths"]) if isinstance(settings["widths"], list | tuple) else 0
    fixed = {
        "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "out_channels": channels,
        "use_post_quant_conv": settings["pointwise"],
    }
    for name, value in given.items():
        if name not in fixed or value != fixed[name]:
            wanted = f"must be {brief(fixed[name])}" if name in fixed else "is not known"
            raise InputError(f"{str(file)!r} says {brief(name)}: {brief(value)}, but {wanted} here; it cannot be read")
    if channels not in CHANNELS:
        raise InputError(f"{str(file)!r} says 'in_channels': {brief(channels)}, but pictures have {few(CHANNELS)}")
    try:
        return AutoencoderConfig(**checked_fields("model", AutoencoderConfig, settings)), channels
    except InputError as error:
        names = ", ".join(f"{ours} is {theirs}" for ours, (theirs, _) in SETTINGS.items())
        raise InputError(f"{str(file)!r} cannot be used: {error} ({names})") from error


def _parameters(tensors: dict[str, np.ndarray], abstract: Autoencoder) -> dict:
    """Tensors as a pytree of parameters. Raises InputError if any is missing, has another shape, or is left."""
    parameters = named(abstract.parameters)
    arrays, used = [], set()
    for name, like in parameters.items():
        names = [_present(each, tensors) for each in _names(name, len(abstract.config.widths))]
        used.update(names)
        parts = [_flax(tensors[each], like.ndim) for each in names]
        array = np.concatenate(parts, axis=-1)
        if array.shape != like.shape:
            shape = tensors[names[0]].shape
            raise InputError(f"{few(names)} has shape {shape}, which makes {array.shape}, not {like.shape}")
        arrays.append(array)
    if left := sorted(tensors.keys() - used):
        raise InputError(f"{len(left)} tensors have no place: {few(left, 3)}")
    return jax.tree.unflatten(jax.tree.structure(abstract.parameters), arrays)


def _flax(tensor: np.ndarray, ndim: int) -> np.ndarray:
    """A tensor in float32 with its axes as Flax has them; matrices also stand as 1x1 convolutions."""
    tensor = tensor.astype(np.float32)
    if tensor.ndim == 4:
        tensor = tensor.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        return tensor[0, 0] if ndim == 2 and tensor.shape[:2] == (1, 1) else tensor
    return tensor.T


def _present(names: list[str], tensors: dict[str, np.ndarray]) -> str:
    """The one of several names that a file has. Raises InputError if it has none."""
    found = next((name for name in names if name in tensors), None)
    if found is None:
        raise InputError(f"{names[0]} is missing")
    return found


def _names(name: str, levels: int) -> Iterator[list[str]]:
    """Of the tensors that a parameter of ours is made of, side by side: each by its names in diffusers."""
    layer, _, leaf = name.rpartition("/")
    leaf = LEAVES[leaf]
    if layer in ("to_moments", "from_latents"):
        yield [f"{'quant_conv' if layer == 'to_moments' else 'post_quant_conv'}.{leaf}"]
        return
    half, _, layer = layer.partition("/")
    if layer == "middle/attention/query_key_value":
        for each in QUERY_KEY_VALUE:
            yield [f"{half}.{LAYERS['middle/attention']}.{one}.{leaf}" for one in each]
        return
    if layer.startswith("middle/attention/"):
        yield [f"{half}.{LAYERS['middle/attention']}.{one}.{leaf}" for one in ATTENTION[layer.rpartition("/")[2]]]
        return
    yield [f"{half}.{_layer(half, layer, levels)}.{leaf}"]


def _layer(half: str, layer: str, levels: int) -> str:
    """Diffusers' name of a layer in the encoder or the decoder; its decoder counts levels from the coarsest."""
    kind, *rest = layer.split("/")
    if kind in ("levels", "descends", "ascends"):
        level = int(rest[0]) + (kind == "ascends")
        blocks = f"down_blocks.{level}" if half == "encoder" else f"up_blocks.{levels - 1 - level}"
        if kind != "levels":
            return f"{blocks}.{'downsamplers' if half == 'encoder' else 'upsamplers'}.0.conv"
        layer, inner = f"{blocks}.resnets.{rest[1]}", rest[2]
    elif kind == "middle":
        layer, inner = LAYERS[f"middle/{rest[0]}"], rest[1]
    else:
        return LAYERS[kind]
    return f"{layer}.{'conv_shortcut' if inner == 'skip' else inner}"
