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


def third_order(
    process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int, eta: float
) -> Float[np.ndarray, "*shape k"]:
    """DPM-Solver++(3M), eta = 0 (Lu et al. 2022): the prediction is a parabola in half log-SNR, through the last three.

    `second_order` where these are not all of one level or there is blur, and for steps that are long after short ones.
    """
    if len(before) < 2 or not _of_one_level(process, before[1], s) or _is_up(process, t):
        return second_order(process, before[:1], t, s, eta)
    places = process.image_log_snr[[t, *before[:2], s]] / 2
    steps = -np.diff(places[:3])
    h = places[3] - places[0]
    if not np.isfinite(places).all() or steps.min() <= 0 or h > 2 * MAX_EXTRAPOLATION * steps.min():
        return second_order(process, before[:1], t, s, eta)
    k_x, _, k_n = first_order(process, before, t, s, eta)
    return np.array([k_x, *_weights(process, t, s, places[:3]), k_n])


def predictor_corrector(
    process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int, eta: float
) -> Float[np.ndarray, "*shape k"]:
    """UniPC of order 3 without further calls, eta = 0 (Zhao et al. 2023): `second_order`, corrected by the next call.

    The call at t also tells how the step that led there should have gone: by the parabola through the predictions at t, p
    and q, the two before, instead of the line through the latter. What that changes is linear in the three, so that the
    step from t has it in its row. Neither across a change of resolution nor where there is blur is anything corrected.
    """
    row = second_order(process, before[:1], t, s, eta)
    if not before or not _of_one_level(process, before[-1], t) or _is_up(process, t):
        return row
    p, *rest = before[:2]
    places = process.image_log_snr[[t, p, *rest]] / 2
    if not np.isfinite(places).all() or np.diff(places).max() >= 0:
        return row
    led = np.zeros(3)  # k_z, k_1 of the step from p to t
    predicted = second_order(process, tuple(rest), p, t, eta)[1:-1]
    led[1 : 1 + len(predicted)] = predicted
    corrected = np.zeros(3)
    corrected[: len(places)] = _weights(process, p, t, places)
    k_x, *k, k_n = row
    return np.array([k_x, *(k_x * (corrected - led) + np.pad(k, (0, 3 - len(k)))), k_n])


def _weights(process: ScaleSpaceProcess, t: int, s: int, places: Float[np.ndarray, "j"]) -> Float[np.ndarray, "j"]:
    """Of predictions at `places` in half log-SNR, in a step from t to s: of the polynomial u -> z through them

        a_s integral of e^(u - u_s) z(u) du from u_t to u_s,

    which with one place at t is `first_order`.
    """
    start, end = process.image_log_snr[[t, s]] / 2
    h = end - start
    moments = [-np.expm1(-h)]
    for n in range(1, len(places)):
        moments.append(h**n - n * moments[-1])
    return process.alpha[s] * np.linalg.solve(np.vander(places - start, increasing=True).T, moments)


def _of_one_level(process: ScaleSpaceProcess, first: int, last: int) -> bool:
    """Whether all predictions from timestep `first` on, and the state at `last`, are of one level, without blur."""
    return process.dissipation is None and bool(process.levels[max(first - 1, 0)] == process.levels[last])


def _is_up(process: ScaleSpaceProcess, t: int) -> bool:
    """Whether what is predicted at t is of a finer level than the state."""
    return bool(process.levels[max(t - 1, 0)] != process.levels[t])


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
    "dpmpp_3m": Solver(third_order, 0.0, carried=2),
    "unipc": Solver(predictor_corrector, 0.0, carried=2),
}
