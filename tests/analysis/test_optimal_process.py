"""Where to change resolution."""

import pytest

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.analysis.optimal_process import optimal_boundaries
from ssd_jax.config import ProcessConfig
from ssd_jax.process.config import make_process
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.search import affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS


@pytest.mark.parametrize("budget", [pytest.param(3.0, marks=pytest.mark.nightly), 4.0])
def test_optimal_boundaries(budget):
    """They beat the best timesteps of the boundaries that the search started from, at the same cost."""
    config = ProcessConfig(image_size=16, num_levels=3, operator="ideal", gamma=0.3)
    solver, spectrum = SOLVERS["dpmpp_2m"], natural_spectrum((16, 16))

    def pay(process):
        return lambda t: 4.0 ** -float(process.levels[t])

    process = make_process(config)
    start = affordable_timesteps(process, budget, pay(process)).tolist()
    assert sum(map(pay(process), start)) <= budget
    kept = optimal_timesteps(process, solver, start, spectrum, cost=pay(process), budget=budget)
    moved, found = optimal_boundaries(config, solver, budget, pay, spectrum)
    assert sum(map(pay(make_process(moved)), found.tolist())) <= budget * (1 + 1e-6)
    errors = [
        gaussian_error(plan_steps(p, spacing=t), spectrum).relative_error
        for p, t in ((process, kept), (make_process(moved), found))
    ]
    assert errors[1] < 0.1 * errors[0]
