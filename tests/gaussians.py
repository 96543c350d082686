"""Gaussian data, for which everything is known exactly: dense matrices, the linear denoiser, a plan's covariance."""

from functools import reduce
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import LinearOperator, ScaleSpaceProcess
from ssd_jax.sampling.parts import Part, StayPlan, UpPlan
from ssd_jax.sampling.plan import Plan


def dense(operator: LinearOperator | None) -> np.ndarray:
    """The matrix of a separable operator on flattened arrays."""
    assert isinstance(operator, SeparableOperator)
    return reduce(np.kron, operator.matrices)


def table(part: Part) -> np.ndarray:
    """The rows of a part that has some, [steps, ..., 3 + m]."""
    assert isinstance(part, StayPlan | UpPlan)
    return part.coefficients[None] if isinstance(part, UpPlan) else part.coefficients


def natural_covariance(size: int) -> np.ndarray:
    """[size^2, size^2]: periodic, power ~ k^-2, per-pixel standard deviation 0.5."""
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(size, 1 / size)] * 2))
    power = np.maximum(k, 1.0) ** -2
    power *= 0.25 / power.mean()
    basis = np.fft.fft2(np.eye(size * size).reshape(-1, size, size)).reshape(size * size, -1) / size
    return (basis.conj().T * power.ravel() @ basis).real


class GaussianData:
    """E[z_s | x_t] for zero-mean Gaussian images, as matrices per timestep and as a `denoise` function."""

    def __init__(self, process: ScaleSpaceProcess, covariance: np.ndarray):
        sharp = {0: np.eye(len(covariance))}  # what takes x_0 to the sharp image of each level
        for finer, level in pairwise(process.used_levels):
            sharp[level] = dense(process.level_operators[level]) @ sharp[finer]
        self.process, self.covariance = process, covariance
        self.matrices: dict[int, np.ndarray] = {}
        for stage in process.stages:
            for t in range(stage.t_min, stage.t_max + 1):
                blur, a_out = process.target_operator(t), sharp[stage.out_level]
                a_in = sharp[stage.in_level] if blur is None else dense(blur) @ sharp[stage.in_level]
                alpha, sigma = process.alpha[t], process.sigma[t]
                state = alpha**2 * a_in @ covariance @ a_in.T + sigma**2 * np.eye(len(a_in))
                self.matrices[t] = alpha * a_out @ covariance @ a_in.T @ np.linalg.inv(state)
        self.stacked = {
            stage: jnp.asarray(np.stack([self.matrices[t] for t in range(stage.t_min, stage.t_max + 1)]), jnp.float32)
            for stage in process.stages
        }

    def denoise(self, x, t, label=None, *, stage):
        matrix = self.stacked[stage][t - stage.t_min]
        z = jnp.einsum("bij,bjc->bic", matrix, x.reshape(x.shape[0], -1, x.shape[-1]), precision="highest")
        return z.reshape(x.shape[0], *self.process.level_shape(stage.out_level), x.shape[-1])

    def sampled_covariance(self, plan: Plan) -> np.ndarray:
        """Covariance of what a plan draws with the exact denoiser, from its own coefficients, in float64.

        The state and the predictions that rows use, the latest first, are carried jointly: [r n, r n].
        """
        parts = [part for part in plan.stages if isinstance(part, StayPlan | UpPlan)]
        used = [i for i in range(plan.carried) if any(part.coefficients[..., 2 + i].any() for part in parts)]
        remembered = max(used, default=-1) + 2
        n = len(self.matrices[plan.process.num_timesteps - 1])
        p = np.zeros((remembered * n, remembered * n))
        p[:n, :n] = np.eye(n)
        for part in parts:
            for t, row in zip(part.timesteps, table(part), strict=True):
                d = self.matrices[int(t)]
                if isinstance(part, StayPlan):
                    right = np.eye(len(d)) if part.basis is None else np.kron(*part.basis)
                    inward, lift, z_s = right.T, np.eye(len(d)), d
                else:
                    right = np.kron(*part.operator.right)
                    inward = np.zeros((len(right), len(self.matrices[int(t)].T)))
                    inward[part.operator.in_range.ravel()] = np.kron(*part.operator.left).T
                    lift = np.linalg.pinv(dense(part.level_operator))
                    z_s = d if part.target is None else dense(part.target) @ d
                k_x, k_z, *k_earlier, k_n = (right * np.ravel(k) for k in np.moveaxis(row, -1, 0))
                blocks = [[np.zeros_like(d)] * remembered for _ in range(remembered)]
                blocks[0] = [k_x @ inward + k_z @ right.T @ z_s, *(k @ inward for k in k_earlier[: remembered - 1])]
                for i in range(1, remembered):
                    blocks[i][i - 1] = d if i == 1 else lift
                step = np.block(blocks)
                p = step @ p @ step.T
                p[: len(d), : len(d)] += k_n @ k_n.T
        n = len(p) // remembered
        return p[:n, :n]


def relative_error(p: np.ndarray, s: np.ndarray) -> float:
    """W2^2(N(0, p), N(0, s)) / tr s."""
    values, vectors = np.linalg.eigh(s)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ p @ root), 0)).sum()
    return float((np.trace(p) + np.trace(s) - 2 * cross) / np.trace(s))
