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
from ssd_jax.network.flexi_unet import FlexiUNetConfig
from ssd_jax.network.parameterisation import DenoiserConfig
from ssd_jax.network.protocol import NetworkConfig, null_label
from ssd_jax.process.config import ProcessConfig, make_process, with_levels
from ssd_jax.sampling.config import SampleConfig
from ssd_jax.sharding import MeshConfig
from ssd_jax.training.config import OptimizerConfig as OptimizerConfig
from ssd_jax.training.config import TrainConfig

FORMAT = 4  # of config.json; `config_from_json` reads older ones


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

    def __post_init__(self):
        kind_of(self.model)
        if self.sample.guidance != 1 and null_label(self.model) is None:
            guidance = f"sample.guidance is {self.sample.guidance}"
            raise InputError(f"{guidance}, but must be 1 unless model.num_classes and model.label_dropout are above 0")
        if self.train.evaluate_every and not (self.data.holdout or self.train.evaluate_num):
            raise InputError(
                f"train.evaluate_every is {self.train.evaluate_every}, but there is nothing to evaluate: data.holdout and "
                "train.evaluate_num are 0; give one of them"
            )


SECTIONS = tuple(f.name for f in dataclasses.fields(Config))


def as_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The sections as plain dicts, the model's with its kind."""
    sections = dataclasses.asdict(config)
    return sections | {"model": {"kind": kind_of(config.model), **sections["model"]}}


def to_config_dict(config: Config) -> ConfigDict:
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
    plain = config_dict.to_dict() if isinstance(config_dict, ConfigDict) else config_dict
    _check_sections(plain)
    classes: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(Config)}
    sections = {name: dict(values) for name, values in plain.items()}
    kind = as_type("model.kind", sections.setdefault("model", {}).pop("kind", "flexi_unet"), str)
    check_name("model.kind", kind, NETWORKS, HOW_TO_REGISTER)
    classes["model"] = NETWORKS[kind][0]
    return Config(**{name: _made(name, classes[name], values) for name, values in sections.items()})


def _made(name: str, cls: Any, values: dict) -> Any:
    """The dataclass of a section, and of sections within it, from plain dicts."""
    kinds = field_types(cls)
    dicts = [each for each in values if isinstance(values[each], dict) and dataclasses.is_dataclass(kinds.get(each))]
    inner = {each: _made(f"{name}.{each}", kinds[each], values[each]) for each in dicts}
    return cls(**checked_fields(name, cls, values | inner))


def config_json(config: Config) -> str:
    """The config as JSON text, for `config_from_json`."""
    return json_text({"format": FORMAT, **as_dict(config)}, indent=2) + "\n"


def config_from_json(text: str) -> Config:
    """What `config_json` wrote, of this version or an older one.

    Raises:
        InputError: for what no version wrote, or a newer one.
    """
    plain = parse_json(text)
    if not isinstance(plain, dict):
        raise InputError("it holds no config")
    written = plain.pop("format", 1)
    if written not in range(1, FORMAT + 1):
        raise InputError(f"it has format {written!r}, but this version reads 1 to {FORMAT}; install a newer ssd_jax")
    _check_sections(plain)
    config = from_config_dict(_upgraded(plain, written))
    return replace(config, process=_without_regard_to_blur(config.process)) if written < 3 else config


def _check_sections(plain: dict) -> None:
    """Raises InputError for sections that do not exist, or hold no fields."""
    for name, values in plain.items():
        if name not in SECTIONS:
            raise unknown_name("config section", name, SECTIONS)
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
