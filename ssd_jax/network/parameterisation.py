"""What the output of a network means: the one maker of z-hat, and of training targets.

Along V, an orthonormal basis of the sharp image z at stage.out_level, a state is y_i = g_i z_i + sigma eps_i. The y are its
own coordinates U^T x, and 0 in the null space of what leads from z to the state, where g = 0:

    stay                the pixels,                           g = a_t
    stay under blur     U = V the DCT,                        g = a_t exp(-tau_t rate_i)
    up-step             M = U diag(m) V^T between the levels, g = a_t m

A parameterisation is a pair of functions of (g, sigma) in these directions. The network's output F means

    z_hat = V (c_skip U^T x + c_out V^T F),    F = network(c_in x, c_noise)

so that x enters through V U^T, as in equation (6) with eta = 0, and meets z at one size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ssd_jax.errors import HOW_TO_REGISTER, InputError, check_name, section
from ssd_jax.network.directions import TINY, MatrixFreeDirections, SeparableDirections, directions_of
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage

Coefficients = Callable[[Any, Any, Any], tuple[Any, Any]]


def v(g, sigma, variance):
    """F* = (g eps - sigma z) / sqrt(g^2 + sigma^2) (Salimans & Ho 2022, for any g); -z where x tells nothing."""
    total = g**2 + sigma**2
    return g / total, -sigma / total**0.5


def eps(g, sigma, variance):
    """F* = eps (Ho et al. 2020), and -z where x tells nothing, g = 0: there is no noise to be told from the signal there.

    c_out = -sigma / g has no bound: `make_parameterisation` refuses processes with more noise than MAX_FACTOR times the
    signal along a direction that is not 0.
    """
    blind = g == 0
    return (1 - blind) / (g + blind), -jnp.where(blind, 1, sigma) / (g + blind)


def flow(g, sigma, variance):
    """F* = eps - z, the velocity of (1 - s) z + s eps, s = sigma / (g + sigma) (Liu et al. 2023); -z where g = 0."""
    return 1 / (g + sigma), -sigma / (g + sigma)


def edm(g, sigma, variance):
    """F* has variance 1 at every noise, if z has `variance`; c_out is the deviation of z given x (Karras et al. 2022)."""
    total = variance * g**2 + sigma**2
    return variance * g / total, sigma * (variance / total) ** 0.5


# c_skip and c_out of (g, sigma, variance of the sharp image's pixels), elementwise; c_out is nowhere 0. None: F is z-hat.
PARAMETERISATIONS: dict[str, Coefficients | None] = {"x0": None, "eps": eps, "v": v, "flow": flow, "edm": edm}
WITHOUT_VARIANCE = (eps, v, flow)  # which do not ask for it
MAX_FACTOR = 1e3  # |c_skip| and |c_out|: of a network in bfloat16, rounding alone would be several times the image


def log_snr(process: ScaleSpaceProcess) -> Float[np.ndarray, "timesteps"]:
    """`ScaleSpaceProcess.image_log_snr`, 20 .. -20 as 0 .. 1000: the range that embeddings of timesteps are made for.

    The state's own log-SNR would not tell timesteps apart: averaging raises it, so that a state of level 1 has that of some
    state of level 0, and a network that resizes the one to the size of the other takes both the same way.
    """
    return 25 * (20 - process.image_log_snr.clip(-20, 20))


# c_noise of every timestep, [T]. None: t itself.
CONDITIONINGS: dict[str, Callable[[ScaleSpaceProcess], np.ndarray] | None] = {"timestep": None, "log_snr": log_snr}


@section("denoiser")
@dataclass(frozen=True)
class DenoiserConfig:
    """The `denoiser` section of a config: what the network is told and what its output means.

    Attributes:
        parameterisation: a key of PARAMETERISATIONS.
        conditioning: a key of CONDITIONINGS.
        scale_inputs: the network is given states of variance 1 a pixel, c_in x (Karras et al. 2022), but for "x0", which
            takes them as they are; False for a network that was trained so with another parameterisation.
    """

    parameterisation: str = "x0"
    conditioning: str = "timestep"
    scale_inputs: bool = True

    def __post_init__(self):
        check_name("denoiser.parameterisation", self.parameterisation, PARAMETERISATIONS, HOW_TO_REGISTER)
        check_name("denoiser.conditioning", self.conditioning, CONDITIONINGS)


@dataclass(frozen=True)
class DataStatistics:
    """What parameterisations need to know of the data; measured by `data.statistics.measure_statistics`.

    Attributes:
        variances: of the pixels of z_t, all images, pixels and channels together, for every t, [T].
    """

    variances: tuple[float, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parameterisation:
    """What a network is told, and what it means. A pytree: the tables are leaves, float64 on the host.

    Without arguments: the network is given x and t, and its output is z-hat.

    Attributes:
        coefficients: one of PARAMETERISATIONS, static.
        directions: those of each (in_level, out_level) of a stage.
        alpha, sigma: a_t and sigma_t, [T].
        data_variance: of the pixels of the sharp image of each level.
        c_in: that makes the variance of states 1 a pixel, [T], or None for 1.
        c_noise: [T], or None for t.
    """

    coefficients: Coefficients | None = field(default=None, metadata={"static": True})
    directions: Mapping[tuple[int, int], SeparableDirections | MatrixFreeDirections] = field(default_factory=dict)
    alpha: Any = None
    sigma: Any = None
    data_variance: Any = None
    c_in: Any = None
    c_noise: Any = None

    def inputs(
        self, x: Float[Array, "batch *spatial channels"], t: Num[Array, "batch"]
    ) -> tuple[Float[Array, "batch *spatial channels"], Num[Array, "batch"]]:
        """What the network is told of states x at t, [batch]: c_in x and c_noise."""
        if self.c_in is not None:
            x = jnp.asarray(self.c_in, x.dtype)[_per_image(t, x)] * x
        return x, t if self.c_noise is None else jnp.asarray(self.c_noise, x.dtype)[t]

    def z_hat(
        self,
        output: Float[Array, "batch *out_spatial channels"],
        x: Float[Array, "batch *in_spatial channels"],
        t: Num[Array, "batch"],
        *,
        stage: Stage,
    ) -> Float[Array, "batch *out_spatial channels"]:
        """z-hat from the network's output F, affine in it.

        Args:
            output: F, at stage.out_level.
            x: the states, not scaled, at stage.in_level.
            t: timesteps, int [batch], of the stage.
            stage: the stage.
        """
        if self.coefficients is None:
            return output
        return self._apply(lambda skip, out: skip, x, lambda skip, out: out, output, t, stage)

    def target(
        self,
        z: Float[Array, "batch *out_spatial channels"],
        x: Float[Array, "batch *in_spatial channels"],
        t: Num[Array, "batch"],
        *,
        stage: Stage,
    ) -> Float[Array, "batch *out_spatial channels"]:
        """F*, the output whose z-hat is z: what a network learns to predict, z the sharp image. Arguments as of `z_hat`."""
        if self.coefficients is None:
            return z
        return self._apply(lambda skip, out: -skip / out, x, lambda skip, out: 1 / out, z, t, stage)

    def _apply(self, of_x: Callable, x: jax.Array, of_f: Callable, f: jax.Array, t: jax.Array, stage: Stage) -> jax.Array:
        """V (of_x U^T x + of_f V^T f), both functions of (c_skip, c_out)."""
        at = stage.t_min if stage.is_up else _per_image(t, x)  # an up-step has one t
        alpha, sigma = (jnp.asarray(table, x.dtype)[at] for table in (self.alpha, self.sigma))
        variance, coefficients = jnp.asarray(self.data_variance, x.dtype)[stage.out_level], self.coefficients
        assert coefficients is not None

        def along(choice: Callable) -> Callable:
            return lambda gain: choice(*coefficients(alpha * gain, sigma, variance))

        return self.directions[stage.in_level, stage.out_level].apply(along(of_x), x, along(of_f), f, at)


def _per_image(t: jax.Array, x: jax.Array) -> jax.Array:
    """t, [batch], as [batch, 1, .., 1] for images x."""
    return jnp.expand_dims(t, range(1, x.ndim))


def make_parameterisation(
    config: DenoiserConfig, process: ScaleSpaceProcess, statistics: DataStatistics | None = None
) -> Parameterisation:
    """The parameterisation of a config.

    Args:
        config: names of the registries.
        process: of the states.
        statistics: of the data, for that process; "x0" needs none, nor do WITHOUT_VARIANCE with inputs as they are.

    Raises:
        InputError: if statistics are missing or of another process, the conditioning cannot tell the timesteps apart, or
            z-hat would be what the network says times 0, or times more than MAX_FACTOR.
    """
    conditioning, coefficients = CONDITIONINGS[config.conditioning], PARAMETERISATIONS[config.parameterisation]
    c_noise = None if conditioning is None else conditioning(process)
    if c_noise is not None and (np.diff(c_noise) == 0).any():
        t = int(np.argmax(np.diff(c_noise) == 0))
        raise InputError(
            f"denoiser.conditioning is {config.conditioning!r}, but that cannot tell t = {t} from t = {t + 1} of this "
            'process; take "timestep"'
        )
    if coefficients is None:
        return Parameterisation(c_noise=c_noise)
    if statistics is None and (config.scale_inputs or coefficients not in WITHOUT_VARIANCE):
        raise InputError(
            f"denoiser.parameterisation is {config.parameterisation!r}, which needs statistics of the data: give those "
            "that the run keeps, or measure_statistics(images, process)"
        )
    statistics = statistics or DataStatistics((1.0,) * process.num_timesteps)  # whose values nothing asks for
    if len(statistics.variances) != process.num_timesteps:
        raise InputError(
            f"the statistics are of {len(statistics.variances)} timesteps, but the process has {process.num_timesteps}; "
            "give those of this process, measure_statistics(images, process)"
        )
    directions = {(stage.in_level, stage.out_level): directions_of(process, stage) for stage in process.stages}
    data_variance, variances = level_variances(process, statistics), np.array(statistics.variances)
    for stage in process.stages:
        own = directions[stage.in_level, stage.out_level].extremes(stage)
        _check_factors(config.parameterisation, process, stage, own, data_variance[stage.out_level])
    c_in = (process.alpha**2 * variances + process.sigma**2) ** -0.5 if config.scale_inputs else None
    return Parameterisation(coefficients, directions, process.alpha, process.sigma, data_variance, c_in, c_noise)


def level_variances(process: ScaleSpaceProcess, statistics: DataStatistics) -> Float[np.ndarray, "levels"]:
    """The variance of the pixels of the sharp image of each level."""
    return np.array([statistics.variances[process.first_timestep(level)] for level in range(process.num_levels)])


def _check_factors(name: str, process: ScaleSpaceProcess, stage: Stage, gains: np.ndarray, variance: float) -> None:
    """Raises InputError unless 0 < |c_out| <= MAX_FACTOR at g = a_t gains, [gains, timesteps of the stage]."""
    coefficients = PARAMETERISATIONS[name]
    assert coefficients is not None
    t = slice(stage.t_min, stage.t_max + 1)
    # What a state holds of z may be too little for a float, as a_t may be 0; it is not nothing.
    g = np.where(gains > 0, np.maximum(process.alpha[t] * gains, TINY), 0.0)
    _, out = coefficients(g, process.sigma[t], variance)
    factors = np.abs(np.broadcast_to(np.asarray(out, np.float64), g.shape))
    wrong = ~((factors > 0) & (factors <= MAX_FACTOR)).all(axis=0)
    if wrong.any():
        at = int(np.argmax(wrong))
        found = factors[:, at]
        worst = found.min() if found.min() == 0 else found.max()
        why = "the data do not vary or there is no noise" if worst == 0 else "there is so little of the image in the noise"
        raise InputError(
            f"denoiser.parameterisation is {name!r}, which multiplies what the network says by {worst:.3g} at "
            f"t = {stage.t_min + at} ({stage}), where {why}, but that must be > 0 and <= {MAX_FACTOR:g}; take another one, "
            f"such as {'x0' if worst == 0 else 'v'!r}, or another process"
        )
