import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process import make_process
from ssd_jax.solvers import SOLVERS, SPACINGS, plan_steps
from tests.gaussians import GaussianData, natural_covariance, relative_error

PROCESS = make_process(ProcessConfig(image_size=8, num_levels=3))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [4, 5, 17, 50, 999, 1000])
def test_plans_visit_ends_and_up_steps(num_steps, spacing):
    plan = plan_steps(PROCESS, num_steps=num_steps, spacing=spacing)
    t = plan.timesteps
    assert len(t) == num_steps and t[0] == 999 and t[-1] == 0 and (np.diff(t) < 0).all()
    assert {PROCESS.first_timestep(1), PROCESS.first_timestep(2)} <= set(t.tolist())
    assert sum(len(part.table) for part in plan.stages) == num_steps
    np.testing.assert_array_equal(plan.stages[-1].table[-1], [0, 1, 0])  # (7)


def test_spacing_is_even():
    process = make_process(ProcessConfig(image_size=8, num_levels=1))
    np.testing.assert_allclose(np.diff(plan_steps(process, num_steps=112, spacing="timestep").timesteps), -9)
    l = process.log_snr[plan_steps(process, num_steps=21, spacing="log_snr").timesteps]
    np.testing.assert_allclose(np.diff(l), (l[-1] - l[0]) / 20, rtol=0.35)  # whole timesteps round it


def test_up_rows_leap_to_the_next_timestep_of_the_plan():
    plan = plan_steps(PROCESS, num_steps=12)
    up = plan.stages[1]
    following = int(plan.stages[2].timesteps[0])
    np.testing.assert_array_equal(up.table[0], PROCESS.reverse_coefficients(following, int(up.timesteps[0]), 0.0))


def test_bad_plans():
    with pytest.raises(InputError, match="'euler'.*ancestral, ddim"):
        plan_steps(PROCESS, solver="euler")
    with pytest.raises(InputError, match="'even'.*log_snr"):
        plan_steps(PROCESS, spacing="even")
    with pytest.raises(InputError, match="num_steps is 3.*4 to 1000"):
        plan_steps(PROCESS, num_steps=3)
    with pytest.raises(InputError, match="num_steps is 1001"):
        plan_steps(PROCESS, num_steps=1001)
    with pytest.raises(InputError, match="eta is 1.5"):
        plan_steps(PROCESS, eta=1.5)


COVARIANCE = natural_covariance(8)


def chain_error(solver, **process) -> float:
    process = make_process(ProcessConfig(image_size=8, **process))
    plan = plan_steps(process, solver=solver, num_steps=1000)
    return relative_error(GaussianData(process, COVARIANCE).sampled_covariance(plan), COVARIANCE)


@pytest.mark.parametrize("operator", ["box", "bilinear", "bicubic", "gaussian", "ideal"])
@pytest.mark.parametrize("solver", SOLVERS)
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
    assert chain_error(solver, **OTHERS[name]) < 2e-4
