"""The variational bound against divergences of dense matrices, and against what Gaussian data really need."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ssd_jax.analysis.bits import log_pixels
from ssd_jax.analysis.bound import variational_bound
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import box
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.noise import seeded
from ssd_jax.sampling.parts import UpPlan
from ssd_jax.sampling.plan import plan_steps
from tests.gaussians import GaussianData, dense, natural_covariance

NIGHTLY = pytest.mark.nightly


def pixels(covariance, count, seed=0):
    """Images of these variances as 8-bit pixels, [count, side, side, 1] in [-1, 1]."""
    root, side = np.linalg.cholesky(covariance), math.isqrt(len(covariance))
    x = np.random.default_rng(seed).standard_normal((count, len(root))) @ root.T
    return (np.clip(np.rint((x + 1) * 127.5), 0, 255) / 127.5 - 1).reshape(count, side, side, 1)


def gaussian_bits(images, covariance):
    """-log2 of the mass that N(0, covariance) has in every image's bins, per dimension; smooth within a bin."""
    x = images.reshape(len(images), -1)
    squares = np.einsum("bi,bi->b", x, np.linalg.solve(covariance, x.T).T)
    nats = (squares + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2 - x.shape[1] * math.log(2 / 255)
    return nats / (x.shape[1] * math.log(2))


def divergence(data, images, eps, t, s, stage, eta, unseen):
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of every image by the means and covariances of (5), all dense, in nats."""
    process = data.process
    x = process.noisy_state(jnp.asarray(images, jnp.float32), t, eps)
    guess = np.asarray(data.denoise(x, jnp.full(len(x), t), stage=stage), float)
    sharp = np.asarray(process.degrade(jnp.asarray(images, jnp.float32), stage.out_level), float)
    error, target, operator = (sharp - guess).reshape(len(images), -1), process.target_operator(s), None
    error = error if target is None else error @ dense(target).T
    operator = process.transition_operator(s, t)
    m = np.eye(error.shape[1]) if operator is None else dense(operator)
    u, values, vt = np.linalg.svd(m)
    a_s, a_t, var_s, var_t = process.alpha[s], process.alpha[t], process.sigma[s] ** 2, process.sigma[t] ** 2
    ratio = var_s / var_t * (a_t / a_s) ** 2
    b = vt[: len(values)].T * np.sqrt(var_s - eta**2 * var_s * (1 - ratio * values**2)) / np.sqrt(var_t) @ u.T
    q = var_s * np.eye(len(vt)) - var_t * b @ b.T
    p = q + (0 if unseen is None else unseen)
    precision = np.linalg.pinv(p, rcond=1e-9, hermitian=True)
    means = a_s * error - a_t * error @ (b @ m).T
    spread = 0.0
    if unseen is not None:  # only where the two differ
        spread = (
            np.trace(precision @ q) - np.linalg.matrix_rank(p) + np.linalg.slogdet(p)[1] - np.linalg.slogdet(q)[1]
        ) / 2
    return np.einsum("bi,ij,bj->b", means, precision, means) / 2 + spread


@pytest.mark.parametrize(
    ("settings", "eta", "steps"),
    [
        ({"operator": "bilinear"}, 1.0, 12),
        pytest.param({"snr_policy": "published", "num_levels": 3}, 1.0, 30, marks=NIGHTLY),
        pytest.param({"operator": "gaussian", "blur": 1.0}, 1.0, 30, marks=NIGHTLY),
        pytest.param({"blur": 1.0}, 0.5, 12, marks=NIGHTLY),
        pytest.param(
            {"resolution_schedule": "threshold", "thresholds": (0.5, 0.5), "num_levels": 3}, 0.7, 30, marks=NIGHTLY
        ),
    ],
    ids=str,
)
def test_steps_are_divergences_of_dense_gaussians(settings, eta, steps):
    process = make_process(ProcessConfig(image_size=4, num_timesteps=30, **{"num_levels": 2, **settings}))
    covariance = natural_covariance(4) / 3
    data, images, noise = GaussianData(process, covariance), pixels(covariance, 4), seeded(jax.random.key(0), np.arange(4))
    plan = plan_steps(process, solver="ddim", eta=eta, num_steps=steps)
    bits = variational_bound(data.denoise, plan, jnp.asarray(images, jnp.float32), noise)
    following = dict(pairwise(plan.timesteps.tolist()))
    for part in plan.stages:
        own, size = [t for t in part.timesteps.tolist() if t], (*process.level_shape(part.stage.in_level), 1)
        drawn = [noise.draw(part.stage.t_min + i, size) for i in range(len(own))]
        if own:
            each = [
                divergence(data, images, *pair, following[pair[1]], part.stage, eta, None)
                for pair in zip(drawn, own, strict=True)
            ]
            expected = sum(each) / (16 * math.log(2))
            np.testing.assert_allclose(bits[str(part.stage)], expected, rtol=2e-3, atol=1e-6)


@NIGHTLY
def test_detail_noise_of_the_data_is_a_divergence_too():
    """(6'), whose variance along the null space is not the posterior's."""
    process = make_process(
        ProcessConfig(image_size=8, num_levels=2, num_timesteps=30, snr_policy="published", operator="bilinear")
    )
    covariance = natural_covariance(8) / 3
    data, images, noise = GaussianData(process, covariance), pixels(covariance, 4), seeded(jax.random.key(0), np.arange(4))
    plan = plan_steps(process, solver="ancestral", num_steps=30, spectrum=natural_spectrum((8, 8), std=0.3))
    bits, up = variational_bound(data.denoise, plan, jnp.asarray(images, jnp.float32), noise), plan.stages[1]
    plain = plan_steps(process, solver="ancestral", num_steps=30).stages[1]
    assert isinstance(up, UpPlan) and isinstance(plain, UpPlan)
    v, t = np.kron(*up.operator.right), up.stage.t_min
    unseen = v * (up.coefficients[..., -1] ** 2 - plain.coefficients[..., -1] ** 2).ravel() @ v.T
    expected = divergence(data, images, noise.draw(t, (4, 4, 1)), t, t - 1, up.stage, 1.0, unseen) / (64 * math.log(2))
    np.testing.assert_allclose(bits[str(up.stage)], expected, rtol=2e-3)


@NIGHTLY
def test_an_operator_that_is_only_a_function_has_the_same_bound():
    exact = box((4, 4))
    free = MatrixFreeOperator(lambda x: exact.apply(x[..., None])[..., 0], (4, 4))
    log_snr, levels = np.linspace(5, -11, 12), (np.arange(12) > 5).astype(int)
    images, noise = jnp.asarray(pixels(np.eye(16) / 16, 3), jnp.float32), seeded(jax.random.key(0), np.arange(3))
    found = []
    for operator in (exact, free):
        process = ScaleSpaceProcess((4, 4), log_snr, levels, (operator,))
        plan = plan_steps(process, solver="ancestral", num_steps=12)
        found.append(variational_bound(lambda x, t, label, *, stage: resized(x, stage), plan, images, noise))
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4)
    with pytest.raises(InputError, match='only solver "ancestral" has a bound'):
        variational_bound(
            lambda x, t, label, *, stage: x, plan_steps(process, solver="ddim", num_steps=12, eta=0.5), images, noise
        )


def resized(x, stage):
    """A guess at the level that is asked for."""
    return 0.3 * jnp.repeat(jnp.repeat(x, 2, 1), 2, 2) if stage.is_up else 0.3 * x


def even_process(num_timesteps):
    """Two levels at 4 px, log-SNR even from 9 to -10."""
    log_snr = np.linspace(9, -10, num_timesteps)
    return ScaleSpaceProcess((4, 4), log_snr, (log_snr < -3).astype(int), (box((4, 4)),))


@pytest.mark.parametrize(
    ("count", "timesteps", "tolerance"), [(512, 60, 1e-2), pytest.param(8192, 400, 1e-3, marks=NIGHTLY)]
)
def test_gaussian_data_need_as_many_bits(count, timesteps, tolerance):
    """From above, and, since the bound of finer steps is closer in proportion, in the limit the data's own.

    A few draws of timesteps for an image are unbiased.
    """
    covariance = natural_covariance(4) / 5
    images, noise = pixels(covariance, count), seeded(jax.random.key(1), np.arange(count))
    exact, bounds = gaussian_bits(images, covariance).mean(), []
    for num in (timesteps, 2 * timesteps):
        process = even_process(num)
        denoise, plan = GaussianData(process, covariance).denoise, plan_steps(process, solver="ancestral", num_steps=num)
        bits = variational_bound(denoise, plan, jnp.float32(images), noise)
        bounds.append(np.sum([each.mean() for each in bits.values()]))
    assert exact < bounds[1] < bounds[0]
    np.testing.assert_allclose(2 * bounds[1] - bounds[0], exact, rtol=tolerance)
    some = variational_bound(denoise, plan, jnp.float32(images), noise, draws=5)
    for name, each in bits.items():
        difference = np.asarray(some[name] - each)
        assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(count) + 1e-6, name


def test_pixels_have_probabilities():
    """All 256 together 1, wherever the prediction is; far from it none is lost to rounding."""
    process = even_process(10)
    values = jnp.arange(256, dtype=jnp.float32).reshape(256, 1, 1, 1) / 127.5 - 1
    for z in (-1.5, -1.0, -0.3, 0.999, 4.0):
        denoise = Partial(lambda z, x, t, label, *, stage: jnp.full_like(x, z), jnp.float32(z))
        logs = log_pixels(denoise, values, values, None, process=process, stage=process.stages[-1])
        np.testing.assert_allclose(np.exp(np.asarray(logs, float)).sum(), 1, atol=1e-5)
        assert np.isfinite(logs).all()


def test_plans_without_a_bound_are_refused():
    process = make_process(ProcessConfig(image_size=8, num_levels=2, num_timesteps=30))
    images, noise = jnp.zeros((1, 8, 8, 3)), seeded(jax.random.key(0), np.arange(1))
    never = make_process(ProcessConfig(image_size=8, num_levels=1, num_timesteps=30, noise_schedule="constant", blur=4.0))
    quiet = ScaleSpaceProcess((8, 8), np.array([np.inf, 0.0, -12.0]), np.array([0, 0, 0]))
    for plan, message in (
        (plan_steps(process, solver="ddim", num_steps=12), "draws no noise, so that the plan has no bound"),
        (plan_steps(process, solver="dpmpp_2m_sde", num_steps=12), "uses earlier predictions"),
        (plan_steps(process, solver="ancestral", num_steps=12, start=3), "plan begins at t = 3"),
        (plan_steps(never, solver="ancestral", num_steps=12), "x_T-1 of this process is not noise"),
        (plan_steps(quiet, solver="ancestral", num_steps=3), "x_0 of this process has no noise"),
    ):
        with pytest.raises(InputError, match=message) as error:
            variational_bound(lambda x, t, label, *, stage: x, plan, images, noise)
        assert "\n" not in str(error.value)
