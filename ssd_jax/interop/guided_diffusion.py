"""PyTorch U-Nets as a FlexiUNet, the Flexi-UNet (Mukhopadhyay et al. 2026) and ADM: which of our parameters a tensor is.

Published layers have the names of guided-diffusion (Dhariwal & Nichol 2021), numbered through the whole encoder and the
whole decoder; adapters are named by pixel size. `_layer_names` alone says which of our layers each of them is.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
HEAD = (f"{NETWORK['head']}.weight", f"{NETWORK['head']}.bias")
SIDES = ("in", "out")  # of the network, that have adapters
ATTENTION = {"norm": "norm", "query_key_value": "qkv", "out": "proj_out"}

# Our linear layers that are convolutions there, by their window.
WINDOWS = {"skip_connection": (1, 1), "adapters_in": (1, 1), "adapters_out": (1, 1), "qkv": (1,), "proj_out": (1,)}

DEEPEST = 32  # levels, or blocks of a level, beyond which no file holds a network
SHOWN = 6  # names that an error lists of each kind


@dataclass(frozen=True)
class ReferenceSettings:
    """What the tensors of a checkpoint do not show.

    Attributes:
        attention_resolutions: pixel sizes at which attention runs; sizes that the network does not have are ignored.
        num_heads: attention heads.
        head_width: channels of each instead, `num_head_channels` there; 0 for num_heads of them.
        new_attention_order: heads are parts of queries, keys and values, instead of these of heads;
            `use_new_attention_order` there.
        parameterisation: what the network predicts, a key of PARAMETERISATIONS; as published if not given: "x0" of a
            Flexi-UNet, "eps" of ADM.
    """

    attention_resolutions: tuple[int, ...] = (16, 8)
    num_heads: int = 4
    head_width: int = 0
    new_attention_order: bool = False
    parameterisation: str | None = None


RELEASED = ReferenceSettings()  # the Flexi-UNets that were


def model_from_reference(
    state_dict: StateDict, *, image_size: int, num_levels: int, settings: ReferenceSettings = RELEASED
) -> FlexiUNet:
    """The FlexiUNet with published weights; widths, blocks and classes are read off their shapes.

    Args:
        state_dict: tensors by their PyTorch names.
        image_size: pixels on a side at level 0.
        num_levels: of the scale-space process, 1 <= num_levels <= levels of the network. The network may have more levels
            than the process ever enters; adapters to those that the tensors lack are zero here. 1 for ADM.
        settings: what the tensors do not show.

    Raises:
        InputError: if the tensors are not those of such a network; lists what is missing, unknown or of another shape.
    """
    config = config_from_reference(state_dict, image_size=image_size, num_levels=num_levels, settings=settings)
    experiment = build(Config(process=ProcessConfig(image_size=image_size, num_levels=num_levels), model=config))
    parameters = parameters_from_reference(state_dict, experiment, new_attention_order=settings.new_attention_order)
    return nnx.merge(experiment.graphdef, parameters)


def config_from_reference(
    state_dict: StateDict, *, image_size: int, num_levels: int, settings: ReferenceSettings = RELEASED
) -> FlexiUNetConfig:
    """The config of the network that `model_from_reference` builds. Arguments and errors as there."""
    levels = len(_numbers(state_dict, r"output_blocks\.(\d+)\.[12]\.(?:conv|in_layers)\.")) + 1  # what leads up, and 1
    residual = bool(_numbers(state_dict, r"output_blocks\.(\d+)\.[12]\.in_layers\."))
    blocks_per_level = len(_numbers(state_dict, r"input_blocks\.(\d+)\.")) // levels  # the stem or descend, and ResBlocks
    first_blocks = [f"input_blocks.{level * blocks_per_level + 1}" for level in range(levels)]
    kernels = [f"{block}.0.in_layers.2.weight" for block in first_blocks]
    labels = state_dict.get("label_emb.weight", np.empty((0, 0)))
    missing = [name for name in kernels if name not in state_dict or state_dict[name].ndim != 4]
    if missing or labels.ndim != 2 or max(levels, blocks_per_level) > DEEPEST:
        raise InputError(
            f"the tensors are not those of a published Flexi-UNet or of ADM: missing: {some(missing)}; "
            f"given: {some(state_dict)}"
        )
    if not 1 <= num_levels <= levels or image_size < 1 or image_size % 2 ** (levels - 1):
        raise InputError(
            f"image_size is {image_size} and num_levels {num_levels}, but the network has {levels} levels (changes of "
            f"resolution in output_blocks, plus 1): they must be a multiple of {2 ** (levels - 1)} and 1..{levels}"
        )
    found = tuple(level for level, block in enumerate(first_blocks) if f"{block}.1.qkv.weight" in state_dict)
    if found != tuple(level for level in range(levels) if image_size >> level in settings.attention_resolutions):
        sizes = ", ".join(str(image_size >> level) for level in found)
        raise InputError(
            f"attention_resolutions is {settings.attention_resolutions}, but this network has attention at ({sizes}) if "
            f"image_size is {image_size}; correct the one or the other"
        )
    if is_adm(state_dict) and num_levels > 1:
        raise InputError(
            f"num_levels is {num_levels}, but these are tensors of ADM, a network for one level: it has no adapters; "
            "take 1, and then start a run of more levels from its weights, by --init_from"
        )
    return FlexiUNetConfig(
        widths=tuple(len(state_dict[name]) for name in kernels),
        num_res_blocks=blocks_per_level - 1,
        attention_levels=found,
        num_heads=settings.num_heads,
        head_width=settings.head_width,
        resampling="residual" if residual else "convolution",
        stem_skip=is_adm(state_dict),
        num_classes=len(labels),
    )


def is_adm(state_dict: StateDict) -> bool:
    """Whether tensors are those of guided-diffusion's own U-Net, not of a Flexi-UNet.

    Both have the same names, but for adapters. A Flexi-UNet never runs its last block, whose last convolution is born zero.
    """
    last = max((int(number) for number in _numbers(state_dict, r"output_blocks\.(\d{1,3})\.")), default=0)
    used = state_dict.get(f"output_blocks.{last}.0.out_layers.3.weight", np.zeros(1)).any()
    return bool(used) and not any(name.startswith("adapters_") for name in state_dict)


def levels_with_adapters(state_dict: StateDict, image_size: int) -> int:
    """How many levels these tensors have adapters for, but those of widths that need none; 1 for ADM, which has none."""
    sizes = _numbers(state_dict, r"adapters_(?:in|out)\.(\d{1,5})\.")
    return max([1, *(image_size // int(size) for size in sizes if int(size))]).bit_length()


def parameters_from_reference(
    state_dict: StateDict, experiment: Experiment, *, new_attention_order: bool = False
) -> dict[str, Any]:
    """The parameters of the network of an experiment with the config of `config_from_reference`, float32 arrays.

    Of a network that predicts variances, too, the part that predicts them is left out. `new_attention_order` is that of
    `ReferenceSettings`.

    Raises:
        InputError: as `model_from_reference`.
    """
    config: Any = experiment.config.model
    image_size, num_levels = experiment.process.shape[0], experiment.process.num_levels
    state_dict = _without_variances(state_dict)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(experiment.abstract_parameters)
    names = _layer_names(config, image_size)
    sources = [_source(path, leaf.shape, names) for path, leaf in leaves]
    never_entered = tuple(
        f"adapters_{side}.{image_size >> i}." for i in range(num_levels, len(config.widths)) for side in SIDES
    )
    absent = {source.name for source in sources if source.name.startswith(never_entered)} - set(state_dict)
    _check(state_dict, {source.name: source.shape for source in sources if source.name not in absent}, config, image_size)

    def parameter(source: _Source, shape: tuple[int, ...]) -> jax.Array:
        if source.name in absent:
            return jnp.zeros(shape, jnp.float32)
        array = state_dict[source.name]
        if new_attention_order and ".qkv." in source.name:
            width = len(array) // 3
            heads = width // config.head_width if config.head_width else config.num_heads
            array = array.reshape(3, heads, width // heads, -1).swapaxes(0, 1).reshape(array.shape)
        return jnp.asarray(array.transpose(source.axes).reshape(shape), jnp.float32)

    return treedef.unflatten(parameter(source, leaf.shape) for source, (_, leaf) in zip(sources, leaves, strict=True))


def _without_variances(state_dict: StateDict) -> StateDict:
    """The tensors, of twice as many predictions as channels the first half: the means (Nichol & Dhariwal 2021)."""
    stem, *heads = (state_dict.get(name, np.empty(())) for name in ("input_blocks.0.0.weight", *HEAD))
    channels = stem.shape[1] if stem.ndim > 1 else 0
    if any(head.shape[:1] != (2 * channels,) for head in heads):
        return state_dict
    return {**state_dict} | {name: head[:channels] for name, head in zip(HEAD, heads, strict=True)}


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

    def residual(ours: str, theirs: str) -> dict[str, str]:
        return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in RESIDUAL.items()}

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
            ascend, descend = f"output_blocks.{first_out + num_res_blocks}", f"input_blocks.{first_in}.0"
            blocks[f"ascend_blocks.{level - 1}"] = ascend
            up = f"{ascend}.{2 if level in config.attention_levels else 1}"
            if config.resampling == "residual":
                names |= residual(f"ascend_convs.{level - 1}", up) | residual(f"descends.{level - 1}", descend)
            else:
                names |= {f"ascend_convs.{level - 1}": f"{up}.conv", f"descends.{level - 1}": f"{descend}.op"}
    if config.stem_skip:
        blocks["last"] = f"output_blocks.{levels * (num_res_blocks + 1) - 1}"
    for ours, theirs in blocks.items():
        names |= residual(f"{ours}.residual", f"{theirs}.0")
        names |= {f"{ours}.attention.{a}": f"{theirs}.1.{b}" for a, b in ATTENTION.items()}
    return names | residual("middle.1.residual", "middle_block.2")


def _check(state_dict: StateDict, shapes: dict[str, tuple[int, ...]], config: FlexiUNetConfig, image_size: int) -> None:
    """Raises InputError unless the tensors have these names and shapes."""
    last = f"output_blocks.{len(config.widths) * (config.num_res_blocks + 1) - 1}."  # the Flexi-UNet never runs it
    unused = () if config.stem_skip else (last,)
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
    """The first names, each in a line and not too long, and how many more there are: for messages."""
    names = [one_line(name, 99) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


def _numbers(state_dict: StateDict, pattern: str) -> set[str]:
    """The numbers that the group of `pattern` takes at the start of names."""
    return {match[1] for name in state_dict if (match := re.match(pattern, name))}
