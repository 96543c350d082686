"""How many levels, where to change them, how much blur."""

from dataclasses import replace

import numpy as np
import pytest

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.analysis.optimal_process import largest_leap, optimal_process
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.spectrum import information, natural_spectrum
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.search import Budget, affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS

CONFIG = ProcessConfig(image_size=8, num_levels=2, num_timesteps=100, operator="ideal", gamma=5.0)
SOLVER, SPECTRUM = SOLVERS["dpmpp_2m"], natural_spectrum((8, 8))


def pay(process):
    return lambda t: 4.0 ** -float(process.levels[t])


def mean_level(process):
    return float(process.levels.mean())


def test_it_beats_the_best_timesteps_of_the_process_that_the_search_began_with():
    process = make_process(CONFIG)
    budget = Budget(4.0, pay(process))
    kept = optimal_timesteps(
        process, SOLVER, affordable_timesteps(process, SOLVER, budget).tolist(), SPECTRUM, budget=budget
    )
    best, found = optimal_process(CONFIG, SOLVER, 4.0, pay, SPECTRUM)
    assert sum(map(pay(make_process(best)), found.tolist())) <= 4.0 * (1 + 1e-6)
    errors = [
        gaussian_error(plan_steps(p, spacing=t), SPECTRUM).relative_error
        for p, t in ((process, kept), (make_process(best), found))
    ]
    assert errors[1] < 0.1 * errors[0]


def test_it_keeps_to_limits_though_the_search_begins_beyond_them():
    def excess(process):
        return max(mean_level(process) - 0.5, 0.0)

    assert mean_level(make_process(CONFIG)) > 0.8
    best, _ = optimal_process(CONFIG, SOLVER, 4.0, pay, SPECTRUM, excess=excess)
    assert 0.4 < mean_level(make_process(best)) <= 0.5  # the best without is at 0.63


def test_limits_that_no_process_keeps_to():
    with pytest.raises(InputError, match="was found that keeps to all limits; the closest exceeds one by 300%: allow more"):
        optimal_process(CONFIG, SOLVER, 4.0, pay, SPECTRUM, excess=lambda process: 3.0)
    with pytest.raises(InputError, match="no process of at most 1 level"):
        optimal_process(replace(CONFIG, num_levels=1), SOLVER, 1.5, pay, SPECTRUM)
    with pytest.raises(InputError, match="budget is 0"):
        optimal_process(CONFIG, SOLVER, 0.0, pay, SPECTRUM)


def test_the_largest_leap():
    """Of levels that begin where the image's log-SNR is l, 8 px -> 2 px: what the frequencies 2 to 7 tell."""
    config = ProcessConfig(image_size=8, resolution_schedule="threshold", thresholds=(0.5, 0.5), num_levels=3)
    process = make_process(config)
    l = float(process.image_log_snr[process.first_timestep(2)])
    whole, coarse = information(l, SPECTRUM) * 64, 0.5 * np.log1p(np.exp(l) * SPECTRUM[:2, :2]).sum()
    np.testing.assert_allclose(largest_leap(process, SPECTRUM), whole - coarse, rtol=1e-6)
    blurred = make_process(replace(config, blur=4.0))
    assert largest_leap(blurred, SPECTRUM) < 0.1 * largest_leap(process, SPECTRUM)
    assert largest_leap(make_process(ProcessConfig(image_size=8, num_levels=1)), SPECTRUM) == 0
