"""Exact errors of few steps: orders of convergence, the numbers that are promised, the best timesteps."""

from functools import cache

import numpy as np
import pytest

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling import search
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.search import Budget, IdealChain, affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.sampling.spacing import SPACINGS, fixed_timesteps, lay_out

SPECTRUM = natural_spectrum((64, 64))
NIGHTLY = pytest.mark.nightly


@cache
def visited(plan: Plan) -> list[int]:
    """The timesteps of a plan without churn, each once, however often it calls there."""
    return np.unique(plan.timesteps)[::-1].tolist()


def process_64(num_levels: int = 4) -> ScaleSpaceProcess:
    return make_process(ProcessConfig(image_size=64, num_levels=num_levels, operator="ideal"))


def error(solver="dpmpp_2m", num_levels=4, **options) -> float:
    return gaussian_error(plan_steps(process_64(num_levels), solver=solver, **options), SPECTRUM).relative_error


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("policy", ["preserve", "published"])
def test_scalar_recursions_agree_with_matrices(solver, policy):
    thresholds = (0.4, 0.6, 0.6)
    settings = {"resolution_schedule": "threshold", "thresholds": thresholds, "snr_policy": policy}
    process = make_process(ProcessConfig(image_size=16, operator="ideal", **settings))
    spectrum = natural_spectrum((16, 16)) * np.random.default_rng(0).uniform(0.5, 2, (16, 16))
    plan = plan_steps(process, solver=solver, num_steps=12)
    found = IdealChain(process, spectrum, SOLVERS[solver]).error(visited(plan))
    np.testing.assert_allclose(found, gaussian_error(plan, spectrum).relative_error, rtol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("thresholds", [(), (0.4, 0.6, 0.6)])
def test_scalar_recursions_agree_with_matrices_under_blur(solver, unseen, thresholds):
    settings = {
        "resolution_schedule": "threshold",
        "thresholds": thresholds,
        "num_levels": len(thresholds) + 1,
        "blur": 2.0,
    }
    process = make_process(ProcessConfig(image_size=16, operator="ideal", **settings))
    spectrum = natural_spectrum((16, 16)) * np.random.default_rng(0).uniform(0.5, 2, (16, 16))
    plan = plan_steps(process, solver=solver, num_steps=12, spectrum=spectrum if unseen else None)
    found = IdealChain(process, spectrum, SOLVERS[solver], draw_unseen=unseen).error(visited(plan))
    np.testing.assert_allclose(found, gaussian_error(plan, spectrum).relative_error, rtol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("unseen", [False, True])
def test_a_plan_compared_with_another_has_the_error_that_it_has_alone(solver, unseen):
    process = make_process(ProcessConfig(image_size=16, num_levels=3, blur=2.0))
    chain, alone = (IdealChain(process, natural_spectrum((16, 16)), SOLVERS[solver], draw_unseen=unseen) for _ in range(2))
    known = lay_out(process, 12, "log_snr").tolist()
    chain.compare_with(known)
    fixed, free = fixed_timesteps(process).tolist(), [t for t in known if t not in fixed_timesteps(process)]
    moved = [[t + 2 * (t == other) for t in known] for other in free[1:]]
    for plan in [known, *moved, [t for t in known if t not in free[2:5]], sorted({*known, 111, 333}, reverse=True), fixed]:
        np.testing.assert_allclose(chain.error(plan), alone.error(plan), rtol=1e-9)


def test_coefficients_that_are_alike_count_as_the_same(monkeypatch):
    process = make_process(ProcessConfig(image_size=32, num_levels=3, blur=2.0))
    plan = lay_out(process, 16, "log_snr").tolist()
    exact = IdealChain(process, natural_spectrum((32, 32)), SOLVERS["dpmpp_2m"])
    monkeypatch.setattr(search, "MAX_GROUPS", 1)
    merged = IdealChain(process, natural_spectrum((32, 32)), SOLVERS["dpmpp_2m"])
    assert len(merged.variance) < 0.5 * len(exact.variance)
    np.testing.assert_allclose(merged.error(plan), exact.error(plan), rtol=0.02)


@pytest.mark.parametrize(
    ("solver", "order"), [("ddim", 1), ("ancestral", 1), ("dpmpp_2m", 2), ("heun", 2), ("dpmpp_3m", 3), ("unipc", 3)]
)
def test_order_of_convergence(solver, order):
    """The standard deviation of a coefficient is off by O(h^order), so that the error falls as h^(2 order) or faster."""
    steps = np.array([40, 56, 80])
    # Fine timesteps, so that they do not round the steps; at the ends noise and signal are too little to matter.
    process = ScaleSpaceProcess((8, 8), np.linspace(12, -16, 400_001), np.zeros(400_001, int))
    even = [np.rint(np.linspace(400_000, 0, n)).astype(int).tolist() for n in steps.tolist()]
    plans = [plan_steps(process, solver=solver, spacing=each) for each in even]
    errors = [gaussian_error(plan, natural_spectrum((8, 8))).relative_error for plan in plans]
    slope = -np.polyfit(np.log(steps - 1), np.log(errors), 1)[0]
    assert 0.85 * 2 * order < slope < (1.15 if order < 3 else 1.5) * 2 * order


@pytest.mark.parametrize(("num_steps", "bound"), [(50, 1.3e-5), (30, 4e-5), (20, 2e-4)])
def test_few_steps_at_64_px(num_steps, bound):
    assert error(num_steps=num_steps) <= bound


def test_thirty_steps_beat_a_thousand_ancestral_ones():
    assert error(num_steps=30) < 0.6 * error("ancestral", num_levels=1, num_steps=1000)


@pytest.mark.parametrize(("num_steps", "bound"), [(50, 8e-6), (1000, 1e-6)])
def test_null_space_variance_lowers_the_floor(num_steps, bound):
    assert error(num_steps=num_steps, spectrum=SPECTRUM) <= bound < 2 * error(num_steps=num_steps)


@pytest.mark.parametrize("operator", ["ideal", "box", "bilinear"])
def test_optimal_timesteps_need_few_calls(operator):
    """12 for less than the 6.1e-5 of 1000 ancestral ones; at 32 px where operators couple frequencies, for speed."""
    size, levels = (64, 4) if operator == "ideal" else (32, 3)
    process = make_process(ProcessConfig(image_size=size, num_levels=levels, operator=operator))
    plan = plan_steps(process, num_steps=12, spacing="optimal")
    assert len(plan.timesteps) == 12 and gaussian_error(plan, natural_spectrum(process.shape)).relative_error <= 6.1e-5


def test_optimal_timesteps_know_of_the_null_space_variance():
    assert error(num_steps=16, spacing="optimal", spectrum=SPECTRUM) < 2e-5


def test_optimal_timesteps_suit_other_slopes():
    plan = plan_steps(process_64(), num_steps=16, spacing="optimal")
    for slope in (1.5, 2.5, 3.0):
        spectrum = natural_spectrum((64, 64), slope=slope)
        even = gaussian_error(plan_steps(process_64(), num_steps=16), spectrum).relative_error
        assert gaussian_error(plan, spectrum).relative_error < 0.2 * even


def test_optimal_timesteps_keep_to_a_budget():
    process = process_64()
    start = lay_out(process, 14, "log_snr").tolist()

    def cost(t: int) -> float:
        return 4.0 ** -float(process.levels[t])

    found = optimal_timesteps(process, SOLVERS["dpmpp_2m"], start, budget=Budget(sum(map(cost, start)), cost)).tolist()
    assert sum(map(cost, found)) <= sum(map(cost, start)) * (1 + 1e-6)
    plan = plan_steps(process, spacing=found)
    assert gaussian_error(plan, SPECTRUM).relative_error < 0.2 * error(num_steps=14)


def test_what_is_left_of_a_budget_is_spent():
    process, solver = process_64(), SOLVERS["dpmpp_2m"]
    start = lay_out(process, 10, "log_snr").tolist()
    found = optimal_timesteps(process, solver, start, budget=Budget(11.0))
    assert len(found) == 11
    chain = IdealChain(process, SPECTRUM, solver)
    assert chain.error(found.tolist()) < 0.9 * chain.error(optimal_timesteps(process, solver, start).tolist())


def test_too_small_a_budget():
    with pytest.raises(InputError, match=r"the budget is 1, but the shortest plan costs 5; give more"):
        affordable_timesteps(process_64(), SOLVERS["ddim"], Budget(1.0))


def test_optimal_timesteps_need_few_calls_under_blur():
    """By the matrices of the process's own operator."""
    process = make_process(ProcessConfig(image_size=16, num_levels=3, blur=2.0))
    spectrum = natural_spectrum((16, 16))
    even, best = (plan_steps(process, num_steps=16, spacing=spacing) for spacing in ("log_snr", "optimal"))
    assert gaussian_error(best, spectrum).relative_error < 0.25 * gaussian_error(even, spectrum).relative_error


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("slope", [pytest.param(1.0, marks=NIGHTLY), 2.0, pytest.param(3.0, marks=NIGHTLY)])
def test_no_number_of_steps_blows_up(spacing, slope):
    process, solver = process_64(), SOLVERS["dpmpp_2m"]
    chain = IdealChain(process, natural_spectrum((64, 64), slope=slope), solver)
    steps = [*range(5, 32), 36, 41, 47, 54, 63, 75, 90, 120, 180, 300, 500, 707, 999, 1000]
    errors = np.array([chain.error(lay_out(process, n, spacing).tolist()) for n in steps])
    assert errors[0] < 0.7 and (errors[5:] < 0.05).all() and errors[-1] < 1e-4
    assert (errors[1:] < 10 * np.minimum.accumulate(errors)[:-1] + 1e-4).all()
