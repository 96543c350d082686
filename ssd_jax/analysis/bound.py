"""The variational bound of -log p(x_0) in closed form, of a plan that draws noise at every step.

Such a plan is a latent variable model: p(x_{T-1}) = N(0, I), p(x_s | x_t) the family (5)-(6) with z_hat for z, and 8-bit
pixels given x_{t=0} (`bits.log_pixels`). Along the directions of (6) both families are diagonal and alike but for their
means, k_z z against k_z z_hat, so that

    KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = sum_i k_z,i^2 / (2 k_n,i^2) (z - z_hat)_i^2

With eta = 1 the weight is SNR_s (1 - rho c^2 m_i^2) / 2, over all directions (SNR_s |e|^2 - SNR_t |M e|^2) / 2 with the
error e = z_s - z_hat_s: finite also where (3) is an equality, whose directions neither family draws. Detail noise of the
variance (6') adds (log(p / q) + q / p - 1) / 2 along the null space, q = sigma_s^2 and p = k_n^2.
"""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Int, Num

from ssd_jax.analysis.bits import bits_per_dimension, check_plan, log_pixels, per_image
from ssd_jax.compilation import COMPILER_OPTIONS
from ssd_jax.errors import InputError, check_range, checked_arguments
from ssd_jax.process.operators import along_axes
from ssd_jax.sampling.denoise import Denoise, as_label, as_pytree
from ssd_jax.sampling.noise import NoiseSource
from ssd_jax.sampling.parts import MatrixFreeUpPlan, Part, StayPlan, UpPlan
from ssd_jax.sampling.plan import Plan

STILL = 1e-6  # of sigma_s: noise below it is rounding


@checked_arguments
def variational_bound(
    denoise: Denoise,
    plan: Plan,
    images: Float[Array, "batch *shape channels"],
    noise: NoiseSource,
    *,
    label: Num[Array | np.ndarray, "batch *vector"] | None = None,
    draws: int | None = None,
) -> dict[str, Float[Array, "batch"]]:
    """An upper bound of -log2 P(image) / dimensions, in parts that sum to it (Sohl-Dickstein et al. 2015).

    Args:
        denoise: the denoiser.
        plan: of solver "ancestral", or "ddim" with 0 < eta: all its steps make up the model. With num_steps = T it is the
            bound that training minimises; fewer steps give a looser one.
        images: x_0, float32 in [-1, 1], 8-bit pixels scaled.
        noise: of every image: of its states, one draw for each timestep, and of what `draws` chooses.
        label: int [batch] or float [batch, size], handed to `denoise`.
        draws: timesteps of a stage to visit for an image, drawn at random: unbiased. A step is drawn the oftener the more
            its log(1 + SNR) gains, as its KL does where the data's variance is about 1, and one from each of as many parts
            of equal probability. All of them if not given, or if the stage has no more: the exact sum.

    Raises:
        InputError: if the plan draws no noise at some step, uses earlier predictions, or has no prior (`bits.check_plan`).

    Returns:
        bits per dimension of every image, float32 [batch], by "prior" (KL of x_{T-1} from N(0, I)), the name of every
        stage, the noisiest first, and "reconstruction" (the pixels given x_{t=0}).
    """
    check_plan(plan)
    if draws is not None:
        check_range("draws", draws, low=1)
    process, denoise = plan.process, as_pytree(denoise)
    label = as_label(label)
    divergences = {str(part.stage): _divergences(plan, part) for part in plan.stages}  # all checked before any runs
    nats = {"prior": _prior(images, process=process)}
    for part in plan.stages:
        given = divergences[str(part.stage)]
        if count := len(given.timesteps):
            static = {"process": process, "stage": part.stage, "operator": given.operator}
            static["draws"] = min(draws or count, count)
            found = _stage(denoise, images, noise, label, given.tables, **static)
            nats[str(part.stage)] = found + given.constant * images.shape[-1]
    x = process.noisy_state(images, 0, noise.draw(process.num_timesteps, images.shape[1:]))
    nats["reconstruction"] = -log_pixels(denoise, images, x, label, process=process, stage=plan.stages[-1].stage)
    return bits_per_dimension(nats, images)


class _Divergences(NamedTuple):
    """The KL of every step of a part but the last call of the plan.

    Attributes:
        timesteps: t, int [steps].
        shares: probability of each to be drawn, float64 [steps].
        weights: of the square of the prediction's error, float64 [steps, *shape], ones for a shape that they do not have.
        directions: what takes the error of the sharp image to where the weights stand, one matrix an axis; () for pixels.
        constant: nats a channel that no error explains, (6').
        operator, lost: of an up-step whose M is only a function: M, and the weight of the square of its image.
    """

    timesteps: np.ndarray
    shares: np.ndarray
    weights: np.ndarray
    directions: tuple[np.ndarray, ...] = ()
    constant: float = 0.0
    operator: Any = None
    lost: float = 0.0

    @property
    def tables(self) -> dict[str, Any]:
        """For the device."""
        tables = {"timesteps": np.int32(self.timesteps), "shares": np.float32(self.shares)}
        tables |= {"cumulative": np.float32(np.cumsum(self.shares)), "weights": np.float32(self.weights[..., None])}
        return tables | {"directions": self.directions, "lost": np.float32(self.lost)}


