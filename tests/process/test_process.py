import math
from dataclasses import replace
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import OPERATORS, SeparableOperator, along_axes, box, heat, identity
from ssd_jax.process.process import PRIOR_LOG_SNR, ScaleSpaceProcess
from ssd_jax.process.reverse import matrix_free_up_step, up_step
from tests.gaussians import dense

CONFIGS = [
    ProcessConfig(image_size=8, num_levels=3, num_timesteps=100, operator=operator, snr_policy=policy)
    for operator in OPERATORS
    for policy in ("preserve", "published")
] + [
    replace(ProcessConfig(image_size=8, num_levels=3, num_timesteps=100, operator=operator), **changes)
    for changes in (
        {"blur": 1.5},
        {"resolution_schedule": "threshold", "thresholds": (0.4, 0.4)},
        {"shape": (2, 4, 8), "factors": ((1, 2, 2), (2, 1, 2)), "blur": 0.5},
        {"zero_terminal_snr": True, "noise_schedule": "cosine"},
        {"noise_schedule": "flow", "noise_shift": 2.0},
    )
    for operator in ("box", "bicubic")
]


def matrix(operator, n):
    return np.eye(n) if operator is None else dense(operator)


def linear_maps(process, s, t, eta):
    """x_s = B x_t + K z_s + J xi of the library's own step, as dense matrices."""
    level = int(process.levels[s])
    n = math.prod(process.level_shape(level))
    coefficients = process.reverse_coefficients(s, t, eta)
    operator = process.transition_operator(s, t)
    if level == process.levels[t]:
        basis = process.frequency_basis(level)
        turn = np.eye(n) if basis is None else reduce(np.kron, basis)
        b, k, j = (turn * np.ravel(coefficients[..., i]) @ turn.T for i in range(3))
        return b, k @ np.linalg.inv(matrix(process.target_operator(s), n)), j

    assert isinstance(operator, SeparableOperator)

    def step(x, z, noise):
        return up_step(x, z, noise, jnp.float32(coefficients), operator.left, operator.right)

    x, z = jnp.zeros((1, *operator.out_shape, 1)), jnp.zeros((1, *operator.in_shape, 1))
    n, m = math.prod(operator.in_shape), math.prod(operator.out_shape)
    jacobians = jax.jacobian(step, (0, 1, 2))(x, z, z)
    return [np.float64(j).reshape(n, k) for j, k in zip(jacobians, (m, n, n), strict=True)]


