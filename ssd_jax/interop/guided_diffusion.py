"""The PyTorch Flexi-UNet (Mukhopadhyay et al. 2026) as a FlexiUNet: which of its tensors each of our parameters is.

Published layers have the names of guided-diffusion (Dhariwal & Nichol 2021), numbered through the whole encoder and the
whole decoder; adapters are named by pixel size. `_layer_names` alone says which of our layers each of them is.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd_jax.build import Experiment, build
from ssd_jax.config import Config
from ssd_jax.errors import InputError, one_line
from ssd_jax.network.flexi_unet import FlexiUNet, FlexiUNetConfig
from ssd_jax.process.config import ProcessConfig

StateDict = Mapping[str, np.ndarray]

NETWORK = {
    "embed_1": "time_embed.0",
    "embed_2": "time_embed.2",
    "embed_label": "label_emb",
    "stem": "input_blocks.0.0",
    "head_norm": "out.0",
    "head": "out.2",
}
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "scale_shift": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
SIDES = ("in", "out")  # of the network, that have adapters
ATTENTION = {"norm": "norm", "query_key_value": "qkv", "out": "proj_out"}

# Our linear layers that are convolutions there, by their window.
WINDOWS = {"skip_connection": (1, 1), "adapters_in": (1, 1), "adapters_out": (1, 1), "qkv": (1,), "proj_out": (1,)}

DEEPEST = 32  # levels, or blocks of a level, beyond which no file holds a network
SHOWN = 6  # names that an error lists of each kind


def model_from_reference(
    state_dict: StateDict,
    *,
    image_size: int,
    num_levels: int,
    attention_resolutions: Collection[int] = (16, 8),
    num_heads: int = 4,
) -> FlexiUNet:
    """The FlexiUNet with published weights; widths, blocks and classes are read off their shapes.

    Args:
        state_dict: tensors by their PyTorch names.
        image_size: pixels on a side at level 0.
        num_levels: of the scale-space process, 1 <= num_levels <= levels of the network. The network may have more levels
            than the process ever enters; adapters to those are not published, and are zero here.
        attention_resolutions: pixel sizes at which attention runs; sizes that the network does not have are ignored.
        num_heads: attention heads, which the tensors do not show.

    Raises:
        InputError: if the tensors are not those of such a network; lists what is missing, unknown or of another shape.
    """
    config = config_from_reference(
        state_dict,
        image_size=image_size,
        num_levels=num_levels,
        attention_resolutions=attention_resolutions,
        num_heads=num_heads,
    )
    experiment = build(Config(process=ProcessConfig(image_size=image_size, num_levels=num_levels), model=config))
    return nnx.merge(experiment.graphdef, parameters_from_reference(state_dict, experiment))


def config_from_reference(
    state_dict: StateDict,
    *,
    image_size: int,
    num_levels: int,
    attention_resolutions: Collection[int] = (16, 8),
    num_heads: int = 4,
) -> FlexiUNetConfig:
    """The config of the network that `model_from_reference` builds. Arguments and errors as there."""
    levels = len(_numbers(state_dict, r"input_blocks\.(\d+)\.0\.op\.")) + 1
    blocks_per_level = len(_numbers(state_dict, r"input_blocks\.(\d+)\.")) // levels  # the stem or descend, and ResBlocks
    first_blocks = [f"input_blocks.{level * blocks_per_level + 1}" for level in range(levels)]
    kernels = [f"{block}.0.in_layers.2.weight" for block in first_blocks]
    labels = state_dict.get("label_emb.weight", np.empty((0, 0)))
    missing = [name for name in kernels if name not in state_dict or state_dict[name].ndim != 4]
    if missing or labels.ndim != 2 or max(levels, blocks_per_level) > DEEPEST:
        raise InputError(
            f"the tensors are not those of a published Flexi-UNet: missing: {some(missing)}; given: {some(state_dict)}"
        )
    if not 1 <= num_levels <= levels or image_size < 1 or image_size % 2 ** (levels - 1):
        raise InputError(
            f"image_size is {image_size} and num_levels {num_levels}, but the network has {levels} levels (convolutions "
            f"input_blocks.N.0.op, plus 1): they must be a multiple of {2 ** (levels - 1)} and 1..{levels}"
        )
    found = tuple(level for level, block in enumerate(first_blocks) if f"{block}.1.qkv.weight" in state_dict)
    if found != tuple(level for level in range(levels) if image_size >> level in attention_resolutions):
        sizes = ", ".join(str(image_size >> level) for level in found)
        raise InputError(
            f"attention_resolutions is {tuple(attention_resolutions)}, but this network has attention at ({sizes}) if "
            f"image_size is {image_size}; correct the one or the other"
        )
    return FlexiUNetConfig(
        widths=tuple(len(state_dict[name]) for name in kernels),
        num_res_blocks=blocks_per_level - 1,
        attention_levels=found,
        num_heads=num_heads,
        num_classes=len(labels),
    )


def parameters_from_reference(state_dict: StateDict, experiment: Experiment) -> dict[str, Any]:
    """The parameters of the network of an experiment with the config of `config_from_reference`, float32 arrays.

    Raises:
        InputError: as `model_from_reference`.
    """
    config: Any = experiment.config.model
    image_size, num_levels = experiment.process.shape[0], experiment.process.num_levels
    leaves, treedef = jax.tree_util.tree_flatten_with_path(experiment.abstract_parameters)
    names = _layer_names(config, image_size)
    sources = [_source(path, leaf.shape, names) for path, leaf in leaves]
    never_entered = tuple(
        f"adapters_{side}.{image_size >> i}." for i in range(num_levels, len(config.widths)) for side in SIDES
    )
    zero = {source.name for source in sources if source.name.startswith(never_entered)} - set(state_dict)
    _check(state_dict, {source.name: source.shape for source in sources if source.name not in zero}, config, image_size)

    def parameter(source: _Source, shape: tuple[int, ...]) -> jax.Array:
        if source.name in zero:
            return jnp.zeros(shape, jnp.float32)
        return jnp.asarray(state_dict[source.name].transpose(source.axes).reshape(shape), jnp.float32)

    return treedef.unflatten(parameter(source, leaf.shape) for source, (_, leaf) in zip(sources, leaves, strict=True))


class _Source(NamedTuple):
    """The published tensor that one of our parameters is, once its axes are transposed and those of length 1 dropped."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]


