"""The `process` section of a config, and the process that it describes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import HOW_TO_REGISTER, InputError, brief, check_name, check_range, checked_arguments, section
from ssd_jax.process.factors import Factors, check_factors, divided_shapes, factors_of
from ssd_jax.process.operators import OPERATORS, SeparableOperator
from ssd_jax.process.process import PRIOR_LOG_SNR, LinearOperator, ScaleSpaceProcess, preserving_shift
from ssd_jax.process.schedules import (
    RESOLUTION_CURVES,
    STEEP_CURVES,
    constant,
    cosine,
    flow,
    growing_blur,
    information_levels,
    linear,
    resolution_levels,
    threshold_levels,
    zero_terminal,
)
from ssd_jax.process.spectrum import natural_spectrum

SNR_POLICIES = ("preserve", "published")
# Far beyond what is of use, and what can still be built in seconds: an axis costs the cube of its side.
MAX_AXES, MAX_SIDE, MAX_PIXELS, MAX_TIMESTEPS = 4, 1024, 2**24, 100_000
MAX_GAMMA = 30  # 2^-gamma must not vanish beside 1/2 in `tanh_like`
MAX_NOISE_SHIFT = 1000
MAX_BLURRED = 2**33  # frequencies of all timesteps, whose decay training measures


@section("process")
@dataclass(frozen=True)
class ProcessConfig:
    """The scale-space process.

    Attributes:
        shape: spatial shape of level 0, every side divisible by 2^(num_levels - 1), or by what `factors` say.
        num_levels: L >= 1; 1 is DDPM.
        num_timesteps: T >= 2.
        noise_schedule: a key of NOISE_SCHEDULES; "constant" is always noise_sigma, for little noise and much blur.
        noise_sigma: 0 < sigma < 1 of the "constant" schedule.
        noise_shift: from 0 to 1000: how many times the noise of the schedule there is beside the signal, at every timestep;
            larger images want more than 1, such as their side over 64 (Hoogeboom et al. 2023; Esser et al. 2024).
        zero_terminal_snr: rescale the noise schedule so that x_{T-1} is pure noise.
        resolution_schedule: a key of RESOLUTION_SCHEDULES.
        gamma: shape of those that are curves, > 0; >= 1 for sigmoid_like and tanh_like.
        thresholds: of "threshold": the t / T from which each level but 0 is used; equal ones skip a level.
        tolerance: of "information", > 0: nats per pixel of what a state tells of the image that a level may lose.
        spectrum_slope: of "information": the data's power falls as (spatial frequency)^-slope.
        operator: a key of operators.OPERATORS; a function of the spatial shape that returns the operator to the next level.
        snr_policy: "preserve" (equation 8) or "published".
        blur: standard deviation, in pixels of level 0, of a blur that grows from 0 to this within the process; 0 for none.
        factors: by what each level's sides are divided on the way to the next, 1 or 2 an axis, e.g. ((1, 2, 2), (2, 2, 2))
            of clips, (frames, h, w); the last entry holds for all further levels, and () halves every axis.
        image_size: the short way to a square `shape`; if given, it prevails.
    """

    shape: tuple[int, ...] = (32, 32)
    num_levels: int = 4
    num_timesteps: int = 1000
    noise_schedule: str = "linear"
    noise_sigma: float = 0.01
    noise_shift: float = 1.0
    zero_terminal_snr: bool = False
    resolution_schedule: str = "convex_decay"
    gamma: float = 0.5
    thresholds: tuple[float, ...] = ()
    tolerance: float = 1e-3
    spectrum_slope: float = 2.0
    operator: str = "box"
    snr_policy: str = "preserve"
    blur: float = 0.0
    factors: Factors = ()
    image_size: InitVar[int | None] = None

    def __post_init__(self, image_size: int | None):
        if image_size is not None:
            object.__setattr__(self, "shape", (image_size, image_size))
        check_name("process.noise_schedule", self.noise_schedule, NOISE_SCHEDULES)
        check_name("process.resolution_schedule", self.resolution_schedule, RESOLUTION_SCHEDULES)
        if ":" in self.operator and self.operator not in OPERATORS:  # as configs of earlier versions named functions
            raise InputError(
                f"process.operator is {self.operator!r}, but nothing is imported because a config names it: have a module "
                f"say OPERATORS[{self.operator!r}] = .. and give --import MODULE, or ssd_jax.load(workdir, operator=..)"
            )
        check_name("process.operator", self.operator, OPERATORS, HOW_TO_REGISTER)
        check_name("process.snr_policy", self.snr_policy, SNR_POLICIES)
        check_range("process.num_levels", self.num_levels, low=1, high=MAX_SIDE.bit_length() + 1)
        check_range("process.num_timesteps", self.num_timesteps, low=2, high=MAX_TIMESTEPS + 1)
        if self.resolution_schedule in STEEP_CURVES:
            check_range(f"process.gamma of {self.resolution_schedule}", self.gamma, low=1, high=MAX_GAMMA)
        check_range("process.gamma", self.gamma, low=0, high=MAX_GAMMA, open_low=True)
        check_range("process.noise_sigma", self.noise_sigma, low=1e-6, high=1)
        check_range("process.noise_shift", self.noise_shift, low=0, high=MAX_NOISE_SHIFT, open_low=True)
        if self.noise_schedule == "constant" and self.noise_shift != 1:
            raise InputError(
                f'process.noise_shift is {self.noise_shift}, but process.noise_schedule="constant" always has '
                "process.noise_sigma: set that one"
            )
        check_range("process.tolerance", self.tolerance, low=0, high=1000, open_low=True)
        check_range("process.spectrum_slope", self.spectrum_slope, low=-10, high=10)
        check_range("process.blur", self.blur, low=0, high=MAX_SIDE)
        rising = list(self.thresholds) == sorted(self.thresholds) and all(0 < share < 1 for share in self.thresholds)
        if self.resolution_schedule == "threshold" and not (rising and len(self.thresholds) == self.num_levels - 1):
            raise InputError(
                f"process.thresholds is {self.thresholds}, but {self.num_levels} levels need {self.num_levels - 1} "
                "rising fractions of T between 0 and 1"
            )
        if len(self.shape) > MAX_AXES or max(self.shape, default=1) > MAX_SIDE or math.prod(self.shape) > MAX_PIXELS:
            raise InputError(
                f"process.shape is {brief(self.shape)}, but must have at most {MAX_AXES} sides of at most {MAX_SIDE} and "
                f"{MAX_PIXELS} pixels together"
            )
        if self.blur and math.prod(self.shape) * self.num_timesteps > MAX_BLURRED:
            raise InputError(
                f"process.blur is {self.blur}, but shape {self.shape} and {self.num_timesteps} timesteps are too many for "
                f"it: their product must be at most {MAX_BLURRED}; lower process.num_timesteps"
            )
        check_factors("process.factors", self.factors)
        _ = self.level_shapes

    @property
    def level_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Spatial shapes of the levels by `factors`, finest first; operators of the user's own may give others.

        Raises:
            InputError: if the sides of `shape` cannot be divided so.
        """
        return divided_shapes("process.factors", self.shape, self.factors, self.num_levels, "process.num_levels")


