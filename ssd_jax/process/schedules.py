"""Noise schedules and resolution schedules: host functions of the timestep, in float64.

Timesteps are t = 0 .. T-1, t = 0 the least noisy. A noise schedule gives the log-SNR l_t = log(a_t^2 / sigma_t^2) with
a_t^2 + sigma_t^2 = 1; a resolution schedule gives the level of every t, level 0 being full resolution.
"""

import bisect
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import check_range
from ssd_jax.process.spectrum import lost_information


def linear(num_timesteps: int) -> Float[np.ndarray, "{num_timesteps}"]:
    """log-SNR [T] of DDPM's linear betas (Ho et al. 2020): 1e-4 .. 0.02 at T = 1000, scaled by 1000 / T otherwise."""
    return _log_snr(1000 / num_timesteps * np.linspace(1e-4, 0.02, num_timesteps))


def cosine(num_timesteps: int) -> Float[np.ndarray, "{num_timesteps}"]:
    """log-SNR [T] of the cosine schedule (Nichol & Dhariwal 2021)."""
    alpha_bar = np.cos((np.arange(num_timesteps + 1) / num_timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return _log_snr(1 - alpha_bar[1:] / alpha_bar[:-1])


def flow(num_timesteps: int) -> Float[np.ndarray, "{num_timesteps}"]:
    """log-SNR [T] of (1 - s) z + s eps, s = (t + 1/2) / T (rectified flows, Liu et al. 2023), 2 log((1 - s) / s).

    Scaled to a^2 + sigma^2 = 1 it is the same process: a state is but multiplied by a number that its t tells.
    """
    s = (np.arange(num_timesteps) + 0.5) / num_timesteps
    return 2 * np.log((1 - s) / s)


def _log_snr(betas: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """log(alpha_bar / (1 - alpha_bar)) with alpha_bar = prod(1 - beta), betas clipped at 0.999."""
    log_alpha_bar = np.cumsum(np.log1p(-np.minimum(betas, 0.999)))
    return log_alpha_bar - np.log(-np.expm1(log_alpha_bar))


def constant(num_timesteps: int, sigma: float) -> Float[np.ndarray, "{num_timesteps}"]:
    """log-SNR [T] of the same noise sigma at every t: the limit of "blur instead of noise" (Rissanen et al. 2023)."""
    return np.full(num_timesteps, np.log((1 - sigma**2) / sigma**2))


def zero_terminal(log_snr: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Rescales a_t, affinely and with a_0 kept, so that x_{T-1} is pure noise: log-SNR -inf (Lin et al. 2024)."""
    alpha = np.sqrt(1 / (1 + np.exp(-log_snr)))
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    with np.errstate(divide="ignore"):
        return 2 * np.log(alpha) - np.log1p(-(alpha**2))


def growing_blur(num_timesteps: int, blur: float) -> Float[np.ndarray, "{num_timesteps}"]:
    """Dissipation time [T] of a blur that grows from 0 to standard deviation `blur` in pixels, as sin^2(pi/2 t/(T-1)).

    Blurring diffusion (Hoogeboom & Salimans 2023): blur of variance 2 time.
    """
    deviation = blur * np.sin(np.linspace(0, np.pi / 2, num_timesteps)) ** 2
    return deviation**2 / 2


def equal(u: Float[np.ndarray, "t"], gamma: float) -> Float[np.ndarray, "t"]:
    """Every level lasts equally long: x = u (gamma is not used)."""
    return u


def convex_decay(u: Float[np.ndarray, "t"], gamma: float) -> Float[np.ndarray, "t"]:
    """x = 1 - (1 - u)^gamma; gamma < 1 stays at full resolution longer."""
    return 1 - (1 - u) ** gamma


def tanh_like(u: Float[np.ndarray, "t"], gamma: float) -> Float[np.ndarray, "t"]:
    """Short at both ends, long in the middle: smoothstep of sign(v)|v|^gamma, v = u - 1/2, scaled to [0, 1]."""

    def smoothstep(v):
        p = np.sign(v) * np.abs(v) ** gamma + 0.5
        return 3 * p**2 - 2 * p**3 - 0.5

    return 0.5 + 0.5 * smoothstep(u - 0.5) / smoothstep(0.5)


def sigmoid_like(u: Float[np.ndarray, "t"], gamma: float) -> Float[np.ndarray, "t"]:
    """Long at both ends, short in the middle: the inverse function of `tanh_like`, by bisection."""
    low, high = np.zeros_like(u), np.ones_like(u)
    for _ in range(60):
        middle = (low + high) / 2
        below = tanh_like(middle, gamma) < u
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


RESOLUTION_CURVES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "equal": equal,
    "convex_decay": convex_decay,
    "sigmoid_like": sigmoid_like,
    "tanh_like": tanh_like,
}
STEEP_CURVES = ("sigmoid_like", "tanh_like")  # rise steadily for gamma >= 1 only


def resolution_levels(
    schedule: Callable[[np.ndarray, float], np.ndarray], num_timesteps: int, num_levels: int, gamma: float
) -> Int[np.ndarray, "{num_timesteps}"]:
    """Level of every timestep: floor(num_levels * x(u)), u = t / (T - 1).

    Args:
        schedule: x(u, gamma), from 0 to 1; one of RESOLUTION_CURVES.
        num_timesteps: T.
        num_levels: L; level 0 is full resolution.
        gamma: shape of the schedule, > 0.

    Returns:
        int [T], non-decreasing from 0 to L - 1.
    """
    x = schedule(np.arange(num_timesteps) / max(num_timesteps - 1, 1), gamma)
    return np.minimum((x * num_levels).astype(int), num_levels - 1)


def threshold_levels(num_timesteps: int, thresholds: Sequence[float]) -> Int[np.ndarray, "{num_timesteps}"]:
    """Level of every timestep: the number of thresholds below t / T; equal thresholds skip a level."""
    return np.searchsorted(np.sort(thresholds), np.arange(num_timesteps) / num_timesteps, side="left")


def information_levels(
    log_snr: Float[np.ndarray, "t"],
    spectrum: Float[np.ndarray, "..."],
    shapes: Sequence[Sequence[int]],
    tolerance: float,
    dissipation: Float[np.ndarray, "t"] | None = None,
) -> Int[np.ndarray, "t"]:
    """The coarsest level of every timestep that loses no more than `tolerance` of what the state tells of the image.

    Args:
        log_snr: l_t of the base noise schedule, [T].
        spectrum: the data's, as `spectrum.natural_spectrum` or `spectrum.measured_spectrum` give it.
        shapes: spatial shapes of the levels, finest first.
        tolerance: nats per pixel of level 0.
        dissipation: of a process that blurs, as `growing_blur` gives it, [T]: what blur has taken, no level loses.

    Returns:
        int [T], non-decreasing from 0 to at most L - 1.
    """
    check_range("tolerance", tolerance, low=0)
    blur_times = np.zeros(len(log_snr)) if dissipation is None else dissipation

    def loses_little(t: int, level: int) -> bool:
        return bool(lost_information(float(log_snr[t]), spectrum, shapes[level], float(blur_times[t])) <= tolerance)

    def first(level: int) -> int:  # what is lost falls as t rises
        return bisect.bisect_left(range(len(log_snr)), True, key=partial(loses_little, level=level))

    firsts = [first(level) for level in range(len(shapes))]
    levels = np.searchsorted(np.sort(firsts), np.arange(len(log_snr)), side="right") - 1  # less resolution loses more
    levels[0] = 0
    return np.maximum.accumulate(levels)
