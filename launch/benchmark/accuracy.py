"""The part of `launch.benchmark` about errors: of sampling with an exact denoiser, and of the up-step's noise."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.analysis.error import GaussianError, gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.process.config import make_process
from ssd_jax.process.operators import SeparableOperator, along_axes
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.plan import DEFAULT_STEPS, plan_steps

from ..common import report
from ..common.report import Row, Table
from .timing import Tables, time_in_turns


def sampling_error(config: ProcessConfig, solver: str, num_steps: int) -> GaussianError:
    """The exact error of a solver for data with the spectrum of natural images."""
    process = make_process(config)
    return gaussian_error(plan_steps(process, solver=solver, num_steps=num_steps), natural_spectrum(process.shape))


def sampling_errors(config: ProcessConfig, levels: tuple[int, ...]) -> Tables:
    """One row per number of levels and SNR policy: relative errors, and the variance ratio up to 4 cycles a side."""
    policies = ("preserve", "published")
    chosen = [(n, policy) for n in levels for policy in (("-",) if n == 1 else policies)]

    def row(n: int, policy: str) -> Row:
        process = replace(config, num_levels=n, snr_policy=policies[0] if n == 1 else policy)
        ancestral = sampling_error(process, "ancestral", config.num_timesteps)
        return {
            "levels": n,
            "SNR policy": policy,
            f"ancestral {config.num_timesteps}": ancestral.relative_error,
            "low frequencies": ancestral.low_frequency_ratio,
            f"DDIM {config.num_timesteps}": sampling_error(process, "ddim", config.num_timesteps).relative_error,
            f"dpmpp_2m {DEFAULT_STEPS}": sampling_error(process, "dpmpp_2m", DEFAULT_STEPS).relative_error,
        }

    title = f"Relative error of sampling natural spectra with the exact denoiser, {report.size(config.shape)} px"
    return {"accuracy": Table(title, [row(*each) for each in chosen])}


def up_step_noise(repeats: int, size: int, batch: int) -> Tables:
    """Drawing the noise of the up-step to `size` px with the exact square root, and with Lanczos, one image at a time."""
    process = make_process(ProcessConfig(image_size=size, num_levels=2, operator="bilinear"))
    t = process.first_timestep(1)
    operator = process.transition_operator(t - 1, t)
    assert isinstance(operator, SeparableOperator)
    k_n = process.reverse_coefficients(t - 1, t, eta=1.0)[..., 2, None]
    _, _, var_s, _, ratio, _ = process.step_constants(t - 1, t, eta=1.0)

    @jax.jit
    def exact(key: jax.Array) -> jax.Array:
        return along_axes(jnp.float32(k_n) * jax.random.normal(key, (batch, size, size, 3)), operator.right)

    lanczos = jax.jit(partial(_lanczos_noise, ratio=ratio, var_s=var_s))
    draw = jax.jit(lambda key: jax.random.normal(key, (batch, size, size, 3)))

    def one_by_one() -> list[jax.Array]:
        return [lanczos(noise) for noise in draw(jax.random.key(0))]

    timings = time_in_turns({"ssd_jax": lambda: exact(jax.random.key(0)), "40 Lanczos iterations": one_by_one}, repeats)
    noise = draw(jax.random.key(0))[:1]
    inward = [v.T for v in operator.right]
    root = np.asarray(noise, np.float64)
    for matrices, scale in ((inward, k_n), (operator.right, 1.0)):
        root = scale * np.einsum("ij,kl,bjlc->bikc", *matrices, root, optimize=True)
    ours = along_axes(jnp.float32(k_n) * along_axes(noise, inward), operator.right)
    fastest = timings["ssd_jax"].seconds

    def row(name: str, drawn: jax.Array) -> Row:
        seconds, error = timings[name].seconds, float(np.abs(drawn - root).max())
        return {"method": name, "ms/image": 1e3 * seconds / batch, "time ratio": seconds / fastest, "error": error}

    rows = [row(*each) for each in zip(timings, (ours, lanczos(noise[0])), strict=True)]
    return {"up_step_noise": Table(f"Noise of the up-step {size // 2} -> {size} px, {batch} images", rows)}


def _lanczos_noise(noise: jax.Array, *, ratio: float, var_s: float, iterations: int = 40) -> jax.Array:
    """sigma_s (I - rho c^2 M^T M)^(1/2) noise of one image, M the antialiased bilinear resize to half."""
    height, width, channels = noise.shape

    def degrade(x: jax.Array) -> jax.Array:
        return jax.image.resize(x, (height // 2, width // 2, channels), "bilinear", antialias=True)

    def covariance(v: jax.Array) -> jax.Array:
        degraded, adjoint = jax.vjp(degrade, v.reshape(noise.shape))
        return v - ratio * adjoint(degraded)[0].ravel()

    def step(basis: jax.Array, i: jax.Array):
        w = covariance(basis[i])
        diagonal = w @ basis[i]
        w -= basis.T @ (basis @ w)
        w -= basis.T @ (basis @ w)
        below = jnp.linalg.norm(w)
        return basis.at[i + 1].set(w / below), (diagonal, below)

    norm = jnp.linalg.norm(noise)
    start = jnp.zeros((iterations + 1, noise.size)).at[0].set(noise.ravel() / norm)
    basis, (diagonal, below) = jax.lax.scan(step, start, jnp.arange(iterations))
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(below[:-1], 1) + jnp.diag(below[:-1], -1))
    weights = vectors @ (jnp.sqrt(jnp.maximum(values, 0)) * vectors[0])
    return jnp.sqrt(var_s) * norm * (weights @ basis[:-1]).reshape(noise.shape)
