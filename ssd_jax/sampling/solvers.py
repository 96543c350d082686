"""Solvers: the coefficients (k_x, k_z, k_1 .. k_m, k_n) of a step, on the host in float64 (`parts` says what they mean)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import ScaleSpaceProcess

MAX_CHURN = math.sqrt(2) - 1  # of noise over signal before a step (Karras et al. 2022)
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


def heun(process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int, eta: float) -> Float[np.ndarray, "*shape k"]:
    """Heun's method with churn (Karras et al. 2022, algorithm 2), in two calls a step within a level.

    The first, from t to s < t, makes the step of `first_order`. The second, at its end t, tells what that lacked
    (`_correction`), and leads from t back up to s >= t by the forward transition (2), the churn of the step to come;
    without eta to t itself (`Solver.calls`). A change of resolution is the step of `second_order`, whose one call corrects
    the step that led to it as well.
    """
    if s >= t:
        k_1, gain = _correction(process, before[0], t), process.forward_gain(t, s)
        k_n = np.sqrt(np.maximum(process.sigma[s] ** 2 - (gain * process.sigma[t]) ** 2, 0.0))
        return np.stack(np.broadcast_arrays(gain, gain * k_1, -gain * k_1, k_n), axis=-1)
    if not _is_up(process, t):
        return first_order(process, before, t, s, 0.0)
    row = second_order(process, before[:1], t, s, 0.0)
    if row.shape[-1] == 3 or _is_up(process, before[0]):  # nothing to correct, or no such thing under blur
        return row
    operator = process.transition_operator(s, t)
    assert isinstance(operator, SeparableOperator), "other up-steps are of first order"
    k_x, k_z, k_1, k_n = np.moveaxis(row, -1, 0)
    k = k_x * _correction(process, before[0], t)
    return np.stack([k_x, k_z + k * operator.singular_values, k_1 - k, k_n], axis=-1)


def _correction(process: ScaleSpaceProcess, p: int, t: int) -> Float[np.ndarray, "*shape"]:
    """k of x_t + k (z - z_1), the step from p to t corrected by the prediction z at its end: for N = sigma / a,

        k_z min(N_p / (2 N_t), 1),    k_z = a_t (1 - N_t / N_p) that of z_1

    which up to N_p = 2 N_t is Heun's trapezoid in N. Longer steps have z in the place of z_1, and extrapolate nothing.
    """
    k_x, k_z, _ = np.moveaxis(first_order(process, (), p, t, 0.0), -1, 0)
    with np.errstate(divide="ignore"):  # without any signal at p
        return np.asarray(k_z * np.minimum(0.5 / (process.forward_gain(t, p) * k_x), 1.0))


def _churned(process: ScaleSpaceProcess, t: int, eta: float) -> int:
    """The timestep of t's level whose sigma / a is nearest to 1 + eta MAX_CHURN times that of t, in log-SNR."""
    wanted = process.log_snr[t] - 2 * math.log1p(eta * MAX_CHURN)
    end = int(np.searchsorted(process.levels, process.levels[t], side="right"))
    return t + int(np.argmin(np.abs(process.log_snr[t:end] - wanted)))


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
        twice: whether it calls the network twice a step within a level; eta then is the share of MAX_CHURN by which noise
            is raised before a step.
        deterministic: whether it knows no eta but 0.
    """

    function: Callable[[ScaleSpaceProcess, tuple[int, ...], int, int, float], np.ndarray]
    eta: float
    carried: int = 1
    twice: bool = False
    deterministic: bool = False

    def coefficients(
        self, process: ScaleSpaceProcess, before: tuple[int, ...], t: int, s: int
    ) -> Float[np.ndarray, "*shape k"]:
        """(k_x, k_z, k_1 .. k_m, k_n) of the call at t that leads to s; those that `function` leaves out are 0."""
        row = self.function(process, before, t, s, self.eta)
        unused = np.zeros((*row.shape[:-1], 3 + self.carried - row.shape[-1]))
        return np.concatenate([row[..., :-1], unused, row[..., -1:]], axis=-1)

    def calls(self, process: ScaleSpaceProcess, timesteps: Sequence[int]) -> Sequence[int]:
        """t of every network call of a plan that visits `timesteps`.

        Those themselves; or, if it calls twice a step, the end t of every step between states of which none is an
        up-step's once more, to correct that step, and then in its place the t' >= t that churn leads to, but for t = 0.
        """
        if not self.twice:
            return timesteps
        calls = [timesteps[0]]
        for p, t in pairwise(timesteps):
            corrected = not _is_up(process, p) and not _is_up(process, t)
            calls += [t, _churned(process, t, self.eta) if t else t] if corrected else [t]
        return calls

    def steps(self, process: ScaleSpaceProcess, timesteps: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int, int]]:
        """(before, t, s) of every call of a plan that visits `timesteps`, but for its last one, which is (7)."""
        calls = self.calls(process, timesteps)
        for i, (t, s) in enumerate(pairwise(calls)):
            yield tuple(calls[max(i - self.carried, 0) : i][::-1]), t, s


SOLVERS = {
    "ancestral": Solver(first_order, 1.0),
    "ddim": Solver(first_order, 0.0),
    "dpmpp_2m": Solver(second_order, 0.0),
    "dpmpp_2m_sde": Solver(second_order, 1.0),
    "dpmpp_3m": Solver(third_order, 0.0, carried=2, deterministic=True),
    "unipc": Solver(predictor_corrector, 0.0, carried=2, deterministic=True),
    "heun": Solver(heun, 0.0, twice=True),
}
