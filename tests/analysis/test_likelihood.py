"""The likelihood of the probability flow against that of Gaussian data, and its up-steps against dense Jacobians."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.analysis.likelihood import _down, flow_likelihood, log_density
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import along_axes, box, heat, resize, triangle
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.reverse import lift
from ssd_jax.sampling.denoise import as_pytree
from ssd_jax.sampling.noise import seeded
from ssd_jax.sampling.parts import State, UpPlan
from ssd_jax.sampling.plan import plan_steps
from tests.analysis.test_bound import gaussian_bits, pixels
from tests.gaussians import GaussianData, natural_covariance

NIGHTLY = pytest.mark.nightly
COUNT = 512


def log_normal(x, covariance):
    squares = np.einsum("bi,bi->b", x, np.linalg.solve(covariance, x.T).T)
    return -(squares + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2


@pytest.mark.parametrize(
    "settings",
    [
        {"num_levels": 2, "operator": "bilinear"},
        *(
            pytest.param(each, marks=NIGHTLY)
            for each in (
                {"num_levels": 1},
                {"num_levels": 3},
                {"num_levels": 1, "blur": 1.0},
                {"num_levels": 2, "blur": 1.0, "operator": "gaussian"},
                {"num_levels": 2, "zero_terminal_snr": True},
            )
        ),
    ],
    ids=str,
)
def test_gaussian_data_have_their_own_likelihood(settings):
    """Of the states at t = 0, and of 8-bit pixels, whose every part is then counted."""
    process = make_process(ProcessConfig(image_size=4, num_timesteps=200, **settings))
    covariance = natural_covariance(4) / 5
    images, noise = pixels(covariance, COUNT), seeded(jax.random.key(0), np.arange(COUNT))
    data, plan = GaussianData(process, covariance), plan_steps(process, solver="ddim", num_steps=100)
    found = flow_likelihood(data.denoise, plan, jnp.float32(images), noise)
    bits = np.sum([np.asarray(each, float) for each in found.values()], axis=0)
    exact = gaussian_bits(images, covariance)
    np.testing.assert_allclose(bits.mean(), exact.mean(), rtol=1e-3)
    assert np.std(bits - exact) < 0.1  # image by image, but for the signs and the noise of x_{t=0}


@NIGHTLY
def test_the_flow_is_of_second_order():
    """Data of one variance: every image has its likelihood, the divergence is exact, and what is left is the steps'."""
    errors, covariance = [], np.eye(16) / 9
    for steps in (40, 80):
        process = ScaleSpaceProcess((4, 4), np.linspace(7, -12, steps), np.zeros(steps, int))
        x = np.random.default_rng(0).standard_normal((8, 4, 4, 1)) / 3
        marginal = process.alpha[0] ** 2 * covariance + process.sigma[0] ** 2 * np.eye(16)
        plan, noise = plan_steps(process, solver="ddim", num_steps=steps), seeded(jax.random.key(0), np.arange(8))
        found = log_density(GaussianData(process, covariance).denoise, plan, jnp.float32(x), noise)
        total = np.sum(list(map(np.asarray, found.values())), axis=0)
        errors.append(np.abs(total - log_normal(x.reshape(8, -1), marginal)).mean())
    assert math.log2(errors[0] / errors[1]) > 1.8