@checked_arguments
def make_process(config: ProcessConfig) -> ScaleSpaceProcess:
    """The process of a config.

    With snr_policy "published" the log-SNR is that of the base schedule, whatever the resolution. With "preserve" it is
    (8), and the base schedule is lowered by a ramp ~ (t / T)^4 that brings x_{T-1} down to PRIOR_LOG_SNR: steep enough to
    leave the steps that matter alone, and the prior N(0, I) is right again.

    Raises:
        InputError: if there are too few timesteps, or the operator cannot act on the shapes.
    """
    operators = operators_of(config)
    log_snr = NOISE_SCHEDULES[config.noise_schedule](config)
    levels = RESOLUTION_SCHEDULES[config.resolution_schedule](config, log_snr)
    operators = operators[: levels[-1]]  # "information" may do without the coarsest
    if config.snr_policy == "preserve":
        shift = preserving_shift(operators, levels)
        excess = max(log_snr[-1] + shift[-1] - PRIOR_LOG_SNR, 0.0) if shift[-1] else 0.0
        log_snr = log_snr - excess * (np.arange(config.num_timesteps) / (config.num_timesteps - 1)) ** 4 + shift
    return ScaleSpaceProcess(config.shape, log_snr, levels, operators, _dissipation(config))


def with_boundaries(config: ProcessConfig, starts: Sequence[int]) -> ProcessConfig:
    """The config of a process whose level l begins at timestep starts[l - 1]; equal ones skip a level."""
    thresholds = tuple(round((start - 0.5) / config.num_timesteps, 6) for start in starts)
    return replace(config, resolution_schedule="threshold", thresholds=thresholds, num_levels=len(thresholds) + 1)


