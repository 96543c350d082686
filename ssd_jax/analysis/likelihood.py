"""The log-likelihood of a model by its probability flow, across resolutions.

Within a level the flow is dx = E[dx | x] along x = alpha z + sigma eps, alpha_i = a_t times the blur's gain,

    dx_i = z_hat_i d alpha_i + eps_hat_i d sigma,    eps_hat_i = (x_i - alpha_i z_hat_i) / sigma,    d log p = -div dx

(Song et al. 2021, in any coordinate of time). It runs from t = 0 upwards through the timesteps of a plan by Heun's method,
the divergence by Hutchinson's estimate, v^T (d dx / dx) v with signs v. At a change of resolution the flow jumps: equation
(6) with eta = 0 is a bijection (x_t, xi) -> x_s, xi the noise of the null space of M alone. With w = U^T x_t and
y = V^T x_s,

    range       y_r = k_x w + k_z g_r(w),    g(w) = V^T z_hat(U w)
    null space  y_n = k_z g_n(w) + k_n xi
    log p(x_s) = log p(x_t) + log N(xi) - log det(k_x + k_z dg_r / dw) - sum log k_n

whose triangular Jacobian needs nothing of g_n. w is found by iterating w = (y_r - k_z g_r(w)) / k_x, and the determinant by
its power series (residual flows, Chen et al. 2019), both of which converge if the iteration contracts. On the range k_z is
a_s (1 - rho^1/2 c m): nearly 0 where M's singular values are all alike and (3) is nearly an equality, as with (8).
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ssd_jax.analysis.bits import bits_per_dimension, check_plan, log_normal, log_pixels, per_image
from ssd_jax.compilation import COMPILER_OPTIONS
from ssd_jax.errors import InputError, checked_arguments
from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.operators import along_axes
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.denoise import Denoise, as_label, as_pytree
from ssd_jax.sampling.noise import NoiseSource
from ssd_jax.sampling.parts import StayPlan, UpPlan
from ssd_jax.sampling.plan import Plan

TERMS = 50  # of the iteration and of the series, at most
NEGLIGIBLE, TOLERANCE = 1e-6, 1e-4  # root mean square of what the last one changes: where it stops, and where it has failed


@checked_arguments
def flow_likelihood(
    denoise: Denoise,
    plan: Plan,
    images: Float[Array, "batch *shape channels"],
    noise: NoiseSource,
    *,
    label: Num[Array | np.ndarray, "batch *vector"] | None = None,
) -> dict[str, Float[Array, "batch"]]:
    """-log2 P(image) / dimensions by the probability flow, in parts that sum to it.

    x_{t=0} is the pixels dequantised by the process's own noise, and the last call makes pixels of it again:

        -log P(image) <= E[-log p(x_{t=0}) + log q(x_{t=0} | image) - log P(image | x_{t=0})],    q the marginal (1)

    as tight as the last step of the bound is. Estimates are unbiased but for the size of the flow's steps.

    Args:
        denoise: the denoiser.
        plan: of solver "ddim"; two calls for each of its steps.
        images: x_0, float32 in [-1, 1], 8-bit pixels scaled.
        noise: of every image: of x_{t=0} and of Hutchinson's signs.
        label: int [batch] or float [batch, size], handed to `denoise`.

    Raises:
        InputError: as `log_density`.

    Returns:
        bits per dimension of every image, float32 [batch], by the parts of `log_density` and "reconstruction", the last two
        terms above.
    """
    _check(plan)
    process, denoise = plan.process, as_pytree(denoise)
    label = as_label(label)
    eps = noise.draw(process.num_timesteps, images.shape[1:])
    x = process.noisy_state(images, 0, eps)
    nats = {name: -each for name, each in log_density(denoise, plan, x, noise, label=label).items()}
    pixels = log_pixels(denoise, images, x, label, process=process, stage=plan.stages[-1].stage)
    density = log_normal(eps) - math.prod(images.shape[1:]) * np.log(process.sigma[0])
    return bits_per_dimension(nats | {"reconstruction": density - pixels}, images)


@checked_arguments
def log_density(
    denoise: Denoise,
    plan: Plan,
    x: Float[Array, "batch *shape channels"],
    noise: NoiseSource,
    *,
    label: Num[Array | np.ndarray, "batch *vector"] | None = None,
) -> dict[str, Float[Array, "batch"]]:
    """log p(x_{t=0}) of the probability flow in nats, in parts that sum to it.

    Args:
        denoise, plan, noise, label: as of `flow_likelihood`.
        x: states at t = 0.

    Raises:
        InputError: if the plan draws noise where x_t tells something or uses earlier predictions, has no prior
            (`bits.check_plan`), an operator is only a function, or an up-step cannot be inverted by iteration.

    Returns:
        float32 [batch], by "prior", log N(x_{T-1}; 0, I), and the name of every stage: what its step or steps add.
    """
    _check(plan)
    process, denoise, nats = plan.process, as_pytree(denoise), {}
    label = as_label(label)
    entry: Stage | None = None  # the up-stage that leads from the level to the finer one
    for part in reversed(plan.stages):
        if isinstance(part, UpPlan):
            x, nats[str(part.stage)] = _down(denoise, part, x, noise, label)
            entry = part.stage
        else:
            assert isinstance(part, StayPlan), "checked above"
            timesteps = np.array(([entry.t_min] if entry else []) + part.timesteps.tolist()[::-1], np.int32)
            if len(timesteps) < 2:  # no step of the plan lies within the level
                continue
            tables = _tables(process, part, timesteps)
            x, nats[str(part.stage)] = _flow(
                denoise, x, noise, label, tables, process=process, stage=part.stage, entry=entry
            )
    return {"prior": log_normal(x)} | dict(reversed(nats.items()))


def _check(plan: Plan) -> None:
    """Raises InputError unless all parts of the plan are bijections that can be inverted."""
    check_plan(plan)
    for part in plan.stages:
        if not isinstance(part, StayPlan | UpPlan):
            raise InputError(
                "an operator of this process is a function, whose singular directions are not known, so that its up-step "
                "has no density; the likelihood needs separable operators (the bound does not)"
            )
        table = part.coefficients
        drawn = table[part.operator.in_range] if isinstance(part, UpPlan) else table
        if table[..., 2:-1].any() or drawn[..., -1].any():
            why = "uses earlier predictions" if table[..., 2:-1].any() else "draws noise at every step"
            raise InputError(
                f"the plan's solver {why}, so that it has no density; take solver \"ddim\", whose steps are a flow's"
            )


def _tables(process: ScaleSpaceProcess, part: StayPlan, timesteps: np.ndarray) -> dict[str, Any]:
    """For the device: t, alpha along `basis` and sigma at every end of a step, and their changes, in float64 so far."""
    shape, gains = [1] * len(process.shape), np.ones(())
    alpha = process.alpha[timesteps].reshape(-1, *shape)
    if part.basis is not None:
        rates = heat_rate_grid(process.level_shape(part.stage.in_level), process.shape)
        gains = np.exp(-np.multiply.outer(process.blur_times[timesteps], rates))
    alpha, sigma = (alpha * gains)[..., None], process.sigma[timesteps].reshape(-1, *shape, 1)
    ends = {"alpha": alpha, "sigma": sigma, "d_alpha": np.diff(alpha, axis=0), "d_sigma": np.diff(sigma, axis=0)}
    return {"timesteps": timesteps, "basis": part.basis or ()} | {name: np.float32(each) for name, each in ends.items()}


@partial(jax.jit, static_argnames=("process", "stage", "entry"), compiler_options=COMPILER_OPTIONS)
def _flow(denoise, x, noise, label, tables, *, process, stage, entry):
    """Up through the timesteps of a level, and what log p falls by on the way: Heun's method.

    The first timestep is that of the `entry` stage, if there is one, whose predictions are of the finer level.
    """
    basis, timesteps = tables["basis"], tables["timesteps"]

    def velocity(own: Stage, i, end, x):
        """The change that step i would be if all of it were as at its `end`, 0 or 1."""
        t = jnp.full(x.shape[:1], timesteps[i + end])
        z = process.degrade(denoise(x, t, label, stage=own), stage.in_level, start=own.out_level)
        x, z = (along_axes(each, [v.T for v in basis]) for each in (x, z))
        eps = (x - tables["alpha"][i + end] * z) / tables["sigma"][i + end]
        return along_axes(tables["d_alpha"][i] * z + tables["d_sigma"][i] * eps, basis)

    def half_step(own: Stage, j, carry):
        """Step j // 2: its start, then its end; so the program has the network, which takes long to compile, but once."""
        x, log_p, start, divergence = carry
        i, end = j // 2, j % 2
        signs = jnp.sign(noise.draw(timesteps[i], x.shape[1:]))
        change, along = jax.jvp(partial(velocity, own, i, end), (x + end * start,), (signs,))
        further = per_image(signs * along)
        return x + end * (start + change) / 2, log_p + end * (divergence + further) / 2, change, further

    none, halves = jnp.zeros(len(x)), 2 * (len(timesteps) - 1)
    carry = (x, none, jnp.zeros_like(x), none)
    if entry is not None:
        carry = half_step(entry, 0, carry)
    x, log_p, *_ = jax.lax.fori_loop(0 if entry is None else 1, halves, partial(half_step, stage), carry)
    return x, log_p


