"""Configs: an ml_collections ConfigDict or JSON comes in, frozen and validated dataclasses go out.

The page of settings: every section, each a dataclass of the floor that it belongs to. Every wrong value is an InputError
when it is made, before anything is built, rendered or written.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field, replace
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssd_jax.data.encoding import EncodingConfig
from ssd_jax.data.sources import DataConfig
from ssd_jax.errors import (
    HOW_TO_REGISTER,
    InputError,
    as_type,
    brief,
    check_name,
    checked_fields,
    field_types,
    section,
    unknown_name,
)
from ssd_jax.files.json_file import json_text, parse_json
from ssd_jax.network import NETWORKS, kind_of
from ssd_jax.network.autoencoder import AutoencoderConfig
from ssd_jax.network.flexi_dit import FlexiDiTConfig as FlexiDiTConfig
from ssd_jax.network.flexi_unet import FlexiUNetConfig
from ssd_jax.network.parameterisation import DenoiserConfig
from ssd_jax.network.protocol import NetworkConfig, label_size, null_label
from ssd_jax.process.config import ProcessConfig, make_process, with_levels
from ssd_jax.sampling.config import SampleConfig
from ssd_jax.sharding import MeshConfig
from ssd_jax.training.config import OptimizerConfig as OptimizerConfig
from ssd_jax.training.config import TrainConfig
from ssd_jax.training.reconstruction import ReconstructionConfig

FORMAT = 4  # of config.json; `config_from_json` reads older ones
DEFAULT_KIND = "flexi_unet"  # the `model.kind` where none is given
AUTOENCODER = "autoencoder"  # the `model.kind` of an autoencoder's config
# Settings of training that tell stages of a process apart, of which an autoencoder has none.
OF_STAGES = (
    "loss_weighting",
    "stage_sampling",
    "allocation",
    "flops_per_step",
    "gradient_variances",
    "timestep_parts",
    "up_share",
)


@section("config")
@dataclass(frozen=True)
class Config:
    """A whole experiment. `model` is the config of one of `network.NETWORKS`; in files its `kind` says which."""

    data: DataConfig = field(default_factory=DataConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    model: NetworkConfig = field(default_factory=FlexiUNetConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)

    def __post_init__(self):
        kind_of(self.model)
        if self.sample.guidance != 1 and null_label(self.model) is None:
            guidance = f"sample.guidance is {self.sample.guidance}"
            raise InputError(
                f"{guidance}, but must be 1 unless model.num_classes or model.label_size is above 0, and "
                "model.label_dropout too"
            )
        if self.data.name_size and (self.num_classes or self.label_size not in (0, self.data.name_size)):
            raise InputError(
                f"data.name_size is {self.data.name_size}, but model.label_size is {self.label_size} and model.num_classes "
                f"{self.num_classes}; set --config.model.label_size={self.data.name_size} --config.model.num_classes=0"
            )
        if self.encoding.autoencoder is not None and self.data.flip:
            raise InputError(
                "data.flip is set, but latents cannot be mirrored: leave it out, or prepare mirrored images too"
            )
        if self.encoding.autoencoder is not None and self.train.evaluate_every and self.train.evaluate_num:
            raise InputError(
                f"train.evaluate_num is {self.train.evaluate_num}, but the data are latents, with which pictures cannot be "
                "compared: set it to 0, and compare with launch.evaluate --reference"
            )
        _check_evaluations(self.data, self.train)
        _check_factors(self.process, self.model)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Spatial shape of the images that the data give."""
        return self.process.shape

    @property
    def num_classes(self) -> int:
        """Of the model."""
        return self.model.num_classes

    @property
    def label_size(self) -> int:
        """Numbers of the model's labels, if they are vectors; 0 if not."""
        return label_size(self.model)


@section("config")
@dataclass(frozen=True)
class AutoencoderRunConfig:
    """A whole experiment that trains an autoencoder instead of a denoiser."""

    data: DataConfig = field(default_factory=DataConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        if any(side % self.model.factor for side in self.image_shape):
            raise InputError(
                f"reconstruction.shape is {self.image_shape}, but must be multiples of {self.model.factor} for the "
                f"{len(self.model.widths)} levels of the autoencoder (entries of model.widths)"
            )
        for name in OF_STAGES:
            if (value := getattr(self.train, name)) != getattr(TrainConfig, name):
                raise InputError(
                    f"train.{name} is {brief(value)}, but an autoencoder has no stages to tell apart: leave it out"
                )
        _check_evaluations(self.data, self.train)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Spatial shape of the images that the data give."""
        return self.reconstruction.shape

    @property
    def num_classes(self) -> int:
        """None: labels do not matter."""
        return 0

    label_size = num_classes


AnyConfig = Config | AutoencoderRunConfig
SECTIONS = tuple(f.name for f in dataclasses.fields(Config))


def _check_factors(process: ProcessConfig, model: NetworkConfig) -> None:
    """Raises InputError if a network of more levels than the process would not halve what further factors say."""
    unused = process.factors[max(process.num_levels - 1, 0) :]
    if unused and isinstance(model, FlexiUNetConfig) and not model.factors and len(model.widths) > process.num_levels:
        raise InputError(
            f"process.factors is {process.factors}, but process.num_levels {process.num_levels} uses not all of "
            f'them, and the network has {len(model.widths)} levels: set --config.model.factors="{process.factors}", so '
            "that it halves the same axes as with more levels"
        )


def _check_evaluations(data: DataConfig, train: TrainConfig) -> None:
    if train.evaluate_every and not (data.holdout or train.evaluate_num):
        raise InputError(
            f"train.evaluate_every is {train.evaluate_every}, but there is nothing to evaluate: data.holdout and "
            "train.evaluate_num are 0; give one of them"
        )


def as_dict(config: AnyConfig) -> dict[str, dict[str, Any]]:
    """The sections as plain dicts, the model's with its kind."""
    sections = dataclasses.asdict(config)
    kind = kind_of(config.model) if isinstance(config, Config) else AUTOENCODER
    return sections | {"model": {"kind": kind, **sections["model"]}}


def to_config_dict(config: AnyConfig) -> ConfigDict:
    """What `get_config()` of a config file returns: every field can then be set on the command line."""
    sections = as_dict(config)
    for name, values in sections.items():
        fields = field_types(type(getattr(config, name)))
        for field_name in fields:
            if values.get(field_name) is None:
                kind = _alternatives(fields[field_name])[0]
                values[field_name] = placeholder(typing.get_origin(kind) or kind)
    return ConfigDict(sections)


def from_config_dict(config_dict: ConfigDict | dict) -> Config:
    """Validates a ConfigDict. Raises InputError for unknown fields, wrong types and values that cannot work."""
    return of_denoiser(any_from_config_dict(config_dict))


def any_from_config_dict(config_dict: ConfigDict | dict) -> AnyConfig:
    """`from_config_dict` for a config that may be an autoencoder's."""
    plain = config_dict.to_dict() if isinstance(config_dict, ConfigDict) else config_dict
    config_class = _class_of(plain)
    _check_sections(plain, config_class)
    classes: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(config_class)}
    sections = {name: dict(values) for name, values in plain.items()}
    kind = sections.setdefault("model", {}).pop("kind", DEFAULT_KIND)
    if config_class is Config:
        classes["model"] = NETWORKS[kind][0]
    return config_class(**{name: _made(name, classes[name], values) for name, values in sections.items()})