def _source(path: tuple, shape: tuple[int, ...], names: Mapping[str, str]) -> _Source:
    """The source of our parameter at `path` of a pure dict; `names` of layers as `_layer_names`."""
    *layer, kind = (str(key.key) for key in path)
    name = names[".".join(layer)]
    if kind != "kernel":
        return _Source(f"{name}.{'bias' if kind == 'bias' else 'weight'}", shape, tuple(range(len(shape))))
    *window, width_in, width_out = shape
    window = window or next((WINDOWS[part] for part in name.split(".") if part in WINDOWS), ())
    return _Source(f"{name}.weight", (width_out, width_in, *window), (*range(2, 2 + len(window)), 1, 0))


def _layer_names(config: FlexiUNetConfig, image_size: int) -> dict[str, str]:
    """The published name of each of our layers by its path, e.g. "encoders.0.1.residual.conv1"."""
    levels, num_res_blocks = len(config.widths), config.num_res_blocks
    names, blocks = dict(NETWORK), {"middle.0": "middle_block"}
    for level in range(levels):
        first_in, first_out = (position * (num_res_blocks + 1) for position in (level, levels - 1 - level))
        for i in range(num_res_blocks):
            blocks[f"encoders.{level}.{i}"] = f"input_blocks.{first_in + 1 + i}"
            blocks[f"decoders.{level}.{i}"] = f"output_blocks.{first_out + i}"
        for side in SIDES:
            names[f"adapters_{side}.{level}"] = f"adapters_{side}.{image_size >> level}"
        if level:
            ascend = f"output_blocks.{first_out + num_res_blocks}"
            blocks[f"ascend_blocks.{level - 1}"] = ascend
            names[f"ascend_convs.{level - 1}"] = f"{ascend}.{2 if level in config.attention_levels else 1}.conv"
            names[f"descends.{level - 1}"] = f"input_blocks.{first_in}.0.op"
    for ours, theirs in blocks.items():
        names |= {f"{ours}.residual.{a}": f"{theirs}.0.{b}" for a, b in RESIDUAL.items()}
        names |= {f"{ours}.attention.{a}": f"{theirs}.1.{b}" for a, b in ATTENTION.items()}
    return names | {f"middle.1.residual.{a}": f"middle_block.2.{b}" for a, b in RESIDUAL.items()}


def _check(state_dict: StateDict, shapes: dict[str, tuple[int, ...]], config: FlexiUNetConfig, image_size: int) -> None:
    """Raises InputError unless the tensors have these names and shapes."""
    unused = f"output_blocks.{len(config.widths) * (config.num_res_blocks + 1) - 1}."  # the published model never runs it
    problems = {
        "missing": [name for name in shapes if name not in state_dict],
        "unknown": [name for name in state_dict if name not in shapes and not name.startswith(unused)],
        "of another shape": [
            f"{name} {state_dict[name].shape} instead of {shape}"
            for name, shape in shapes.items()
            if name in state_dict and state_dict[name].shape != shape
        ],
    }
    if any(problems.values()):
        sizes = ", ".join(str(image_size >> level) for level in config.attention_levels)
        raise InputError(
            f"the tensors are not those of a published Flexi-UNet with image_size {image_size}, widths {config.widths}, "
            f"{config.num_res_blocks} ResBlocks a level, attention at ({sizes}) and {config.num_classes} classes: "
            + "; ".join(f"{what}: {some(names)}" for what, names in problems.items() if names)
        )


def some(names: Iterable[str]) -> str:
    names = [one_line(name, 99) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


def _numbers(state_dict: StateDict, pattern: str) -> set[str]:
    """The numbers that the group of `pattern` takes at the start of names."""
    return {match[1] for name in state_dict if (match := re.match(pattern, name))}
