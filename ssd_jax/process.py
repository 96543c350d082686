"""The scale-space process: equations (1)-(8).

States are x_t at level levels[t]; A_t is the cumulative operator from the image to that level, M = M_{s->t} the one from
state s to state t (s < t), c = a_t / a_s, rho = sigma_s^2 / sigma_t^2, z_t = A_t x_0.

    (1) marginal     x_t = a_t z_t + sigma_t eps,   a_t^2 + sigma_t^2 = 1,   l_t = log(a_t^2 / sigma_t^2)
    (2) transition   x_t | x_s ~ N(c M x_s,  sigma_t^2 I - c^2 sigma_s^2 M M^T)
    (3) valid iff    rho c^2 lambda_max(M M^T) <= 1
    (4) posterior    x_s | x_t, x_0 ~ N(a_s z_s + rho c M^T (x_t - a_t M z_s),  sigma_s^2 (I - rho c^2 M^T M))
    (5) family       x_s = a_s z_s + B (x_t - a_t M z_s) + (sigma_s^2 I - sigma_t^2 B B^T)^(1/2) xi
    (6) directions   with M = U diag(m) V^T:  B = V diag(b) U^T,
                     b_i = sqrt(sigma_s^2 - eta^2 sigma_s^2 (1 - rho c^2 m_i^2)) / sigma_t
        eta = 1 is the posterior (4), eta = 0 is DDIM for any linear operator.
    (8) preserve     l_t = l_base(t) + sum over the levels above of -log lambda_max(M M^T)

(7), the last step, returns the prediction itself and is the last row of every plan (`solvers`).
"""

from dataclasses import dataclass
from functools import cached_property, reduce

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.operators import OPERATORS, SeparableOperator, along_axes, identity
from ssd_jax.schedules import NOISE_SCHEDULES, resolution_levels

PRIOR_LOG_SNR = -10.0  # x_{T-1} may be replaced by N(0, I) from here down: a^2 = 4.5e-5, DDPM's own linear schedule