def with_levels(config: ProcessConfig, levels: Int[np.ndarray, "t"]) -> ProcessConfig:
    """The config of a process with the level of every timestep given, [T]."""
    return with_boundaries(config, [int(np.argmax(levels >= level)) for level in range(1, int(levels[-1]) + 1)])


def operators_of(config: ProcessConfig) -> tuple[LinearOperator, ...]:
    """From each level to the next, num_levels - 1; each acts on the shape that the one before gives.

    Raises:
        InputError: if one does not make its shape smaller, or cannot act on it.
    """
    operators, shape = [], config.shape
    for level in range(config.num_levels - 1):
        operator = _operator(config, shape, factors_of(level, config.factors, len(shape)))
        smaller = len(operator.out_shape) == len(shape) and operator.out_shape != shape
        if operator.in_shape != shape or not smaller or any(np.subtract(operator.out_shape, shape) > 0):
            raise InputError(
                f"process.operator {config.operator!r} takes {operator.in_shape} to {operator.out_shape}, but must take "
                f"{shape} to a smaller shape"
            )
        operators.append(operator)
        shape = operator.out_shape
    return tuple(operators)


def _of_timesteps(function: Callable[[int], np.ndarray], config: ProcessConfig) -> Float[np.ndarray, "t"]:
    log_snr = function(config.num_timesteps) - 2 * np.log(config.noise_shift)
    return zero_terminal(log_snr) if config.zero_terminal_snr else log_snr


def _operator(config: ProcessConfig, shape: tuple[int, ...], factors: tuple[int, ...]) -> LinearOperator:
    """That of the config on the axes whose factor is 2, and the identity on the others."""
    halved = [factor == 2 for factor in factors]
    operator = OPERATORS[config.operator](tuple(side for side, half in zip(shape, halved, strict=True) if half))
    if all(halved):
        return operator
    if not isinstance(operator, SeparableOperator):
        raise InputError(
            f"process.factors is {config.factors}, but process.operator {config.operator!r} is no product of one matrix "
            "per axis and acts on all axes; leave process.factors out"
        )
    matrices = iter(operator.matrices)
    return SeparableOperator(tuple(next(matrices) if half else np.eye(n) for n, half in zip(shape, halved, strict=True)))


# From a config to the log-SNR of the base schedule, [T].
NOISE_SCHEDULES: dict[str, Callable[[ProcessConfig], np.ndarray]] = {
    "linear": partial(_of_timesteps, linear),
    "cosine": partial(_of_timesteps, cosine),
    "flow": partial(_of_timesteps, flow),
    "constant": lambda config: constant(config.num_timesteps, config.noise_sigma),
}


def _along_curve(name: str, config: ProcessConfig, log_snr: Float[np.ndarray, "t"]) -> Int[np.ndarray, "t"]:
    levels = resolution_levels(RESOLUTION_CURVES[name], config.num_timesteps, config.num_levels, config.gamma)
    if (np.diff([*levels, config.num_levels]) > 1).any():
        raise InputError(
            f"process.num_timesteps = {config.num_timesteps} are too few for {config.num_levels} levels with resolution "
            f"schedule {name!r} and gamma = {config.gamma}: some level gets no timestep"
        )
    return levels


def _by_information(config: ProcessConfig, log_snr: Float[np.ndarray, "t"]) -> Int[np.ndarray, "t"]:
    spectrum = natural_spectrum(config.shape, slope=config.spectrum_slope)
    return information_levels(log_snr, spectrum, config.level_shapes, config.tolerance, _dissipation(config))


def _dissipation(config: ProcessConfig) -> Float[np.ndarray, "t"] | None:
    return growing_blur(config.num_timesteps, config.blur) if config.blur else None


# From a config and the log-SNR of its base schedule to the level of every timestep, [T].
RESOLUTION_SCHEDULES: dict[str, Callable[[ProcessConfig, np.ndarray], np.ndarray]] = {
    **{name: partial(_along_curve, name) for name in RESOLUTION_CURVES},
    "threshold": lambda config, log_snr: threshold_levels(config.num_timesteps, config.thresholds),
    "information": _by_information,
}
