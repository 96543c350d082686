"""Solvers: the coefficients (k_x, k_z, k_1 .. k_m, k_n) of a step, on the host in float64 (`parts` says what they mean)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import ScaleSpaceProcess

MAX_EXTRAPOLATION = 0.75  # of w in `second_order`: the ratio of steps half as large again as even ones


def first_order(
    process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int, eta: float
) -> Float[np.ndarray, "*shape 3"]:
    """Equation (6): DDIM with eta = 0, the posterior (4) with eta = 1.

    Args:
        process: the process to run backwards.
        before: timesteps of the network calls before this one, the latest first, at most m of them.
        t, s: the step leads from t to s < t.
        eta: 0 to 1.

    Returns:
        float64 (k_x, k_z, k_1 .. k_j, k_n) with j <= m, [3 + j], or along the directions of
        `ScaleSpaceProcess.reverse_coefficients`.
    """
    return process.reverse_coefficients(s, t, eta)


def second_order(
    process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int, eta: float
) -> Float[np.ndarray, "*shape k"]:
    """DPM-Solver++(2M) with eta = 0 and its SDE form with eta = 1 (Lu et al. 2022): `first_order`, with the prediction

        z + w (z - z_1),  w = h / (2 h_prev)

    extrapolated to the middle of the step; h and h_prev are this step and the one before in half log-SNR. An up-step knows
    the change of the coarse image only: it takes z + w M^T (M z - z_1) / lambda_max(M M^T). w is at most
    MAX_EXTRAPOLATION, so that a long step after a short one does not magnify what separates two predictions.
    """
    row = first_order(process, before, t, s, eta)
    if not before or (process.levels[s] != process.levels[t] and process.dissipation is not None):
        return row
    m, lambda_max = np.ones(()), 1.0
    if process.levels[s] != process.levels[t]:
        operator = process.transition_operator(s, t)
        assert isinstance(operator, SeparableOperator), "other up-steps are of first order"
        m, lambda_max = operator.singular_values, operator.lambda_max
    k_x, k_z, k_n = np.moveaxis(row, -1, 0)
    w = _extrapolation(process, before[0], t, s)
    return np.stack([k_x, (1 + w * m**2 / lambda_max) * k_z, -w * m / lambda_max * k_z, k_n], axis=-1)


def _extrapolation(process: ScaleSpaceProcess, before: int, t: int, s: int) -> Float[np.ndarray, "*shape"]:
    """w of `second_order`; of a process that blurs one for each frequency, whose signal is also lost to the blur."""
    half = np.array(process.image_log_snr[[before, t, s]] / 2)
    if process.dissipation is not None:
        shape = process.level_shape(int(process.levels[t]))
        rates = heat_rate_grid(shape, process.shape)
        half = half.reshape(3, *[1] * rates.ndim) - np.multiply.outer(process.dissipation[[before, t, s]], rates)
    h_prev, h = np.maximum(np.diff(half, axis=0), 0.0)
    ratio = np.divide(h, h_prev, out=np.zeros_like(h), where=h_prev > 0)
    return np.asarray(np.minimum(ratio / 2, MAX_EXTRAPOLATION))


@dataclass(frozen=True)
class Solver:
    """How a step gets its coefficients.

    Attributes:
        function: with the arguments and the result of `first_order`.
        eta: 0 (no fresh noise within a level) to 1 (ancestral).
        carried: m, how many earlier predictions a step may use, >= 1.
    """

    function: Callable[[ScaleSpaceProcess, tuple[int, ...], int, int, float], np.ndarray]
    eta: float
    carried: int = 1

    def coefficients(
        self, process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int
    ) -> Float[np.ndarray, "*shape k"]:
        """(k_x, k_z, k_1 .. k_m, k_n) of the step from t to s; those that `function` leaves out are 0."""
        row = self.function(process, before, t, s, self.eta)
        unused = np.zeros((*row.shape[:-1], 3 + self.carried - row.shape[-1]))
        return np.concatenate([row[..., :-1], unused, row[..., -1:]], axis=-1)

    def steps(self, timesteps: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """(before, t, s) of every step of a plan that visits `timesteps`, but for its last call, which is (7)."""
        for i, (t, s) in enumerate(pairwise(timesteps)):
            yield tuple(timesteps[max(i - self.carried, 0) : i][::-1]), t, s


SOLVERS = {
    "ancestral": Solver(first_order, 1.0),
    "ddim": Solver(first_order, 0.0),
    "dpmpp_2m": Solver(second_order, 0.0),
    "dpmpp_2m_sde": Solver(second_order, 1.0),
}