def _down(denoise: Denoise, part: UpPlan, x: jax.Array, noise: NoiseSource, label: Any) -> tuple[jax.Array, jax.Array]:
    """The inverse of an up-step: x_t of x_s, and log p(x_s) - log p(x_t)."""
    inside = tuple(slice(len(u)) for u in part.operator.left)
    k_x, k_z, *_, k_n = np.moveaxis(part.coefficients, -1, 0)[..., None]
    unseen = ~part.operator.in_range[..., None]
    target = [np.eye(len(v)) for v in part.operator.right] if part.target is None else part.target.matrices
    tables = {
        "k_x": np.float32(k_x[inside]),
        "k_z": np.float32(k_z),
        "k_n": np.float32(np.where(unseen, k_n, 1)),
        "unseen": unseen,
        "left": part.operator.left,
        "right": part.operator.right,
        "inward": tuple(v.T @ matrix for v, matrix in zip(part.operator.right, target, strict=True)),
    }
    scale = np.log(k_x[inside]).sum() + np.log(np.where(unseen, k_n, 1)).sum()
    x, log_p, change = _invert(denoise, x, noise, label, tables, stage=part.stage)
    if not change <= TOLERANCE:
        raise InputError(
            f"the up-step from level {part.stage.in_level} at t = {part.stage.t_min} cannot be inverted by iteration (its "
            f"last change is {change:.2g}, at most {TOLERANCE:g} is allowed): it is no bijection of this denoiser, or "
            "nearly so; change the resolution at lower SNR, or take an operator with equal singular values (box, ideal)"
        )
    return x, log_p - scale * x.shape[-1]


