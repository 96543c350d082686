"""Configs: an ml_collections ConfigDict comes in, frozen and validated dataclasses go out.

Every wrong value is an InputError here, before anything is built, rendered or written.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssd_jax.errors import InputError, check_name, check_range, unknown_name
from ssd_jax.process.operators import find_operator
from ssd_jax.process.schedules import NOISE_SCHEDULES, RESOLUTION_SCHEDULES

BASE_NOISE_SCHEDULES = (*NOISE_SCHEDULES, "constant")
LEVEL_SCHEDULES = (*RESOLUTION_SCHEDULES, "threshold", "information")


@dataclass(frozen=True)
class DataConfig:
    """Where images come from.

    Attributes:
        source: "openmoji" (embedded), "folder" or "tfds".
        folder: root of an image folder, searched recursively; first-level sub-folders are its classes.
        split_file: optional text file with one path (relative to folder) per line: only these images are used.
        tfds_name: name of a prepared TFDS data set, e.g. "celeb_a"; read as array_record.
        tfds_split: its split.
        flip: mirror half of the images at random.
        balance: draw all classes equally often.
    """

    source: str = "openmoji"
    folder: str | None = None
    split_file: str | None = None
    tfds_name: str | None = None
    tfds_split: str = "train"
    flip: bool = False
    balance: bool = False

    def __post_init__(self):
        check_name("data.source", self.source, ("openmoji", "folder", "tfds"))


@dataclass(frozen=True)
class ProcessConfig:
    """The scale-space process.

    Attributes:
        image_size: pixels on a side at level 0; divisible by 2^(num_levels - 1).
        num_levels: L >= 1; 1 is DDPM.
        num_timesteps: T >= 2.
        noise_schedule: a key of schedules.NOISE_SCHEDULES, or "constant": always noise_sigma, little noise and much blur.
        noise_sigma: 0 < sigma < 1 of the "constant" schedule.
        zero_terminal_snr: rescale the noise schedule so that x_{T-1} is pure noise.
        resolution_schedule: a key of schedules.RESOLUTION_SCHEDULES, "threshold" or "information".
        gamma: shape of the former, > 0; >= 1 for sigmoid_like and tanh_like.
        thresholds: of "threshold": the t / T from which each level but 0 is used; equal ones skip a level.
        tolerance: of "information", > 0: nats per pixel of what a state tells of the image that a level may lose.
        spectrum_slope: of "information": the data's power falls as (spatial frequency)^-slope.
        operator: a key of operators.OPERATORS, or "module:function" for one of your own: a function of the spatial shape
            that returns a SeparableOperator or MatrixFreeOperator to half of it.
        snr_policy: "preserve" (equation 8) or "published".
        blur: standard deviation, in pixels of level 0, of a blur that grows from 0 to this within the process; 0 for none.
    """

    image_size: int = 32
    num_levels: int = 4
    num_timesteps: int = 1000
    noise_schedule: str = "linear"
    noise_sigma: float = 0.01
    zero_terminal_snr: bool = False
    resolution_schedule: str = "convex_decay"
    gamma: float = 0.5
    thresholds: tuple[float, ...] = ()
    tolerance: float = 1e-3
    spectrum_slope: float = 2.0
    operator: str = "box"
    snr_policy: str = "preserve"
    blur: float = 0.0

    def __post_init__(self):
        check_name("process.noise_schedule", self.noise_schedule, BASE_NOISE_SCHEDULES)
        check_name("process.resolution_schedule", self.resolution_schedule, LEVEL_SCHEDULES)
        find_operator(self.operator)
        check_name("process.snr_policy", self.snr_policy, ("preserve", "published"))
        check_range("process.num_levels", self.num_levels, low=1)
        check_range("process.num_timesteps", self.num_timesteps, low=2)
        if self.resolution_schedule in ("sigmoid_like", "tanh_like"):
            check_range(f"process.gamma of {self.resolution_schedule}", self.gamma, low=1)
        check_range("process.gamma", self.gamma, low=0, open_low=True)
        check_range("process.noise_sigma", self.noise_sigma, low=0, high=1, open_low=True)
        check_range("process.tolerance", self.tolerance, low=0, open_low=True)
        check_range("process.blur", self.blur, low=0)
        rising = list(self.thresholds) == sorted(self.thresholds) and all(0 < share < 1 for share in self.thresholds)
        if self.resolution_schedule == "threshold" and not (rising and len(self.thresholds) == self.num_levels - 1):
            raise InputError(
                f"process.thresholds is {self.thresholds}, but {self.num_levels} levels need {self.num_levels - 1} "
                "rising fractions of T between 0 and 1"
            )
        _check_divisible(self.image_size, self.num_levels, "process.num_levels")


@dataclass(frozen=True)
class ModelConfig:
    """The Flexi-UNet.

    Attributes:
        widths: channels of level 0, 1, ...; as many entries as the network has levels.
        num_res_blocks: ResBlocks per level, >= 1.
        attention_levels: levels with self-attention (the middle always has it).
        num_heads: attention heads; divides the width of every level with attention.
        dropout: 0 <= rate < 1.
        num_classes: 0 for an unconditional network.
        label_dropout: 0 <= share < 1 of the labels that training replaces by a null class, which guidance needs.
        dtype: compute dtype, "float32" or "bfloat16"; parameters are float32 always.
    """

    widths: tuple[int, ...] = (32, 64, 64, 64)
    num_res_blocks: int = 1
    attention_levels: tuple[int, ...] = (2, 3)
    num_heads: int = 4
    dropout: float = 0.0
    num_classes: int = 0
    label_dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"model.widths is {self.widths}, but must hold one positive width per level")
        check_range("model.num_res_blocks", self.num_res_blocks, low=1)
        check_range("model.dropout", self.dropout, low=0, high=1)
        check_range("model.num_classes", self.num_classes, low=0)
        check_range("model.label_dropout", self.label_dropout, low=0, high=1)
        check_name("model.dtype", self.dtype, ("float32", "bfloat16"))
        check_range("model.num_heads", self.num_heads, low=1)
        for level in self.attention_levels:
            if level not in range(len(self.widths)):
                raise InputError(f"model.attention_levels names level {level}, but levels are 0..{len(self.widths) - 1}")
        for level in {*self.attention_levels, len(self.widths) - 1}:
            if self.widths[level] % self.num_heads:
                raise InputError(
                    f"model.num_heads is {self.num_heads}, but must divide the width {self.widths[level]} of level {level}"
                )

    @property
    def null_label(self) -> int | None:
        """The label that stands for "any class", one after the classes; None without label dropout."""
        return self.num_classes if self.num_classes and self.label_dropout else None


@dataclass(frozen=True)
class TrainConfig:
    """Training.

    Attributes:
        steps: updates in all.
        batch_size: images per update, over all devices.
        learning_rate: peak, for Adam.
        warmup_steps: linear warm-up from 0.
        cosine_decay: decay to 0 at `steps`; otherwise constant after warm-up.
        gradient_clip: bound on the global gradient norm, > 0.
        ema_decay: 0 <= decay < 1 of the averaged parameters.
        loss_weighting: "min_snr" (min(SNR, 5)), "snr" or "constant", of the squared error of z.
        stage_sampling: "mixed" (every step trains all stages) or "single" (one stage a step).
        up_share: share of the training images that the up-steps get together, 0 < share < 1.
        seed: of initialisation, data order, timesteps and noise.
        log_every, sample_every, checkpoint_every: in steps.
    """

    steps: int = 10_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    cosine_decay: bool = True
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    loss_weighting: str = "min_snr"
    stage_sampling: str = "mixed"
    up_share: float = 0.05
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 1000

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "sample_every", "checkpoint_every"):
            check_range(f"train.{name}", getattr(self, name), low=1)
        for name in ("seed", "warmup_steps"):
            check_range(f"train.{name}", getattr(self, name), low=0)
        for name in ("learning_rate", "gradient_clip"):
            check_range(f"train.{name}", getattr(self, name), low=0, open_low=True)
        check_range("train.ema_decay", self.ema_decay, low=0, high=1)
        check_range("train.up_share", self.up_share, low=0, high=1, open_low=True)
        check_name("train.loss_weighting", self.loss_weighting, ("min_snr", "snr", "constant"))
        check_name("train.stage_sampling", self.stage_sampling, ("mixed", "single"))


@dataclass(frozen=True)
class SampleConfig:
    """The sample grids written while training.

    Attributes:
        num: images in a grid.
        solver: a key of solvers.SOLVERS.
        steps: network calls per image.
        guidance: scale of classifier-free guidance, >= 0; 1 is none.
    """

    num: int = 64
    solver: str = "dpmpp_2m"
    steps: int = 30
    guidance: float = 1.0

    def __post_init__(self):
        check_range("sample.num", self.num, low=1)
        check_range("sample.steps", self.steps, low=1)
        check_range("sample.guidance", self.guidance, low=0)


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self):
        network_levels = len(self.model.widths)
        if self.process.num_levels > network_levels:
            raise InputError(
                f"process.num_levels is {self.process.num_levels}, but the network has {network_levels} levels "
                "(entries of model.widths); lower the one or lengthen the other"
            )
        _check_divisible(self.process.image_size, network_levels, "entries of model.widths")
        if self.sample.guidance != 1 and self.model.null_label is None:
            guidance = f"sample.guidance is {self.sample.guidance}"
            raise InputError(f"{guidance}, but must be 1 unless model.num_classes and model.label_dropout are above 0")


def to_config_dict(config: Config) -> ConfigDict:
    """What `get_config()` of a config file returns: every field can then be set on the command line."""
    sections = dataclasses.asdict(config)
    for section in sections.values():
        for name, value in section.items():
            if value is None:
                section[name] = placeholder(str)  # may be given any string
    return ConfigDict(sections)


def from_config_dict(config_dict: ConfigDict | dict) -> Config:
    """Validates a ConfigDict. Raises InputError for unknown fields, wrong types and values that cannot work."""
    plain = config_dict.to_dict() if isinstance(config_dict, ConfigDict) else config_dict
    sections = {f.name: f.type for f in dataclasses.fields(Config)}
    for name in plain:
        if name not in sections:
            raise unknown_name("config section", name, sections)
    return Config(**{name: _section(name, sections[name], values) for name, values in plain.items()})


def config_json(config: Config) -> str:
    """The config as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def _section(section: str, cls, values: dict):
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise unknown_name(f"config field of {section}", name, fields)
    return cls(**{name: _convert(f"{section}.{name}", fields[name], value) for name, value in values.items()})


def _convert(name: str, kind, value):
    """`value` as `kind`; only lossless conversions (int to float, list to tuple) are made."""
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(name, typing.get_args(kind)[0], item) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (typing.get_origin(kind) or kind,)
    if type(value) not in allowed:
        raise InputError(f"{name} is {value!r}, but must be of type {getattr(kind, '__name__', kind)}")
    return value


def _check_divisible(image_size: int, levels: int, what: str) -> None:
    factor = 2 ** (levels - 1)
    if image_size < factor or image_size % factor:
        raise InputError(
            f"process.image_size is {image_size}, but {levels} levels ({what}) need a positive multiple of {factor}"
        )