def test_an_up_step_is_inverted_with_its_determinant():
    """Of a denoiser that is not linear; the plan's own step goes down again to where it began."""
    log_snr, levels = np.linspace(4, -10, 8), np.array([0, 0, 0, 1, 1, 1, 1, 1])
    dissipation = np.linspace(0, 0.6, 8)
    operator = resize((4, 4), triangle) @ heat((4, 4), 0.1)
    process = ScaleSpaceProcess((4, 4), log_snr - 1.5 * levels, levels, (operator,), dissipation)
    plan = plan_steps(process, solver="ddim", num_steps=6)
    up = next(part for part in plan.stages if isinstance(part, UpPlan))
    weights = 0.5 * np.random.default_rng(0).standard_normal((16, 4))

    def denoise(x, t, label=None, *, stage):
        if not stage.is_up:
            return 0 * x
        z = jnp.tanh(jnp.einsum("ij,bj->bi", weights, x.reshape(len(x), -1), precision="highest"))
        return z.reshape(len(x), 4, 4, 1)

    noise = seeded(jax.random.key(0), np.arange(2048))
    one = np.random.default_rng(1).standard_normal((1, 2, 2, 1)).astype(np.float32)
    x_t = jnp.asarray(np.repeat(one, 2048, axis=0))
    x_s = up.run(as_pytree(denoise), State(x_t, (x_t,)), noise, None).x
    xi = np.asarray(noise.draw(int(up.timesteps[0]), (4, 4, 1)))[:, ~up.operator.in_range]

    @jax.jit
    def whole(joint):
        """(x_t, xi) -> x_s."""
        full = jnp.zeros((4, 4, 1)).at[~up.operator.in_range].set(joint[4:].reshape(-1, 1))
        k_x, k_z, _, k_n = jnp.moveaxis(jnp.float32(up.coefficients), -1, 0)[..., None]
        z = denoise(joint[:4].reshape(1, 2, 2, 1), None, stage=up.stage)
        z = z if up.target is None else up.target.apply(z)
        y = k_x * lift(joint[:4].reshape(1, 2, 2, 1), up.operator.left, up.operator.right)
        y = y + k_z * along_axes(z, [v.T for v in up.operator.right]) + k_n * full
        return along_axes(y, up.operator.right).ravel()

    joint = jnp.concatenate([jnp.asarray(one.ravel()), jnp.asarray(xi[0].ravel())])
    np.testing.assert_allclose(whole(joint), x_s[0].ravel(), atol=1e-5)
    determinant = np.linalg.slogdet(np.asarray(jax.jit(jax.jacfwd(whole))(joint), float))[1]
    down, gained = _down(as_pytree(denoise), up, x_s, noise, None)
    np.testing.assert_allclose(down, x_t, atol=1e-4)
    expected = -np.square(xi).reshape(2048, -1).sum(axis=1) / 2 - 12 * math.log(2 * math.pi) / 2 - determinant
    difference = np.asarray(gained) - expected
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(2048) + 1e-4


def test_what_has_no_likelihood_is_refused():
    process = make_process(ProcessConfig(image_size=8, num_levels=2, num_timesteps=30))
    noise = seeded(jax.random.key(0), np.arange(1))
    never = make_process(ProcessConfig(image_size=8, num_levels=1, num_timesteps=30, noise_schedule="constant", blur=4.0))
    exact = box((8, 8))
    free = MatrixFreeOperator(lambda x: exact.apply(x[..., None])[..., 0], (8, 8))
    free = ScaleSpaceProcess((8, 8), np.linspace(5, -11, 12), (np.arange(12) > 5).astype(int), (free,))
    for plan, message in (
        (plan_steps(process, solver="ancestral", num_steps=12), "solver draws noise at every step"),
        (plan_steps(process, solver="dpmpp_2m", num_steps=12), "solver uses earlier predictions"),
        (plan_steps(never, solver="ddim", num_steps=12), "x_T-1 of this process is not noise"),
        (plan_steps(free, solver="ddim", num_steps=12), "an operator of this process is a function"),
    ):
        with pytest.raises(InputError, match=message) as error:
            flow_likelihood(lambda x, t, label, *, stage: x, plan, jnp.zeros((1, 8, 8, 3)), noise)
        assert "\n" not in str(error.value)


def test_an_up_step_that_cannot_be_inverted_is_refused():
    operator = resize((4, 4), triangle)
    process = ScaleSpaceProcess((4, 4), np.array([4.0, 3.0, 0.0, -11.0]), np.array([0, 0, 1, 1]), (operator,))

    def denoise(x, t, label, *, stage):
        return 40 * jnp.repeat(jnp.repeat(x, 2, 1), 2, 2) if stage.is_up else 0 * x

    plan, x = plan_steps(process, solver="ddim", num_steps=4), jnp.ones((1, 4, 4, 1))
    with pytest.raises(InputError, match="up-step from level 1 at t = 2 cannot be inverted"):
        log_density(denoise, plan, x, seeded(jax.random.key(0), np.arange(1)))