@dataclass(frozen=True, eq=False)
class ScaleSpaceProcess:
    """A Markov chain of noisy states whose resolution falls as their noise grows.

    Attributes:
        shape: spatial shape of level 0, e.g. (64, 64).
        log_snr: l_t, float64 [T].
        levels: level of every timestep, int [T]: starts at 0 and goes up one at a time.
        operators: operators[l] takes level l to level l + 1.

    Raises:
        InputError: if shapes do not chain or a transition violates (3).
    """

    shape: tuple[int, ...]
    log_snr: Float[np.ndarray, "timesteps"]
    levels: Int[np.ndarray, "timesteps"]
    operators: tuple[SeparableOperator, ...] = ()

    def __post_init__(self):
        steps = np.diff(self.levels, prepend=0)
        if self.levels.shape != self.log_snr.shape or self.levels[0] != 0 or not np.isin(steps, (0, 1)).all():
            raise InputError("levels must hold one level a timestep, start at 0 and go up one at a time")
        if len(self.operators) != self.num_levels - 1:
            raise InputError(f"{self.num_levels} levels need {self.num_levels - 1} operators, not {len(self.operators)}")
        reduce(lambda whole, operator: operator @ whole, self.operators, identity(self.shape))
        log_lambda = np.array([np.log(operator.lambda_max) for operator in self.operators])
        margin = self.log_snr[:-1] - self.log_snr[1:]
        margin[steps[1:] == 1] -= log_lambda
        worst = int(np.argmin(margin))
        if len(margin) and not margin[worst] >= -1e-9:
            raise InputError(
                f"the transition from t = {worst} to t = {worst + 1} is not valid: rho c^2 lambda_max(M M^T) is "
                f"{np.exp(-margin[worst]):.6g} and must be <= 1; lower log_snr from t = {worst + 1} on by at least "
                f"{-margin[worst]:.3g}"
            )

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.log_snr)

    @property
    def num_levels(self) -> int:
        """L."""
        return int(self.levels[-1]) + 1

    @cached_property
    def alpha(self) -> Float[np.ndarray, "timesteps"]:
        """a_t, float64 [T]."""
        return np.sqrt(1 / (1 + np.exp(-self.log_snr)))

    @cached_property
    def sigma(self) -> Float[np.ndarray, "timesteps"]:
        """sigma_t, float64 [T]."""
        return np.sqrt(1 / (1 + np.exp(self.log_snr)))

    @cached_property
    def image_log_snr(self) -> Float[np.ndarray, "timesteps"]:
        """l_t + log lambda_max of the operators so far, [T]: what is left of the full-size image's coarsest detail.

        Never increases with t, by (3); with snr_policy "preserve" it is the base noise schedule.
        """
        shift = np.cumsum([0.0] + [np.log(operator.lambda_max) for operator in self.operators])
        return self.log_snr + shift[self.levels]

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Spatial shape at `level`."""
        return self.operators[level - 1].out_shape if level else self.shape

    def first_timestep(self, level: int) -> int:
        """The least noisy t at `level`; for level > 0 the reverse step from it is the up-step to level - 1."""
        return int(np.argmax(self.levels == level))

    def degrade(self, x0: Float[Array, "..."], level: int) -> Float[Array, "..."]:
        """A x_0 at `level`: [..., *shape, channels] -> [..., *level_shape(level), channels]."""
        return reduce(lambda z, operator: operator.apply(z), self.operators[:level], x0)

    def add_noise(
        self,
        z: Float[Array, "batch *spatial channels"],
        t: Int[Array, "batch"],
        noise: Float[Array, "batch *spatial channels"],
    ) -> Float[Array, "batch *spatial channels"]:
        """Equation (1): x_t from z_t, one t per image.

        Args:
            z: clean images at the level of t, [batch, *spatial, channels].
            t: timesteps, int [batch].
            noise: eps ~ N(0, I), the shape of z.
        """
        t = jnp.expand_dims(t, range(1, z.ndim))
        return jnp.asarray(self.alpha, z.dtype)[t] * z + jnp.asarray(self.sigma, z.dtype)[t] * noise

    def transition_operator(self, s: int, t: int) -> SeparableOperator | None:
        """M_{s->t} of a step that stays (None: M is the identity) or goes up one level."""
        if not 0 <= s < t < self.num_timesteps or self.levels[t] - self.levels[s] > 1:
            raise InputError(f"no single reverse step leads from t = {t} (level {self.levels[t]}) to s = {s}")
        return self.operators[self.levels[s]] if self.levels[s] != self.levels[t] else None

    def reverse_coefficients(self, s: int, t: int, eta: float) -> Float[np.ndarray, "*shape 3"]:
        """Family (5)-(6) along the singular directions of M: x_s = k_x x_t + k_z z_s + k_n xi.

        Args:
            s, t: timesteps, s < t, at most one level apart.
            eta: 0 (DDIM) to 1 (posterior, ancestral).

        Returns:
            float64 [..., 3] of (k_x, k_z, k_n): [3] when M is the identity, else [*in_shape of M, 3].
        """
        operator = self.transition_operator(s, t)
        m = np.ones(()) if operator is None else operator.singular_values
        in_range = np.ones(()) if operator is None else operator.in_range
        a_s, a_t, var_s, var_t = self.alpha[s], self.alpha[t], self.sigma[s] ** 2, self.sigma[t] ** 2
        fresh = np.maximum(1 - var_s / var_t * (a_t / a_s) ** 2 * m**2, 0)
        b = in_range * np.sqrt(var_s * (1 - eta**2 * fresh) / var_t)
        k_n = np.sqrt(var_s * np.where(in_range, eta**2 * fresh, 1.0))  # var_s - var_t b^2, without rounding
        return np.stack([b, a_s - a_t * b * m, k_n], axis=-1)


def up_step(
    x: Float[Array, "batch *out_shape channels"],
    z: Float[Array, "batch *in_shape channels"],
    noise: Float[Array, "batch *in_shape channels"],
    coefficients: Float[Array, "*in_shape 3"],
    left: tuple[Float[Array | np.ndarray, "_ _"], ...],
    right: tuple[Float[Array | np.ndarray, "_ _"], ...],
) -> Float[Array, "batch *in_shape channels"]:
    """x_s from x_t one level below, equations (5)-(6), exact for a separable operator M = U diag(m) V^T.

    Args:
        x: x_t, [batch, *out_shape, channels].
        z: the (predicted) clean image at the level of s, [batch, *in_shape, channels].
        noise: xi ~ N(0, I), the shape of z.
        coefficients: `reverse_coefficients`, [*in_shape, 3].
        left, right: U and V of M, one matrix per axis (`SeparableOperator.left`, `.right`).

    Returns:
        x_s, the shape of z.
    """
    k_x, k_z, k_n = (coefficients[..., i, None] for i in range(3))
    inward = [v.T for v in right]
    padding = [(0, 0), *((0, v.shape[0] - u.shape[0]) for u, v in zip(left, right, strict=True)), (0, 0)]
    x = jnp.pad(along_axes(x, [u.T for u in left]), padding)
    return along_axes(k_x * x + k_z * along_axes(z, inward) + k_n * along_axes(noise, inward), right)


def make_process(config: ProcessConfig) -> ScaleSpaceProcess:
    """The process of a config (already validated: every name known, image_size divisible by 2^(levels - 1)).

    With snr_policy "published" the log-SNR is that of the base schedule, whatever the resolution. With "preserve" it is
    (8), and the base schedule is lowered by a ramp ~ (t / T)^4 that brings x_{T-1} down to PRIOR_LOG_SNR: steep enough to
    leave the steps that matter alone, and the prior N(0, I) is right again.
    """
    shapes = [(config.image_size >> level,) * 2 for level in range(config.num_levels)]
    operators = tuple(OPERATORS[config.operator](shape) for shape in shapes[:-1])
    levels = resolution_levels(config.resolution_schedule, config.num_timesteps, config.num_levels, config.gamma)
    if levels[-1] + 1 != config.num_levels or (np.diff(levels) > 1).any():
        raise InputError(
            f"process.num_timesteps = {config.num_timesteps} are too few for {config.num_levels} levels with resolution "
            f"schedule {config.resolution_schedule!r} and gamma = {config.gamma}: some level gets no timestep"
        )
    log_snr = NOISE_SCHEDULES[config.noise_schedule](config.num_timesteps)
    if config.snr_policy == "preserve":
        shift = np.cumsum([0.0] + [-np.log(operator.lambda_max) for operator in operators])
        excess = max(log_snr[-1] + shift[-1] - PRIOR_LOG_SNR, 0.0) if operators else 0.0
        log_snr = log_snr - excess * (np.arange(config.num_timesteps) / (config.num_timesteps - 1)) ** 4 + shift[levels]
    return ScaleSpaceProcess(shapes[0], log_snr, levels, operators)
