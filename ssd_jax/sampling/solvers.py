"""Solvers: the coefficients of a step, on the host in float64.

Inside a stage every solver is a row of a table, x_s = k_x x_t + k_z z + k_p z_prev + k_n xi, where z is the prediction at t
and z_prev the one before; a change of resolution is the same row read along the singular directions of M (equation 6).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssd_jax.process.operators import SeparableOperator, heat_rate_grid
from ssd_jax.process.process import ScaleSpaceProcess

MAX_EXTRAPOLATION = 0.75  # of w in `second_order`: the ratio of steps half as large again as even ones


def first_order(
    process: ScaleSpaceProcess, before: int | None, t: int, s: int, eta: float
) -> Float[np.ndarray, "*shape 4"]:
    """Equation (6): DDIM with eta = 0, the posterior (4) with eta = 1.

    Args:
        process: the process to run backwards.
        before: timestep of the network call before this one, None at the first.
        t, s: the step leads from t to s < t.
        eta: 0 to 1.

    Returns:
        float64 (k_x, k_z, k_p, k_n), [4] or along the directions of `ScaleSpaceProcess.reverse_coefficients`.
    """
    k_x, k_z, k_n = np.moveaxis(process.reverse_coefficients(s, t, eta), -1, 0)
    return np.stack([k_x, k_z, np.zeros_like(k_z), k_n], axis=-1)


def second_order(
    process: ScaleSpaceProcess, before: int | None, t: int, s: int, eta: float
) -> Float[np.ndarray, "*shape 4"]:
    """DPM-Solver++(2M) with eta = 0 and its SDE form with eta = 1 (Lu et al. 2022): `first_order`, with the prediction

        z + w (z - z_prev),  w = h / (2 h_prev)

    extrapolated to the middle of the step; h and h_prev are this step and the one before in half log-SNR. An up-step knows
    the change of the coarse image only: it takes z + w M^T (M z - z_prev) / lambda_max(M M^T). w is at most
    MAX_EXTRAPOLATION, so that a long step after a short one does not magnify what separates two predictions.
    """
    row = first_order(process, before, t, s, eta)
    if before is None or (process.levels[s] != process.levels[t] and process.dissipation is not None):
        return row
    m, lambda_max = np.ones(()), 1.0
    if process.levels[s] != process.levels[t]:
        operator = process.transition_operator(s, t)
        assert isinstance(operator, SeparableOperator), "other up-steps are of first order"
        m, lambda_max = operator.singular_values, operator.lambda_max
    k_x, k_z, _, k_n = np.moveaxis(row, -1, 0)
    w = _extrapolation(process, before, t, s)
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
    """A function with the arguments and the result of `first_order`, and its eta unless another is given."""

    function: Callable[[ScaleSpaceProcess, int | None, int, int, float], np.ndarray]
    eta: float

    def row(self, process: ScaleSpaceProcess, before: int | None, t: int, s: int) -> Float[np.ndarray, "*shape 4"]:
        """The coefficients of the step from t to s."""
        return self.function(process, before, t, s, self.eta)


SOLVERS = {
    "ancestral": Solver(first_order, 1.0),
    "ddim": Solver(first_order, 0.0),
    "dpmpp_2m": Solver(second_order, 0.0),
    "dpmpp_2m_sde": Solver(second_order, 1.0),
}
