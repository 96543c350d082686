"""Measures what the library claims. Ratios are of medians of runs that take turns, so that a busy machine disturbs both.

python -m launch.benchmark [--out runs/benchmark.json]

up-step noise   Drawing the noise of the up-step 64 -> 128 px, bilinear, 64 images: `ssd_jax` (one transform with the exact
                singular vectors, batched) against 40 Lanczos iterations with full reorthogonalisation and adjoints by
                automatic differentiation, one image after the other, as in the published code.
Gaussian error  What 1000 ancestral steps lose at 64 px with 4 levels and preserved SNR, exactly (`ssd_jax.analysis`),
                against one level, and what 30 calls of dpmpp_2m do.
training        Images/s of the quickstart's network, all levels against one, and the temporary memory of their programs.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from configs import openmoji32
from launch.command import run
from ssd_jax.analysis import gaussian_error
from ssd_jax.config import ProcessConfig, from_config_dict
from ssd_jax.files import write_atomically
from ssd_jax.operators import SeparableOperator, along_axes
from ssd_jax.process import make_process
from ssd_jax.sharding import data_mesh
from ssd_jax.solvers import plan_steps
from ssd_jax.spectrum import natural_spectrum
from ssd_jax.training import compile_train_step, init_state

OUT = flags.DEFINE_string("out", None, "JSON file for the results.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each contestant.", lower_bound=1)


def main() -> None:
    results = {
        "machine": machine(),
        "up_step_noise": up_step_noise(REPEATS.value),
        "gaussian_error": sampling_errors(),
        "training": training_speed(REPEATS.value),
    }
    print(json.dumps(results, indent=2))
    if OUT.value:
        text = json.dumps(results, indent=2) + "\n"
        write_atomically(Path(OUT.value), lambda file: file.write(text.encode()))


def machine() -> dict[str, str]:
    """Where the numbers come from."""
    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def median_seconds(contestants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median wall time of each function, which take turns; one run of each before, to compile."""
    for function in contestants.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, function in contestants.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def up_step_noise(repeats: int, batch: int = 64) -> dict[str, float]:
    """Wall times in seconds, their ratio, and how far both are from the exact square root in float64."""
    process = make_process(ProcessConfig(image_size=128, num_levels=2, operator="bilinear"))
    t = process.first_timestep(1)
    operator = process.transition_operator(t - 1, t)
    assert isinstance(operator, SeparableOperator)
    k_n = process.reverse_coefficients(t - 1, t, eta=1.0)[..., 2, None]
    _, _, var_s, _, ratio, _ = process.step_constants(t - 1, t, eta=1.0)

    @jax.jit
    def exact(key: jax.Array) -> jax.Array:
        return along_axes(jnp.float32(k_n) * jax.random.normal(key, (batch, 128, 128, 3)), operator.right)

    lanczos = jax.jit(partial(_lanczos_noise, ratio=ratio, var_s=var_s))
    draw = jax.jit(lambda key: jax.random.normal(key, (batch, 128, 128, 3)))

    def one_by_one() -> list[jax.Array]:
        return [lanczos(noise) for noise in draw(jax.random.key(0))]

    seconds = median_seconds({"ssd_jax": lambda: exact(jax.random.key(0)), "lanczos": one_by_one}, repeats)
    noise = draw(jax.random.key(0))[:1]
    inward = [v.T for v in operator.right]
    root = np.asarray(noise, np.float64)
    for matrices, scale in ((inward, k_n), (operator.right, 1.0)):
        root = scale * np.einsum("ij,kl,bjlc->bikc", *matrices, root, optimize=True)
    ours = along_axes(jnp.float32(k_n) * along_axes(noise, inward), operator.right)
    return {
        **{f"seconds_{name}": value for name, value in seconds.items()},
        "ratio": seconds["lanczos"] / seconds["ssd_jax"],
        "error_ssd_jax": float(np.abs(ours - root).max()),
        "error_lanczos": float(np.abs(lanczos(noise[0]) - root[0]).max()),
    }


def sampling_errors() -> dict[str, float]:
    """Relative errors, the ratio of the ancestral ones, and their variance ratio up to 4 cycles a side."""
    spectrum = natural_spectrum((64, 64))
    config = ProcessConfig(image_size=64, num_levels=4, operator="ideal")
    plans = ((replace(config, num_levels=1), "ancestral", 1000), (config, "ancestral", 1000), (config, "dpmpp_2m", 30))
    one, four, few = (
        gaussian_error(plan_steps(make_process(c), solver=solver, num_steps=steps), spectrum) for c, solver, steps in plans
    )
    return {
        "one_level": one.relative_error,
        "four_levels": four.relative_error,
        "four_levels_dpmpp_2m_30": few.relative_error,
        "ratio": four.relative_error / one.relative_error,
        "low_frequency_ratio": four.low_frequency_ratio,
    }


def training_speed(repeats: int) -> dict[str, float]:
    """Images/s of whole training steps in mixed stage sampling, and bytes of the largest program's temporaries."""
    config = from_config_dict(openmoji32.get_config())
    configs = {"levels": config, "one_level": replace(config, process=replace(config.process, num_levels=1))}
    size, mesh = config.process.image_size, data_mesh()
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (config.train.batch_size, size, size, 3), np.uint8),
        "label": np.zeros(config.train.batch_size, np.int32),
    }
    steps = {name: compile_train_step(c, mesh) for name, c in configs.items()}
    states = {name: init_state(c, mesh) for name, c in configs.items()}

    def ten_steps(name: str) -> jax.Array:
        for step in range(10):
            states[name], _ = steps[name](states[name], step, batch)
        return states[name].step

    seconds = median_seconds({name: partial(ten_steps, name) for name in steps}, repeats)
    rate = {name: 10 * config.train.batch_size / value for name, value in seconds.items()}
    memory = {
        name: max(float(program.memory_analysis().temp_size_in_bytes) for program in step.gradients.values())
        for name, step in steps.items()
    }
    return {
        **{f"images_per_second_{name}": value for name, value in rate.items()},
        "time_ratio": rate["one_level"] / rate["levels"],
        **{f"temporary_bytes_{name}": value for name, value in memory.items()},
        "memory_ratio": memory["levels"] / memory["one_level"],
    }


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


if __name__ == "__main__":
    run(main)
