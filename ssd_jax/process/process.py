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
    (8) preserve     l_t = l_base(t) + sum over the changes above of -log lambda_max(M M^T)

(7), the last step, returns the prediction itself and is the last row of every plan (`plan`).

A_t changes where the resolution does and, if the process has a dissipation, at every t: a blur that grows with t, diagonal
in the DCT basis, then acts on top. What the network predicts is a level's *sharp* image: A x_0 as it enters the level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ssd_jax.errors import InputError
from ssd_jax.process.dct import dct_basis, heat_rate_grid
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator, heat, heat_each
from ssd_jax.process.reverse import directions
from ssd_jax.process.stages import Stage, make_stages

LinearOperator = SeparableOperator | MatrixFreeOperator

PRIOR_LOG_SNR = -10.0  # x_{T-1} may be replaced by N(0, I) from here down: a^2 = 4.5e-5, DDPM's own linear schedule


def compose(operators: Sequence[LinearOperator]) -> LinearOperator:
    """The operator that applies all of them, the first one first; at least one."""
    return reduce(lambda before, after: after @ before, operators)


@dataclass(frozen=True, eq=False, repr=False)
class ScaleSpaceProcess:
    """A Markov chain of noisy states whose resolution falls as their noise grows.

    Attributes:
        shape: spatial shape of level 0, e.g. (64, 64).
        log_snr: l_t, float64 [T]; -inf is pure noise.
        levels: level of every timestep, int [T]: starts at 0 and never falls; levels may be skipped.
        operators: operators[l] takes level l to level l + 1.
        dissipation: time of the heat equation that has blurred x_t, in pixels^2 of level 0, [T], never falling; None for
            a process without blur.

    Raises:
        InputError: if shapes do not chain or a transition violates (3).
    """

    shape: tuple[int, ...]
    log_snr: Float[np.ndarray, "timesteps"]
    levels: Int[np.ndarray, "timesteps"]
    operators: tuple[LinearOperator, ...] = ()
    dissipation: Float[np.ndarray, "timesteps"] | None = None

    def __post_init__(self):
        if self.levels.shape != self.log_snr.shape or self.levels[0] != 0 or (np.diff(self.levels) < 0).any():
            raise InputError("levels must hold one level a timestep, start at 0 and never fall")
        if self.dissipation is not None and (
            self.dissipation.shape != self.log_snr.shape or (np.diff(self.dissipation, prepend=0.0) < 0).any()
        ):
            raise InputError("dissipation must hold one time a timestep, be >= 0 and never fall")
        if len(self.operators) != self.num_levels - 1:
            raise InputError(f"{self.num_levels} levels need {self.num_levels - 1} operators, not {len(self.operators)}")
        shape = self.shape
        for operator in self.operators:
            if operator.in_shape != shape:
                raise InputError(f"operators do not chain: one acts on shape {operator.in_shape}, but is given {shape}")
            shape = operator.out_shape
        margin = np.diff(-self.image_log_snr)  # of the log of (3); blur alone has lambda_max = 1
        worst = int(np.argmin(margin)) if len(margin) else 0
        if len(margin) and not margin[worst] >= -1e-9:
            raise InputError(
                f"the transition from t = {worst} to t = {worst + 1} is not valid: rho c^2 lambda_max(M M^T) is "
                f"{np.exp(-margin[worst]):.6g} and must be <= 1; lower log_snr from t = {worst + 1} on by at least "
                f"{-margin[worst]:.3g}"
            )

    def __repr__(self) -> str:
        """A small table of the levels in use: shape, timesteps and log-SNR."""
        lines = [f"ScaleSpaceProcess of {self.num_timesteps} timesteps, levels in use:"]
        for level in self.used_levels:
            t = np.flatnonzero(self.levels == level)[[0, -1]]
            ends = " .. ".join(f"{self.log_snr[i]:.2f}" for i in t)
            size = "x".join(map(str, self.level_shape(level)))
            lines.append(f"  level {level}  {size:>9}  t = {t[0]} .. {t[1]}  log-SNR {ends}")
        return "\n".join(lines)

    @property
    def num_timesteps(self) -> int:
        """T."""
        return len(self.log_snr)

    @property
    def num_levels(self) -> int:
        """L, skipped levels included."""
        return int(self.levels[-1]) + 1

    @cached_property
    def used_levels(self) -> tuple[int, ...]:
        """The levels that some timestep has, finest first."""
        return tuple(np.unique(self.levels).tolist())

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a sampling run, noisiest first (`stages.make_stages`)."""
        return make_stages(self.levels)

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
        """l_t + log lambda_max of the changes so far, [T]: what is left of the full-size image's coarsest detail.

        Never increases with t, by (3); with snr_policy "preserve" it is the base noise schedule.
        """
        return self.log_snr - preserving_shift(self.operators, self.levels)

    @property
    def prior_is_noise(self) -> bool:
        """Whether x_{T-1} may be drawn from N(0, I); if not, samples start from degraded images."""
        return bool(self.log_snr[-1] <= PRIOR_LOG_SNR / 2)

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Spatial shape at `level`."""
        return self.operators[level - 1].out_shape if level else self.shape

    @property
    def level_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Spatial shapes of all levels, finest first."""
        return tuple(map(self.level_shape, range(self.num_levels)))

    def first_timestep(self, level: int) -> int:
        """The least noisy t at `level`, a used one; for level > 0 the reverse step from it is an up-step."""
        return int(np.argmax(self.levels == level))

    @cached_property
    def blur_times(self) -> Float[np.ndarray, "timesteps"]:
        """Dissipation since the level was entered, [T]: the blur between a level's sharp image and z_t."""
        if self.dissipation is None:
            return np.zeros(self.num_timesteps)
        return self.dissipation - np.array([self.entry_blur(level) for level in range(self.num_levels)])[self.levels]

    def entry_blur(self, level: int) -> float:
        """Dissipation when `level` is entered, that of its sharp images; 0 at level 0."""
        return float(self.dissipation[self.first_timestep(level)]) if level and self.dissipation is not None else 0.0

    def _heat(self, level: int, time: float) -> tuple[SeparableOperator, ...]:
        return (heat(self.level_shape(level), time, self.shape),) if time else ()

    def target_operator(self, s: int) -> SeparableOperator | None:
        """What takes the sharp image of s's level to z_s: a blur, or None."""
        return next(iter(self._heat(int(self.levels[s]), self.blur_times[s])), None)

    def transition_operator(self, s: int, t: int) -> LinearOperator | None:
        """M_{s->t}, or None where it is the identity.

        Raises:
            InputError: if not 0 <= s < t < T, or if the resolution changes more than once between them.
        """
        level_s, level_t = int(self.levels[s]), int(self.levels[t])
        first = self.first_timestep(level_t)
        if not 0 <= s < t < self.num_timesteps or (level_s != level_t and self.levels[first - 1] != level_s):
            raise InputError(f"no single reverse step leads from t = {t} (level {level_t}) to s = {s} (level {level_s})")
        times = self.blur_times
        if level_s == level_t:
            parts = self._heat(level_t, times[t] - times[s])
        else:
            change = 0.0 if self.dissipation is None else self.dissipation[first] - self.dissipation[first - 1]
            before, after = self._heat(level_s, times[first - 1] - times[s]), self._heat(level_t, times[t] + change)
            parts = (*before, *self.operators[level_s:level_t], *after)
        return compose(parts) if parts else None

    @cached_property
    def level_operators(self) -> dict[int, LinearOperator]:
        """For each used level but 0 what takes the sharp image of the used level before to its own."""
        to_level = {}
        for level in self.used_levels[1:]:
            first = self.first_timestep(level)
            parts = (self.target_operator(first - 1), self.transition_operator(first - 1, first))
            to_level[level] = compose([part for part in parts if part is not None])
        return to_level

    def degrade(self, x: Float[Array, "..."], level: int, *, start: int = 0) -> Float[Array, "..."]:
        """The sharp image of `level` from that of `start`, both used levels; that of level 0 is x_0.

        [..., *level_shape(start), channels] -> [..., *level_shape(level), channels]
        """
        between = [self.level_operators[used] for used in self.used_levels if start < used <= level]
        return reduce(lambda z, operator: operator.apply(z), between, x)

    @cached_property
    def bounds(self) -> tuple[float, ...]:
        """The largest absolute value of the sharp images of each level, for |x_0| <= 1; infinite for unused levels."""
        bounds, whole = [1.0] + [math.inf] * (self.num_levels - 1), None
        for level in self.used_levels[1:]:
            whole = self.level_operators[level] if whole is None else self.level_operators[level] @ whole
            bounds[level] = whole.bound
        return tuple(bounds)

    def add_noise(
        self,
        z: Float[Array, "batch *spatial channels"],
        t: Int[Array, "batch"],
        noise: Float[Array, "batch *spatial channels"],
    ) -> Float[Array, "batch *spatial channels"]:
        """Equation (1): x_t from the sharp image of its level, one t per image, all of one level.

        Args:
            z: sharp images, [batch, *spatial, channels].
            t: timesteps, int [batch].
            noise: eps ~ N(0, I), the shape of z.
        """
        if self.dissipation is not None:
            z = heat_each(z, jnp.asarray(self.blur_times, z.dtype)[t], self.shape)
        t = jnp.expand_dims(t, range(1, z.ndim))
        return jnp.asarray(self.alpha, z.dtype)[t] * z + jnp.asarray(self.sigma, z.dtype)[t] * noise

    def noisy_state(
        self,
        x: Float[Array, "_ *fine_spatial channels"],
        t: int | Int[Array, "batch"],
        noise: Float[Array, "batch *spatial channels"],
        *,
        level: int | None = None,
        start: int = 0,
    ) -> Float[Array, "batch *spatial channels"]:
        """Equation (1) from clean images of any level on: `degrade` to the level of t, then `add_noise`.

        Args:
            x: sharp images of the level `start`, [batch, ...]; [1, ...] serves the whole batch.
            t: the timestep of all images, or one each, int [batch], all of one level.
            noise: eps ~ N(0, I), [batch, *level_shape, channels].
            level: the level of t, needed where t is an array.
            start: the level of x, not coarser than that of t.
        """
        if level is None:
            level, t = int(self.levels[t]), jnp.full(len(noise), t)
        return self.add_noise(jnp.broadcast_to(self.degrade(x, level, start=start), noise.shape), jnp.asarray(t), noise)

    def frequency_basis(self, level: int) -> tuple[Float[np.ndarray, "_ _"], ...] | None:
        """Where a process with dissipation is diagonal at `level`: V of one matrix per axis; None without dissipation."""
        return None if self.dissipation is None else tuple(dct_basis(n).T for n in self.level_shape(level))

    def forward_gain(self, s: int, t: int) -> Float[np.ndarray, "*shape"]:
        """c M of (2) within a level, s <= t: a number, or one along each of `frequency_basis` where there is one."""
        ratio = np.asarray(self.alpha[t] / self.alpha[s])
        if self.dissipation is None:
            return ratio
        rates = heat_rate_grid(self.level_shape(int(self.levels[t])), self.shape)
        return np.asarray(ratio * np.exp(-(self.dissipation[t] - self.dissipation[s]) * rates))

    def step_constants(self, s: int, t: int, eta: float) -> Float[np.ndarray, "6"]:
        """a_s, a_t, sigma_s^2, sigma_t^2, rho c^2, eta: all that a step from t to s needs to know besides M."""
        var_s, var_t = self.sigma[s] ** 2, self.sigma[t] ** 2
        ratio = var_s / var_t * (self.alpha[t] / self.alpha[s]) ** 2
        return np.array([self.alpha[s], self.alpha[t], var_s, var_t, ratio, eta])

    def reverse_coefficients(self, s: int, t: int, eta: float) -> Float[np.ndarray, "*shape 3"]:
        """Family (5)-(6) as x_s = k_x x_t + k_z z + k_n xi, for a separable M.

        Args:
            s, t: timesteps, s < t, at most one change of resolution apart.
            eta: 0 (DDIM) to 1 (posterior, ancestral).

        Returns:
            float64 (k_x, k_z, k_n). Within a level z is the sharp image: [3], or [*shape, 3] along `frequency_basis`
            where there is one. Between levels z is z_s: [*in_shape of M, 3] along the right singular directions of M.
        """
        m, in_range, target = np.ones(()), np.ones((), bool), np.ones(())
        if self.levels[s] != self.levels[t]:
            operator = self.transition_operator(s, t)
            assert isinstance(operator, SeparableOperator), "for a MatrixFreeOperator see `matrix_free_up_step`"
            m, in_range = operator.singular_values, operator.in_range
        elif self.dissipation is not None:
            shape, times = self.level_shape(int(self.levels[t])), self.blur_times
            rates = heat_rate_grid(shape, self.shape)
            m, target = np.exp(-(times[t] - times[s]) * rates), np.exp(-times[s] * rates)
        a_s, a_t, *others = self.step_constants(s, t, eta)
        b, noise = directions(m, in_range, *others)
        return np.stack([b, (a_s - a_t * b * m) * target, noise], axis=-1)


def preserving_shift(operators: Sequence[LinearOperator], levels: Int[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Sum over the changes of resolution up to t of -log lambda_max(M M^T), [T]: the second term of (8)."""
    used = np.unique(levels)
    shift = np.zeros(used[-1] + 1)
    for before, after in pairwise(used):
        shift[after] = shift[before] - np.log(compose(operators[before:after]).lambda_max)
    return shift[levels]
