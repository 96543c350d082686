"""Plans: which timesteps they visit, what their rows say, and what they draw of Gaussian data."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator, dct_basis
from ssd_jax.process.process import ScaleSpaceProcess, make_process
from ssd_jax.process.reverse import up_step
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.solvers import MAX_EXTRAPOLATION, SOLVERS, plan_steps, unseen_variance
from ssd_jax.sampling.spacing import SPACINGS
from tests.gaussians import GaussianData, dense, natural_covariance, relative_error

PROCESS = make_process(ProcessConfig(image_size=8, num_levels=3))
ONE_LEVEL = make_process(ProcessConfig(image_size=8, num_levels=1))


@pytest.mark.filterwarnings("ignore:.*fewer than two a level")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [4, 5, 17, 50, 999, 1000])
def test_plans_visit_ends_and_up_steps(num_steps, spacing):
    plan = plan_steps(PROCESS, num_steps=num_steps, spacing=spacing)
    t = plan.timesteps
    assert len(t) == num_steps and t[0] == 999 and t[-1] == 0 and (np.diff(t) < 0).all()
    assert {PROCESS.first_timestep(1), PROCESS.first_timestep(2)} <= set(t.tolist())
    assert sum(len(part.table) for part in plan.stages) == num_steps
    np.testing.assert_array_equal(plan.stages[-1].table[-1], [0, 1, 0, 0])  # (7)


def test_spacing_is_even():
    np.testing.assert_allclose(np.diff(plan_steps(ONE_LEVEL, num_steps=112, spacing="timestep").timesteps), -9)
    for spacing, power in (("log_snr", None), ("edm_rho", 1 / 7)):
        l = np.maximum(ONE_LEVEL.log_snr, -np.log(128))[plan_steps(ONE_LEVEL, num_steps=21, spacing=spacing).timesteps]
        steps = np.diff(l if power is None else -np.exp(-power * l / 2))
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.5)
        np.testing.assert_allclose(steps[:10], steps.mean(), rtol=0.03)  # later ones are few timesteps long


def test_timesteps_may_be_given():
    fixed = [999, PROCESS.first_timestep(2), PROCESS.first_timestep(1), 0]
    given = sorted({*fixed, 990, 500, 100, 3}, reverse=True)
    assert plan_steps(PROCESS, spacing=given).timesteps.tolist() == given
    for wrong in ([*given, 1], given[1:], [t for t in given if t != fixed[1]], np.array(given, float), []):
        with pytest.raises(InputError, match=rf"timesteps must be whole numbers.*from 999 to 0.*{fixed[1]}"):
            plan_steps(PROCESS, spacing=wrong)
    with pytest.raises(InputError, match="num_steps is 9, but 8 timesteps are given"):
        plan_steps(PROCESS, spacing=given, num_steps=9)


def test_bad_plans():
    with pytest.raises(InputError, match="'euler'.*ancestral, ddim, dpmpp_2m, dpmpp_2m_sde"):
        plan_steps(PROCESS, solver="euler")
    with pytest.raises(InputError, match="'even'.*log_snr, timestep, edm_rho, optimal, a list"):
        plan_steps(PROCESS, spacing="even")
    for spacing in ("log_snr", "optimal"):
        with pytest.raises(InputError, match="num_steps is 3.*4 to 1000"):
            plan_steps(PROCESS, num_steps=3, spacing=spacing)
    with pytest.raises(InputError, match="num_steps is 1001"):
        plan_steps(PROCESS, num_steps=1001)
    with pytest.raises(InputError, match="eta is 1.5"):
        plan_steps(PROCESS, eta=1.5)
    with pytest.raises(InputError, match=r"spectrum has shape \(4, 4\).*\(8, 8\)"):
        plan_steps(PROCESS, spectrum=natural_spectrum((4, 4)))
    with pytest.warns(UserWarning, match="5 steps are fewer than two a level"):
        plan_steps(PROCESS, num_steps=5)


def test_plans_print_as_tables():
    plan = plan_steps(PROCESS, num_steps=20)
    lines = str(plan).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", *(str(part.stage) for part in plan.stages), "all"]
    assert lines[1].split()[1:4] == ["2x2", "999", ".."] and "9.21" in lines[-2] and lines[-1].split() == ["all", "20"]
    costly = plan.describe([1e9] * len(plan.stages)).splitlines()
    assert costly[0].endswith("GFLOPs") and costly[-1].split() == ["all", "20", "20"]


def test_one_level_equals_the_published_dpm_solver():
    """Lu et al. 2022, equation for DPM-Solver++(2M), and its SDE form, with lambda = log(a / sigma)."""
    a, sigma = ONE_LEVEL.alpha, ONE_LEVEL.sigma
    half = np.log(a / sigma)
    for solver, sde in (("dpmpp_2m", False), ("dpmpp_2m_sde", True)):
        plan = plan_steps(ONE_LEVEL, solver=solver, num_steps=20)
        t = plan.timesteps
        for i in range(1, 19):
            h, r = half[t[i + 1]] - half[t[i]], (half[t[i]] - half[t[i - 1]]) / (half[t[i + 1]] - half[t[i]])
            if 1 / (2 * r) > MAX_EXTRAPOLATION:
                continue
            decay = np.exp(-h) if sde else 1.0
            pull = a[t[i + 1]] * (1 - np.exp(-2 * h if sde else -h))
            k_n = sigma[t[i + 1]] * np.sqrt(1 - np.exp(-2 * h)) if sde else 0.0
            expected = [sigma[t[i + 1]] / sigma[t[i]] * decay, pull * (1 + 1 / (2 * r)), -pull / (2 * r), k_n]
            np.testing.assert_allclose(plan.stages[0].table[i], expected, rtol=1e-9, atol=1e-12)
        first = plan_steps(ONE_LEVEL, solver="ancestral" if sde else "ddim", num_steps=20).stages[0].table[0]
        np.testing.assert_array_equal(plan.stages[0].table[0], first)  # there is no prediction before


@pytest.mark.parametrize("operator", ["box", "bilinear"])
def test_etas_join_the_solvers(operator):
    process = make_process(ProcessConfig(image_size=8, num_levels=3, operator=operator))
    for one, other, eta in (
        ("dpmpp_2m_sde", "dpmpp_2m", 0.0),
        ("dpmpp_2m", "dpmpp_2m_sde", 1.0),
        ("ancestral", "ddim", 0.0),
    ):
        plans = plan_steps(process, solver=one, eta=eta), plan_steps(process, solver=other)
        for a, b in zip(*(plan.stages for plan in plans), strict=True):
            np.testing.assert_array_equal(a.table, b.table)


def test_up_rows_leap_to_the_next_timestep_of_the_plan():
    plan = plan_steps(PROCESS, solver="ddim", num_steps=12)
    up = plan.stages[1]
    following = max(t for t in plan.timesteps.tolist() if t < up.timesteps[0])
    rows = PROCESS.reverse_coefficients(following, int(up.timesteps[0]), 0.0)
    np.testing.assert_array_equal(up.table[0][..., [0, 1, 3]], rows)


def test_up_steps_extrapolate_the_coarse_image():
    """z + w M^T (M z - z_prev) / lambda_max, as matrices."""
    process = make_process(ProcessConfig(image_size=8, num_levels=2, operator="bilinear"))
    t = plan_steps(process, num_steps=12).timesteps
    before, t, s = t[(i := t.tolist().index(process.first_timestep(1))) - 1 : i + 2].tolist()
    first, second = (SOLVERS[name].row(process, before, t, s) for name in ("ddim", "dpmpp_2m"))
    operator = process.transition_operator(s, t)
    assert isinstance(operator, SeparableOperator)
    m, u, v = dense(operator), np.kron(*operator.left), np.kron(*operator.right)
    half = process.image_log_snr / 2
    w = min((half[s] - half[t]) / (2 * (half[t] - half[before])), MAX_EXTRAPOLATION) / operator.lambda_max
    pull = v * first[..., 1].ravel() @ v.T
    np.testing.assert_allclose(v * second[..., 1].ravel() @ v.T, pull + w * pull @ m.T @ m, atol=1e-12)
    back = (v * second[..., 2].ravel())[:, operator.in_range.ravel()] @ u.T
    np.testing.assert_allclose(back, -w * pull @ m.T, atol=1e-12)
    z_prev, zeros = np.random.default_rng(0).standard_normal((2, 4, 4, 3), np.float32), jnp.zeros((2, 8, 8, 3))
    carried = up_step(
        jnp.zeros_like(z_prev), zeros, zeros, jnp.float32(second), operator.left, operator.right, jnp.asarray(z_prev)
    )
    expected = np.einsum("ij,bjc->bic", back, z_prev.reshape(2, 16, 3)).reshape(2, 8, 8, 3)
    np.testing.assert_allclose(carried, expected, atol=1e-6)


@pytest.mark.parametrize("operator", ["box", "bilinear"])
def test_unseen_variance_against_dense_matrices(operator):
    process = make_process(ProcessConfig(image_size=8, num_levels=3, operator=operator, blur=1.0))
    spectrum = natural_spectrum((8, 8))
    t = process.first_timestep(2)
    plan = plan_steps(process, solver="ancestral", num_steps=200, spectrum=spectrum)
    s = int(plan.timesteps[plan.timesteps.tolist().index(t) + 1])
    basis = np.kron(dct_basis(8), dct_basis(8))
    degrade = dense(process.target_operator(s)) @ dense(process.level_operators[1]) @ basis.T
    z = degrade * spectrum.ravel() @ degrade.T
    m = process.transition_operator(s, t)
    assert isinstance(m, SeparableOperator)
    expected = np.diag(np.kron(*m.right).T @ z @ np.kron(*m.right)).reshape(4, 4) * ~m.in_range
    np.testing.assert_allclose(unseen_variance(process, s, t, spectrum), expected, atol=1e-12)
    up = next(part for part in plan.stages if part.stage.is_up)
    noise = process.reverse_coefficients(s, t, 1.0)[..., -1]
    np.testing.assert_allclose(up.table[0][..., -1] ** 2, noise**2 + process.alpha[s] ** 2 * expected, rtol=1e-9)


def test_a_null_space_that_is_not_known_has_no_variance():
    free = MatrixFreeOperator(lambda x: (x[::2, ::2] + x[1::2, 1::2]) / 2, (4, 4))
    process = ScaleSpaceProcess((4, 4), np.linspace(9, -10, 50), np.arange(50) // 25, (free,))
    assert plan_steps(process, num_steps=8).stages[1].table.shape == (1, 6)
    with pytest.raises(InputError, match="null space is not known"):
        plan_steps(process, num_steps=8, spectrum=natural_spectrum((4, 4)))


COVARIANCE = natural_covariance(8)


def chain_error(solver, num_steps=1000, **process) -> float:
    process = make_process(ProcessConfig(image_size=8, **process))
    plan = plan_steps(process, solver=solver, num_steps=num_steps)
    if process.dissipation is None:
        return gaussian_error(plan, natural_spectrum((8, 8))).relative_error
    return relative_error(GaussianData(process, COVARIANCE).sampled_covariance(plan), COVARIANCE)  # faster at 8 px


@pytest.mark.parametrize("operator", ["box", "bilinear", "bicubic", "gaussian", "ideal"])
@pytest.mark.parametrize("solver", ["ancestral", "ddim"])
def test_the_chain_draws_the_data(solver, operator):
    """With the exact denoiser and 1000 steps the chain's covariance is the data's, up to the step size."""
    one_level = chain_error(solver, num_levels=1)
    preserve = chain_error(solver, num_levels=4, operator=operator)
    published = chain_error(solver, num_levels=4, operator=operator, snr_policy="published")
    assert one_level < 1e-4 and preserve < 2e-4 and published < 1e-3
    assert preserve < 0.6 * published  # what equation (8) is for; the gap grows with size and levels


OTHERS = {
    "blur at one resolution": {"num_levels": 1, "blur": 3.0},
    "blur and downsampling": {"num_levels": 3, "blur": 1.0, "operator": "gaussian"},
    "a level skipped": {"num_levels": 3, "resolution_schedule": "threshold", "thresholds": (0.7, 0.7)},
    "zero terminal SNR": {"num_levels": 3, "zero_terminal_snr": True},
    "by information": {"num_levels": 3, "resolution_schedule": "information", "tolerance": 1e-3},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_other_processes_draw_the_data_too(solver, name):
    """Solvers of second order in 30 steps, the others in 1000."""
    assert chain_error(solver, 30 if solver.startswith("dpmpp") else 1000, **OTHERS[name]) < 2e-4
