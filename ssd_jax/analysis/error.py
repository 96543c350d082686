"""How well a sampling plan can draw at all: its exact error for Gaussian data, from the plan's own tables.

For zero-mean Gaussian images whose covariance is diagonal in the DCT the best denoiser is linear, so all states are
Gaussian and their covariances follow the plan step by step (`gaussian`). Nothing is trained, drawn or approximated.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ssd_jax.analysis.gaussian import GaussianData, along_directions, axis_components, level_operators
from ssd_jax.errors import InputError
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.spectrum import frequencies, information, lost_information, ring_means
from ssd_jax.sampling.parts import Part, StayPlan, UpPlan
from ssd_jax.sampling.plan import Plan

LOW_FREQUENCY = 4.0  # cycles per side


@dataclass(frozen=True, eq=False)
class GaussianError:
    """How far what a plan draws is from the data, both Gaussian.

    Attributes:
        relative_error: W2^2(N(0, P), N(0, S)) / tr S of the drawn covariance P and the data's S.
        variance_ratio: P_kk / S_kk of every DCT coefficient, float64 [*shape].
    """

    relative_error: float
    variance_ratio: Float[np.ndarray, "..."]

    @property
    def low_frequency_ratio(self) -> float:
        """The mean variance ratio of up to 4 cycles per side."""
        return float(self.variance_ratio[frequencies(self.variance_ratio.shape) <= LOW_FREQUENCY].mean())

    def as_dict(self) -> dict:
        """For JSON; variance ratios as means over the rings of 0, 1, 2, .. cycles."""
        return {
            "relative_error": self.relative_error,
            "low_frequency_ratio": self.low_frequency_ratio,
            "variance_ratios": ring_means(self.variance_ratio).round(6).tolist(),
        }


def gaussian_error(plan: Plan, spectrum: Float[np.ndarray, "..."]) -> GaussianError:
    """The exact error of a plan for Gaussian data of a spectrum.

    Args:
        plan: from `plan_steps`.
        spectrum: variance of every DCT coefficient, > 0, [*process.shape] (`spectrum`).

    Raises:
        InputError: if the spectrum is not positive or does not have the shape of the images, or an operator is not
            separable.
    """
    process = plan.process
    if spectrum.shape != process.shape or not (spectrum > 0).all():
        raise InputError(f"spectrum has shape {spectrum.shape}, but must be positive and of shape {process.shape}")
    operators = level_operators(process)
    variance, distance = np.empty(spectrum.size), 0.0
    for components in itertools.product(*[axis_components(operators, axis) for axis in range(len(process.shape))]):
        data = GaussianData(process, operators, components, spectrum)
        drawn = _drawn_covariance(plan, data)
        variance[data.places] = np.diagonal(drawn, axis1=-2, axis2=-1)
        distance += _squared_distance(drawn, data.variance)
    return GaussianError(distance / spectrum.sum(), variance.reshape(spectrum.shape) / spectrum)


@dataclass(frozen=True)
class StageInformation:
    """What the states of one stage hold; all pairs are (first, last) timestep, noisiest last.

    Attributes:
        name: of the stage.
        in_level, out_level: of its states and its predictions.
        steps: network calls of the plan.
        timesteps: t.
        log_snr: l_t.
        information: nats per full-size pixel that the states tell of the image, for an ideal low-pass.
        lost: nats that full-size states of equal coarse detail would add.
    """

    name: str
    in_level: int
    out_level: int
    steps: int
    timesteps: tuple[int, int]
    log_snr: tuple[float, float]
    information: tuple[float, float]
    lost: tuple[float, float]


def stage_information(plan: Plan, spectrum: Float[np.ndarray, "..."]) -> tuple[StageInformation, ...]:
    """What each stage of a plan has to work with, noisiest first.

    Args:
        plan: from `plan_steps`.
        spectrum: variance of every DCT coefficient, [*process.shape].
    """
    process = plan.process

    def row(part: Part) -> StageInformation:
        ends = np.array([part.stage.t_min, part.stage.t_max])
        blur_time = 0.0 if process.dissipation is None else process.dissipation[ends]
        lost = lost_information(process.image_log_snr[ends], spectrum, process.level_shape(part.stage.in_level), blur_time)
        held = information(process.image_log_snr[ends], spectrum, blur_time) - lost
        pairs = [tuple(pair.tolist()) for pair in (ends, process.log_snr[ends], held, lost)]
        return StageInformation(str(part.stage), part.stage.in_level, part.stage.out_level, part.calls, *pairs)

    return tuple(row(part) for part in plan.stages)


def _drawn_covariance(plan: Plan, data: GaussianData) -> Float[np.ndarray, "batch d d"]:
    """Covariance of what a plan draws with the best denoiser.

    `p` is the covariance [r, r, batch, d, d] of the state and the predictions before it, the latest first; as many as some
    step uses, so that r is 1 for solvers of first order.
    """
    parts = [part for part in plan.stages if isinstance(part, StayPlan | UpPlan)]
    assert len(parts) == len(plan.stages), "checked in level_operators"
    earlier = np.concatenate([part.coefficients[..., 2:-1].reshape(-1, plan.carried) for part in parts])
    remembered = 1 + max(np.flatnonzero(earlier.any(axis=0)) + 1, default=0)
    first = data.state_covariance(plan.process.num_timesteps - 1)
    p = np.zeros((remembered, remembered, *first.shape))
    p[0, 0] = np.eye(first.shape[1]) if plan.process.prior_is_noise else first
    for part in parts:
        if isinstance(part, UpPlan):
            p = _up(data, part, p)
        else:
            p = _stay(data, part, p) if part.basis is None else _stay_and_blur(data, part, p)
    return p[0, 0]


def _stay(data: GaussianData, part: StayPlan, p: np.ndarray) -> np.ndarray:
    """Through a stay stage: steps are elementwise in the eigenbasis of C, as the denoiser a C (a^2 C + sigma^2)^-1 is."""
    process, remembered = data.process, len(p)
    values, vectors = np.linalg.eigh(data.covariance(part.stage.in_level))
    transfer = np.broadcast_to(np.eye(remembered)[..., None, None], (remembered, remembered, *values.shape))
    noise, linear = np.zeros_like(transfer), np.zeros_like(transfer)
    for i in range(2, remembered):
        linear[i, i - 1] = 1
    for t, (k_x, k_z, *k_earlier, k_n) in zip(part.timesteps, part.coefficients, strict=True):
        gain = process.alpha[t] * values / (process.alpha[t] ** 2 * values + process.sigma[t] ** 2)
        linear[0, 0], linear[1:2, 0] = k_x + k_z * gain, gain
        linear[0, 1:] = np.reshape(k_earlier[: remembered - 1], (-1, 1, 1))
        transfer, noise = (np.einsum("abij,bcij->acij", linear, each) for each in (transfer, noise))
        noise = np.einsum("acij,bcij->abij", noise, linear)
        noise[0, 0] += k_n**2
    p = vectors.mT @ p @ vectors
    p = np.einsum("acmi,cdmij->admij", transfer, p)
    p = np.einsum("admij,bdmj->abmij", p, transfer)
    diagonal = np.arange(values.shape[1])
    p[..., diagonal, diagonal] += noise
    return vectors @ p @ vectors.mT


def _stay_and_blur(data: GaussianData, part: StayPlan, p: np.ndarray) -> np.ndarray:
    """Through a stay stage whose rows stand along DCT frequencies, step by step: here nothing commutes."""
    level = part.stage.in_level
    everywhere = [np.eye(n)[own[level]] for n, own in zip(data.process.level_shape(level), data.components, strict=True)]
    for t, row in zip(part.timesteps.tolist(), np.moveaxis(part.coefficients, -1, 1), strict=True):
        k_x, k_z, *k_earlier, k_n = (along_directions(k, everywhere, everywhere) for k in row)
        denoise = data.denoiser(t, level)
        p = _advance([k_x + k_z @ denoise, *k_earlier], denoise, np.eye(denoise.shape[-1]), p)
        p[0, 0] += k_n**2
    return p


def _up(data: GaussianData, part: UpPlan, p: np.ndarray) -> np.ndarray:
    """Through an up-step, x_s = V (k_x U^T x_t + k_z V^T z_s + k_1 U^T z_1 + .. + k_n xi)."""
    below, above = part.stage.in_level, part.stage.out_level
    k_x, k_z, *k_earlier, k_n = np.moveaxis(part.coefficients, -1, 0)
    left = [(dct_basis(len(u)) @ u)[own[below]] for u, own in zip(part.operator.left, data.components, strict=True)]
    right = [(dct_basis(len(v)) @ v)[own[above]] for v, own in zip(part.operator.right, data.components, strict=True)]
    denoise = data.denoiser(part.stage.t_min, above)
    target = denoise if part.target is None else data.restrict(part.target, above, above) @ denoise
    through = along_directions(k_x, right, left) + along_directions(k_z, right, right) @ target
    lift = np.linalg.pinv(data.restrict(part.level_operator, below, above)) if len(p) > 2 else None
    p = _advance([through, *(along_directions(k, right, left) for k in k_earlier)], denoise, lift, p)
    p[0, 0] += along_directions(k_n**2, right, right)
    return p


def _advance(row: list[np.ndarray], denoise: np.ndarray, lift: np.ndarray | None, p: np.ndarray) -> np.ndarray:
    """p after a step: `row` makes the new state, `denoise` the prediction, `lift` what is carried on of those before.

    All [batch, d', d]; `lift` may lack the batch, and is needed from the second prediction on.
    """
    linear = np.zeros((len(p), len(p), *denoise.shape))
    linear[0] = row[: len(p)]
    if len(p) > 1:
        linear[1, 0] = denoise
    for i in range(2, len(p)):
        linear[i, i - 1] = lift
    p = (linear[:, :, None] @ p[None]).sum(axis=1)
    return (p[:, None] @ linear[None].mT).sum(axis=2)


def _squared_distance(p: Float[np.ndarray, "batch d d"], variance: Float[np.ndarray, "batch d"]) -> float:
    """W2^2(N(0, p), N(0, diag(variance))) = tr p + tr s - 2 tr (s^1/2 p s^1/2)^1/2, summed over the batch."""
    root = np.sqrt(variance)
    values = np.linalg.eigvalsh(root[:, :, None] * p * root[:, None])
    traces = np.trace(p, axis1=1, axis2=2).sum() + variance.sum()
    return float(traces - 2 * np.sqrt(np.maximum(values, 0)).sum())