def transitions(process):
    """A stay near each end and every change of resolution, single steps and leaps."""
    yield 3, 4
    yield 2, 20
    yield process.num_timesteps - 3, process.num_timesteps - 1
    for level in process.used_levels[1:]:
        t = process.first_timestep(level)
        yield t - 1, t
        yield t - 4, t


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_posterior_is_the_conditional_of_the_dense_gaussian(config):
    process = make_process(config)
    for s, t in transitions(process):
        operator = process.transition_operator(s, t)
        n = math.prod(process.level_shape(int(process.levels[s])))
        m = matrix(operator, n)
        c, var_s, var_t = process.alpha[t] / process.alpha[s], process.sigma[s] ** 2, process.sigma[t] ** 2
        transition = var_t * np.eye(len(m)) - c**2 * var_s * m @ m.T  # (2)
        assert np.linalg.eigvalsh(transition).min() > -1e-9
        state = c**2 * var_s * m @ m.T + transition
        gain = c * var_s * m.T @ np.linalg.inv(state)
        b, k, j = linear_maps(process, s, t, eta=1.0)
        np.testing.assert_allclose(b, gain, atol=2e-6)
        np.testing.assert_allclose(k, process.alpha[s] * np.eye(n) - process.alpha[t] * gain @ m, atol=2e-6)
        np.testing.assert_allclose(j @ j.T, var_s * np.eye(n) - c * var_s * gain @ m, atol=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_family_keeps_every_marginal(config, eta):
    process = make_process(config)
    for s, t in transitions(process):
        operator = process.transition_operator(s, t)
        b, k, j = linear_maps(process, s, t, eta)
        n = len(k)
        m = matrix(operator, n)
        np.testing.assert_allclose(process.alpha[t] * b @ m + k, process.alpha[s] * np.eye(n), atol=2e-6)
        covariance = process.sigma[t] ** 2 * b @ b.T + j @ j.T
        np.testing.assert_allclose(covariance, process.sigma[s] ** 2 * np.eye(n), atol=2e-6)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_ddim_draws_fresh_noise_only_in_the_null_space(config):
    process = make_process(config)
    t = process.first_timestep(process.used_levels[1])
    operator = process.transition_operator(t - 1, t)
    _, _, j = linear_maps(process, t - 1, t, eta=0.0)
    np.testing.assert_allclose(dense(operator) @ j, 0, atol=2e-6)


@pytest.mark.smoke
def test_one_level_is_ddpm_and_ddim():
    process = make_process(ProcessConfig(image_size=8, num_levels=1))
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - beta)
    for t in (1, 10, 500, 999):
        s = t - 1
        posterior = process.reverse_coefficients(s, t, 1.0)
        expected = [
            np.sqrt(1 - beta[t]) * (1 - bar[s]) / (1 - bar[t]),
            np.sqrt(bar[s]) * beta[t] / (1 - bar[t]),
            np.sqrt((1 - bar[s]) / (1 - bar[t]) * beta[t]),
        ]
        np.testing.assert_allclose(posterior, expected, rtol=1e-9)
        ddim = process.reverse_coefficients(s, t, 0.0)
        ratio = np.sqrt((1 - bar[s]) / (1 - bar[t]))
        np.testing.assert_allclose(ddim, [ratio, np.sqrt(bar[s]) - np.sqrt(bar[t]) * ratio, 0], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.smoke
def test_preserve_keeps_coarse_snr_and_ends_in_the_prior(operator):
    process = make_process(ProcessConfig(image_size=16, num_levels=4, operator=operator))  # valid: (3) is checked
    assert (np.diff(process.image_log_snr) < 0).all()
    assert np.abs(np.diff(process.image_log_snr)).max() < 1  # no leap at a change of resolution
    assert process.log_snr[-1] <= PRIOR_LOG_SNR + 1e-6
    published = make_process(ProcessConfig(image_size=16, num_levels=4, operator=operator, snr_policy="published"))
    np.testing.assert_array_equal(published.log_snr, make_process(ProcessConfig(num_levels=1)).log_snr)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_sharp_images_lead_to_the_marginal(config):
    """z_t = A_t x_0 is the same by way of the transitions one at a time and by way of a level's sharp image."""
    process = make_process(config)
    whole = np.eye(64)
    x0 = jax.random.normal(jax.random.key(0), (1, *process.shape, 1))
    for t in range(1, 100):
        operator = process.transition_operator(t - 1, t)
        whole = whole if operator is None else dense(operator) @ whole
        if t % 11 and t != 99:
            continue
        z = process.degrade(x0, int(process.levels[t]))
        x = process.add_noise(z, jnp.array([t]), jnp.zeros_like(z))
        np.testing.assert_allclose(np.ravel(x), process.alpha[t] * whole @ np.ravel(x0), atol=2e-6)


def test_blur_goes_on_across_a_change_of_resolution():
    """Ideal low-passes and blurs commute, so that z_t is one blur for the whole time, then the low-passes."""
    config = ProcessConfig(image_size=8, num_levels=3, num_timesteps=100, operator="ideal", blur=1.5)
    process, x0 = make_process(config), jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    assert process.dissipation is not None
    for t in (20, 60, 80, 99):
        level = int(process.levels[t])
        z = process.degrade(x0, level)
        x = process.add_noise(z, jnp.array([t]), jnp.zeros_like(z))
        lowpass = reduce(lambda y, operator: operator.apply(y), process.operators[:level], x0)
        blurred = heat(process.level_shape(level), process.dissipation[t], (8, 8)).apply(lowpass)
        np.testing.assert_allclose(x, process.alpha[t] * blurred, atol=2e-6)


def test_a_function_does_what_its_matrices_do():
    """A MatrixFreeOperator in place of a separable one: the same process, posterior and DDIM step."""
    config = ProcessConfig(image_size=8, num_levels=2, num_timesteps=100, operator="bilinear")
    process = make_process(config)
    (operator,) = process.operators
    assert isinstance(operator, SeparableOperator)
    free = MatrixFreeOperator(lambda x: operator.apply(x[..., None])[..., 0], operator.in_shape)
    same = ScaleSpaceProcess(process.shape, process.log_snr - 1e-3 * process.levels, process.levels, (free,))
    t = process.first_timestep(1)
    assert isinstance(same.transition_operator(t - 1, t), MatrixFreeOperator)
    x, z, noise = (jax.random.normal(jax.random.key(i), (2, *shape, 3)) for i, shape in enumerate([(4, 4), (8, 8), (8, 8)]))
    np.testing.assert_allclose(same.degrade(z, 1), process.degrade(z, 1), atol=1e-6)
    separable = ScaleSpaceProcess(process.shape, same.log_snr, process.levels, (operator,))
    for eta in (0.0, 0.5, 1.0):
        coefficients = jnp.float32(separable.reverse_coefficients(t - 1, t, eta))
        turned = along_axes(noise, [v.T for v in operator.right])
        exact = up_step(x, z, turned, coefficients, operator.left, operator.right)
        got = matrix_free_up_step(free, x, z, noise, jnp.float32(same.step_constants(t - 1, t, eta)))
        np.testing.assert_allclose(got, exact, atol=2e-4)


@pytest.mark.parametrize("shape", [(16,), (8, 12), (4, 8, 8)])
def test_signals_images_and_volumes_are_the_same_code(shape):
    levels = np.repeat([0, 1], 5)
    operator = box(shape)
    log_snr = np.linspace(3, -3, 10) - np.log(operator.lambda_max) * levels
    process = ScaleSpaceProcess(shape, log_snr, levels, (operator,))
    x0 = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    z = process.degrade(x0, 1)
    assert z.shape == (2, *(n // 2 for n in shape), 3)
    coefficients = jnp.float32(process.reverse_coefficients(4, 5, 0.0))
    x = process.add_noise(z, jnp.array([5, 5]), jnp.zeros_like(z))
    stepped = up_step(x, x0, jnp.zeros_like(x0), coefficients, operator.left, operator.right)
    np.testing.assert_allclose(stepped, process.alpha[4] * x0, atol=1e-5)


def test_add_noise_and_degrade():
    process = make_process(CONFIGS[0])
    x0 = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    z = process.degrade(x0, 2)
    assert z.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(z, x0.reshape(2, 2, 4, 2, 4, 3).mean((2, 4)), atol=1e-6)
    noise = jnp.ones_like(z)
    x = process.add_noise(z, jnp.array([99, 90]), noise)
    np.testing.assert_allclose(x[1], process.alpha[90] * z[1] + process.sigma[90], atol=1e-6)


def test_noisy_states_begin_at_any_level():
    process = make_process(CONFIGS[-2])
    x0, noise = jax.random.normal(jax.random.key(0), (3, 8, 8, 3)), jax.random.normal(jax.random.key(1), (3, 2, 2, 3))
    whole = process.noisy_state(x0, 95, noise)
    np.testing.assert_array_equal(whole, process.add_noise(process.degrade(x0, 2), jnp.full(3, 95), noise))
    np.testing.assert_array_equal(whole, process.noisy_state(process.degrade(x0, 1), 95, noise, start=1))
    each = process.noisy_state(x0, jnp.array([95, 90, 99]), noise, level=2)
    for i, t in enumerate((95, 90, 99)):
        np.testing.assert_allclose(each[i], process.noisy_state(x0, t, noise)[i], atol=1e-6)
    shared = process.noisy_state(x0[:1], 95, noise)
    np.testing.assert_allclose(shared[2], process.noisy_state(jnp.tile(x0[:1], (3, 1, 1, 1)), 95, noise)[2], atol=1e-6)


def test_invalid_processes():
    levels = np.array([0, 0, 1, 1])
    with pytest.raises(InputError, match=r"from t = 1 to t = 2 is not valid.*1\.5.*at least 0\.4"):
        ScaleSpaceProcess((4, 4), np.array([3.0, 2.0, 2 + np.log(4 * 1.5), 0.0]), levels, (box((4, 4)),))
    with pytest.raises(InputError, match="do not chain"):
        ScaleSpaceProcess((8, 8), np.array([3.0, 2.0, 1.0, 0.0]), levels, (box((4, 4)),))
    with pytest.raises(InputError, match="never fall"):
        ScaleSpaceProcess((4, 4), np.array([3.0, 2.0]), np.array([1, 0]), (box((4, 4)),))
    with pytest.raises(InputError, match="dissipation must hold"):
        ScaleSpaceProcess((4, 4), np.array([3.0, 2.0]), np.array([0, 0]), (), np.array([1.0, 0.5]))
    with pytest.raises(InputError, match="some level gets no timestep"):
        make_process(replace(CONFIGS[0], num_timesteps=4, gamma=0.1))
    with pytest.raises(InputError, match="no single reverse step"):
        make_process(CONFIGS[0]).reverse_coefficients(0, 99, 0.0)


def strided(shape):
    """An operator of our own: every second pixel, blurred with its neighbour to the right."""
    return MatrixFreeOperator(lambda x: (x[::2, ::2] + x[1::2, ::2]) / 2, tuple(shape))


def test_an_operator_of_our_own(monkeypatch):
    monkeypatch.setitem(OPERATORS, "strided", strided)
    process = make_process(replace(CONFIGS[0], operator="strided"))
    assert isinstance(process.operators[1], MatrixFreeOperator) and process.level_shape(2) == (2, 2)
    assert 0.5 <= process.operators[0].lambda_max < 0.51
    with pytest.raises(
        InputError, match=r"process.operator is 'boxes', but must be one of: box, .*strided.*--import MODULE"
    ):
        replace(CONFIGS[0], operator="boxes")
    for name, operator in (("same", identity), ("larger", lambda shape: box([2 * side for side in shape]))):
        monkeypatch.setitem(OPERATORS, name, operator)
        with pytest.raises(InputError, match=r"must take \(8, 8\) to a smaller shape"):
            make_process(replace(CONFIGS[0], operator=name))


def test_levels_halve_the_axes_that_factors_say():
    """Frames but not their number, then both, and so on; the operator leaves the other axes alone."""
    config = ProcessConfig(shape=(4, 8, 16), num_levels=3, num_timesteps=50, factors=((1, 2, 2),))
    process = make_process(config)
    assert process.level_shapes == config.level_shapes == ((4, 8, 16), (4, 4, 8), (4, 2, 4))
    assert replace(config, factors=((1, 2, 2), (2, 1, 2))).level_shapes == ((4, 8, 16), (4, 4, 8), (2, 4, 4))
    x0 = jax.random.normal(jax.random.key(0), (2, 4, 8, 16, 3))
    np.testing.assert_allclose(process.degrade(x0, 1), box((8, 16)).apply(x0), atol=1e-6)
    np.testing.assert_allclose(process.operators[0].lambda_max, 1 / 4)  # of frames, not 1 / 8
    kept = replace(config, resolution_schedule="information", tolerance=1e-3, num_timesteps=200)
    assert make_process(kept).num_levels == 3


def test_factors_that_cannot_be(monkeypatch):
    clip = {"shape": (4, 8, 8), "num_levels": 3}
    for factors, message in (
        (((1, 2, 3),), r"process.factors is \(\(1, 2, 3\),\), but must hold tuples of 1 and 2"),
        (((1, 1, 1),), "with a 2 in each"),
        (((2, 2),), r"but process.shape is \(4, 8, 8\): give each level 3 number"),
    ):
        with pytest.raises(InputError, match=message):
            ProcessConfig(**clip, factors=factors)
    with pytest.raises(InputError, match=r"3 levels \(process.num_levels\) need positive multiples of \(1, 4, 4\), axis"):
        ProcessConfig(shape=(3, 8, 6), num_levels=3, factors=((1, 2, 2),))
    monkeypatch.setitem(OPERATORS, "strided", strided)
    with pytest.raises(InputError, match="'strided' is no product of one matrix per axis.*leave process.factors out"):
        make_process(ProcessConfig(**clip, operator="strided", factors=((1, 2, 2),)))


def test_rectangular_processes_halve_every_axis():
    process = make_process(ProcessConfig(shape=(8, 24), num_levels=3, num_timesteps=50))
    assert process.level_shapes == ((8, 24), (4, 12), (2, 6))
    table = repr(process)
    assert len(table) < 400 and "4x12" in table and "50 timesteps" in table