@partial(jax.jit, static_argnames=("stage",), compiler_options=COMPILER_OPTIONS)
def _invert(denoise, x, noise, label, tables, *, stage):
    """x_t, log N(xi) less the determinant but for its constant part, and what the last of the terms change."""
    left, k_x, k_z = tables["left"], tables["k_x"], tables["k_z"]
    inside = (slice(None), *(slice(len(u)) for u in left))
    t = jnp.full(x.shape[:1], stage.t_min)

    def pull(w):
        """k_z g(w)."""
        return k_z * along_axes(denoise(along_axes(w, left), t, label, stage=stage), tables["inward"])

    y = along_axes(x, [v.T for v in tables["right"]])

    def contract(w):
        return pull(w)[inside] / k_x

    def iterate(carry):
        i, w, _ = carry
        following = y[inside] / k_x - contract(w)
        return i + 1, following, jnp.sqrt(jnp.mean(jnp.square(following - w)))

    def term(carry):
        i, power, log_det = carry
        power = -linear(power)
        return i + 1, power, log_det - per_image(signs * power) / i

    _, w, change = jax.lax.while_loop(
        lambda carry: (carry[0] < TERMS) & (carry[2] > NEGLIGIBLE), iterate, (0, y[inside] / k_x, jnp.ones(()))
    )
    _, linear = jax.linearize(contract, w)  # log det(1 + B) = tr (B - B^2 / 2 + B^3 / 3 - ..)
    signs = jnp.sign(noise.draw(stage.t_min, w.shape[1:]))
    _, power, log_det = jax.lax.while_loop(
        lambda carry: (carry[0] <= TERMS) & (jnp.mean(jnp.square(carry[1])) > NEGLIGIBLE**2),
        term,
        (1, signs, jnp.zeros(len(x))),
    )
    change = jnp.maximum(change, jnp.sqrt(jnp.mean(jnp.square(power))))
    xi = jnp.where(tables["unseen"], (y - pull(w)) / tables["k_n"], 0)
    count = tables["unseen"].sum() * x.shape[-1]
    log_p = -(per_image(jnp.square(xi)) + count * math.log(2 * math.pi)) / 2
    return along_axes(w, left), log_p - log_det, change
