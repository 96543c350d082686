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
from ssd_jax.process.operators import SeparableOperator, dct_basis
from ssd_jax.process.spectrum import frequencies, information, lost_information, ring_means
from ssd_jax.sampling.plan import Plan, StagePlan

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

    def row(part: StagePlan) -> StageInformation:
        ends = np.array([part.stage.t_min, part.stage.t_max])
        lost = lost_information(process.image_log_snr[ends], spectrum, part.stage.in_level)
        held = information(process.image_log_snr[ends], spectrum) - lost
        pairs = [tuple(pair.tolist()) for pair in (ends, process.log_snr[ends], held, lost)]
        return StageInformation(str(part.stage), part.stage.in_level, part.stage.out_level, len(part.timesteps), *pairs)

    return tuple(row(part) for part in plan.stages)


def _drawn_covariance(plan: Plan, data: GaussianData) -> Float[np.ndarray, "batch d d"]:
    """Covariance of what a plan draws with the best denoiser.

    `p` is the covariance [2, 2, batch, d, d] of the state and the prediction before it; [1, 1, ..] if no step needs that.
    """
    tables = [np.moveaxis(part.table, -1, 0) for part in plan.stages]
    remembered = 2 if any(k_p.any() for _, _, k_p, _ in tables) else 1
    first = data.state_covariance(plan.process.num_timesteps - 1)
    p = np.zeros((remembered, remembered, *first.shape))
    p[0, 0] = np.eye(first.shape[1]) if plan.process.prior_is_noise else first
    for part, table in zip(plan.stages, tables, strict=True):
        advance = _up if part.operator is not None else _stay if part.basis is None else _stay_and_blur
        p = advance(data, part, table, p)
    return p[0, 0]


def _stay(data: GaussianData, part: StagePlan, table: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Through a stay stage: steps are elementwise in the eigenbasis of C, as the denoiser a C (a^2 C + sigma^2)^-1 is."""
    process, remembered = data.process, len(p)
    values, vectors = np.linalg.eigh(data.covariance(part.stage.in_level))
    transfer = np.broadcast_to(np.eye(remembered)[..., None, None], (remembered, remembered, *values.shape))
    noise = np.zeros_like(transfer)
    for t, k_x, k_z, k_p, k_n in zip(part.timesteps, *table, strict=True):
        gain = process.alpha[t] * values / (process.alpha[t] ** 2 * values + process.sigma[t] ** 2)
        transfer = _step(k_x + k_z * gain, gain, k_p, transfer)
        noise = _step(k_x + k_z * gain, gain, k_p, _step(k_x + k_z * gain, gain, k_p, noise).swapaxes(0, 1))
        noise[0, 0] += k_n**2
    p = vectors.mT @ p @ vectors
    p = np.einsum("acmi,cdmij->admij", transfer, p)
    p = np.einsum("admij,bdmj->abmij", p, transfer)
    diagonal = np.arange(values.shape[1])
    p[..., diagonal, diagonal] += noise
    return vectors @ p @ vectors.mT


def _step(through: np.ndarray, gain: np.ndarray, k_p: float, v: np.ndarray) -> np.ndarray:
    """A row applied to v = (state, prediction before), [1 or 2, ..]; k_p is 0 where only the state is kept."""
    return np.stack([through * v[0] + k_p * v[-1], gain * v[0]][: len(v)])


def _stay_and_blur(data: GaussianData, part: StagePlan, table: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Through a stay stage whose rows stand along DCT frequencies, step by step: here nothing commutes."""
    level = part.stage.in_level
    everywhere = [np.eye(n)[own[level]] for n, own in zip(data.process.level_shape(level), data.components, strict=True)]
    for t, *row in zip(part.timesteps.tolist(), *table, strict=True):
        k_x, k_z, k_p, k_n = (along_directions(k, everywhere, everywhere) for k in row)
        denoise = data.denoiser(t, level)
        linear = np.array([[k_x + k_z @ denoise, k_p], [denoise, np.zeros_like(k_p)]])[: len(p), : len(p)]
        p = _advance(linear, p)
        p[0, 0] += k_n**2
    return p


def _advance(linear: np.ndarray, p: np.ndarray) -> np.ndarray:
    """linear p linear^T, both in blocks [1 or 2, 1 or 2, ..]."""
    p = (linear[:, :, None] @ p[None]).sum(axis=1)
    return (p[:, None] @ linear[None].mT).sum(axis=2)


def _up(data: GaussianData, part: StagePlan, table: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Through an up-step, x_s = V (k_x U^T x_t + k_z V^T z_s + k_p U^T z_prev + k_n xi)."""
    below, above = part.stage.in_level, part.stage.out_level
    assert isinstance(part.operator, SeparableOperator), "checked in level_operators"
    k_x, k_z, k_p, k_n = table[:, 0]
    left = [(dct_basis(len(u)) @ u)[own[below]] for u, own in zip(part.operator.left, data.components, strict=True)]
    right = [(dct_basis(len(v)) @ v)[own[above]] for v, own in zip(part.operator.right, data.components, strict=True)]
    denoise = data.denoiser(int(part.timesteps[0]), above)
    target = denoise if part.target is None else data.restrict(part.target, above, above) @ denoise
    through = along_directions(k_x, right, left) + along_directions(k_z, right, right) @ target
    back = along_directions(k_p, right, left)
    linear = np.array([[through, back], [denoise, np.zeros_like(back)]])[: len(p), : len(p)]
    p = _advance(linear, p)
    p[0, 0] += along_directions(k_n**2, right, right)
    return p


def _squared_distance(p: Float[np.ndarray, "batch d d"], variance: Float[np.ndarray, "batch d"]) -> float:
    """W2^2(N(0, p), N(0, diag(variance))) = tr p + tr s - 2 tr (s^1/2 p s^1/2)^1/2, summed over the batch."""
    root = np.sqrt(variance)
    values = np.linalg.eigvalsh(root[:, :, None] * p * root[:, None])
    traces = np.trace(p, axis1=1, axis2=2).sum() + variance.sum()
    return float(traces - 2 * np.sqrt(np.maximum(values, 0)).sum())