def of_denoiser(config: AnyConfig) -> Config:
    """The config, if it is no autoencoder's. Raises InputError if it is."""
    if not isinstance(config, Config):
        raise InputError(
            f"model.kind is {AUTOENCODER!r}, which only launch.train takes, but must be a denoiser: {', '.join(NETWORKS)}"
        )
    return config


def _class_of(plain: dict) -> Any:
    """Of a config, by the kind of its model. Raises InputError for kinds that are not known."""
    model = plain.get("model", {})
    kind = as_type("model.kind", model.get("kind", DEFAULT_KIND), str) if isinstance(model, dict) else DEFAULT_KIND
    check_name("model.kind", kind, (*NETWORKS, AUTOENCODER), HOW_TO_REGISTER)
    return AutoencoderRunConfig if kind == AUTOENCODER else Config


def _made(name: str, cls: Any, values: dict) -> Any:
    """The dataclass of a section, and of sections within it, from plain dicts."""
    kinds = field_types(cls)
    dicts = [each for each in values if isinstance(values[each], dict) and dataclasses.is_dataclass(kinds.get(each))]
    inner = {each: _made(f"{name}.{each}", kinds[each], values[each]) for each in dicts}
    return cls(**checked_fields(name, cls, values | inner))


def config_json(config: AnyConfig) -> str:
    """The config as JSON text, for `config_from_json`."""
    return json_text({"format": FORMAT, **as_dict(config)}, indent=2) + "\n"


def config_from_json(text: str) -> Config:
    """What `config_json` wrote, of this version or an older one.

    Raises:
        InputError: for what no version wrote, or a newer one; or if it is an autoencoder's.
    """
    return of_denoiser(any_from_json(text))


def any_from_json(text: str) -> AnyConfig:
    """`config_from_json` for a config that may be an autoencoder's."""
    plain = parse_json(text)
    if not isinstance(plain, dict):
        raise InputError("it holds no config")
    written = plain.pop("format", 1)
    if written not in range(1, FORMAT + 1):
        raise InputError(f"it has format {written!r}, but this version reads 1 to {FORMAT}; install a newer ssd_jax")
    _check_sections(plain, _class_of(plain))
    config = any_from_config_dict(_upgraded(plain, written))
    if written < 3 and isinstance(config, Config):
        return replace(config, process=_without_regard_to_blur(config.process))
    return config


def _check_sections(plain: dict, config_class: Any) -> None:
    """Raises InputError for sections that do not exist in a config of this class, or hold no fields."""
    sections = [each.name for each in dataclasses.fields(config_class)]
    for name, values in plain.items():
        if name not in sections:
            raise unknown_name("config section", name, sections)
        if not isinstance(values, dict):
            raise InputError(f"config section {name} is {brief(values)}, but must hold fields with their values")


def _upgraded(plain: dict, written: int) -> dict:
    """The sections that format `written` stands for: the only place that knows old names."""
    if written < 2:
        sample = plain.get("sample", {})
        if "steps" in sample:
            sample["num_steps"] = sample.pop("steps")
        plain.setdefault("data", {}).setdefault("channels", 3)
    if written < 4:
        data = plain.get("data", {})
        for old, new in (("tfds_name", "name"), ("tfds_split", "split")):
            if old in data:
                data[new] = data.pop(old)
        if data.get("source", "openmoji") != "folder":
            data.pop("split_file", None)  # which had no effect
    return plain


def _without_regard_to_blur(process: ProcessConfig) -> ProcessConfig:
    """The levels that the schedule `information` gave before format 3, when it did not count blur."""
    if process.resolution_schedule != "information" or not process.blur:
        return process
    return with_levels(process, make_process(replace(process, blur=0.0)).levels)


def _alternatives(kind) -> tuple:
    """The types that a field may have: those of a union, or the one."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
