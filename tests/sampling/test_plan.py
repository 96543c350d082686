"""Plans: which timesteps they visit, and what they know of the data."""

import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.parts import MatrixFreeUpPlan
from ssd_jax.sampling.plan import plan_steps, unseen_variance
from ssd_jax.sampling.spacing import SPACINGS
from tests.gaussians import dense, table

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
    assert sum(len(table(part)) for part in plan.stages) == num_steps
    np.testing.assert_array_equal(table(plan.stages[-1])[-1], [0, 1, 0, 0])  # (7)


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
    np.testing.assert_allclose(table(up)[0][..., -1] ** 2, noise**2 + process.alpha[s] ** 2 * expected, rtol=1e-9)


def test_a_null_space_that_is_not_known_has_no_variance():
    free = MatrixFreeOperator(lambda x: (x[::2, ::2] + x[1::2, 1::2]) / 2, (4, 4))
    process = ScaleSpaceProcess((4, 4), np.linspace(9, -10, 50), np.arange(50) // 25, (free,))
    part = plan_steps(process, num_steps=8).stages[1]
    assert isinstance(part, MatrixFreeUpPlan) and part.constants.shape == (6,)
    with pytest.raises(InputError, match="null space is not known"):
        plan_steps(process, num_steps=8, spectrum=natural_spectrum((4, 4)))