def _divergences(plan: Plan, part: Part) -> _Divergences:
    """Raises InputError if the part's steps have none in closed form."""
    process, following = plan.process, dict(pairwise(plan.timesteps.tolist()))
    timesteps = np.array([t for t in part.timesteps.tolist() if t], int)
    snr, pixels = np.exp(process.log_snr), [1] * len(process.shape)
    shares = _shares(snr[timesteps], snr[[following[t] for t in timesteps.tolist()]])
    if isinstance(part, MatrixFreeUpPlan):
        t, s = int(timesteps[0]), following[int(timesteps[0])]
        if part.constants[-1] != 1:
            raise InputError(
                f"eta is {part.constants[-1]:g}, but an operator of this process is a function, whose singular directions "
                'are not known: only solver "ancestral" has a bound'
            )
        directions = () if part.target is None else part.target.matrices
        return _Divergences(
            timesteps, shares, np.full((1, *pixels), snr[s] / 2), directions, 0.0, part.operator, snr[t] / 2
        )
    table = part.coefficients[None] if isinstance(part, UpPlan) else part.coefficients[: len(timesteps)]
    if table[..., 2:-1].any():
        raise InputError(
            "the plan's solver uses earlier predictions, so that it has no bound; take ancestral, or ddim with eta"
        )
    sigma = process.sigma[[following[t] for t in timesteps.tolist()]]
    weights = _weights(table[..., 1], table[..., -1], sigma, timesteps)
    if isinstance(part, StayPlan):
        shape = pixels if part.basis is None else process.level_shape(part.stage.in_level)
        basis = () if part.basis is None else tuple(v.T for v in part.basis)
        return _Divergences(timesteps, shares, weights.reshape(len(timesteps), *shape), basis)
    target = [np.eye(len(v)) for v in part.operator.right] if part.target is None else part.target.matrices
    directions = tuple(v.T @ matrix for v, matrix in zip(part.operator.right, target, strict=True))
    wider = np.where(part.operator.in_range, 1.0, (table[0, ..., -1] / sigma[0]) ** 2)  # p / q of (6')
    return _Divergences(timesteps, shares, weights, directions, float(np.sum(np.log(wider) + 1 / wider - 1) / 2))


def _shares(snr: np.ndarray, following: np.ndarray) -> np.ndarray:
    """The probability of steps from one SNR to another to be drawn; a tenth is even, for what the SNR does not tell."""
    gain = np.log1p(following) - np.log1p(snr)
    even = np.full(len(gain), 1 / max(len(gain), 1))
    return 0.9 * gain / gain.sum() + 0.1 * even if gain.sum() > 0 else even


def _weights(
    k_z: Float[np.ndarray, "steps *shape"],
    k_n: Float[np.ndarray, "steps *shape"],
    sigma: Float[np.ndarray, "steps"],
    timesteps: Int[np.ndarray, "steps"],
) -> Float[np.ndarray, "steps *shape"]:
    """k_z^2 / (2 k_n^2), and 0 where a direction has neither."""
    still = k_n <= STILL * sigma.reshape(-1, *[1] * (k_n.ndim - 1))
    bare = (still & (np.abs(k_z) > STILL)).any(axis=tuple(range(1, k_z.ndim)))
    if bare.any():
        raise InputError(
            f"the step from t = {timesteps[bare][0]} draws no noise, so that the plan has no bound; take solver "
            '"ancestral", or an eta above 0'
        )
    return np.divide(k_z**2, 2 * k_n**2, out=np.zeros_like(k_z), where=~still)


@partial(jax.jit, static_argnames=("process",), compiler_options=COMPILER_OPTIONS)
def _prior(images, *, process):
    """KL(N(a z, sigma^2 I) || N(0, I)) of x_{T-1}."""
    t, level = process.num_timesteps - 1, int(process.levels[-1])
    shape = (len(images), *process.level_shape(level), images.shape[-1])
    mean = process.noisy_state(images, t, jnp.zeros(shape, images.dtype))
    squared = float(process.alpha[t] ** 2)
    return per_image(jnp.square(mean) + float(-squared - np.log1p(-squared))) / 2


@partial(jax.jit, static_argnames=("process", "stage", "operator", "draws"), compiler_options=COMPILER_OPTIONS)
def _stage(denoise, images, noise, label, tables, *, process, stage, operator, draws):
    """The sum over a stage's steps of their KL, or its estimate from `draws` of them."""
    timesteps, weights = tables["timesteps"], tables["weights"]
    sharp = process.degrade(images, stage.out_level)
    shape = (*process.level_shape(stage.in_level), images.shape[-1])

    def visit(i, total):
        number = stage.t_min + i  # of the draw; those of other stages are others
        if draws == len(timesteps):
            index, scale = jnp.full(len(images), i), 1.0
        else:
            uniform = ndtr(noise.draw(process.num_timesteps + 1 + number, ()))
            index = jnp.searchsorted(tables["cumulative"][:-1], (i + uniform) / draws, side="right")
            scale = 1 / (draws * tables["shares"][index])
        t = timesteps[index]
        x = process.noisy_state(sharp, t, noise.draw(number, shape), level=stage.in_level, start=stage.out_level)
        error = along_axes(denoise(x, t, label, stage=stage) - sharp, tables["directions"])
        divergence = per_image(weights[index] * jnp.square(error))
        if operator is not None:
            divergence -= tables["lost"] * per_image(jnp.square(operator.apply(error)))
        return total + scale * divergence

    return jax.lax.fori_loop(0, draws, visit, jnp.zeros(len(images)))
