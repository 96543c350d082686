"""The compiled sampler against the reference, and solvers that carry more than one earlier prediction."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.process.config import make_process
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator, along_axes
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.noise import NoiseSource, seeded
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.reference import reference_sample
from ssd_jax.sampling.sampler import iterate
from ssd_jax.sampling.search import IdealChain
from ssd_jax.sampling.solvers import SOLVERS, Solver, first_order
from tests.gaussians import GaussianData, natural_covariance, relative_error

NOISE = seeded(jax.random.key(3), np.arange(4))


def three_predictions(process, before, t, s, eta):
    """z + 0.2 (z - z_1) - 0.1 (z_1 - z_2), from the third call on; at an up-step of what the coarse level knows."""
    k_x, k_z, k_n = np.moveaxis(first_order(process, before, t, s, eta), -1, 0)
    m, operator = 1.0, process.transition_operator(s, t)
    if process.levels[s] != process.levels[t]:
        if not isinstance(operator, SeparableOperator):
            return np.stack([k_x, k_z, k_n], axis=-1)
        m = operator.singular_values / operator.lambda_max**0.5
    if len(before) < 2:
        return np.stack([k_x, k_z, k_n], axis=-1)
    return np.stack([k_x, (1 + 0.2 * m**2) * k_z, -0.3 * m * k_z, 0.1 * m * k_z, k_n], axis=-1)


@pytest.fixture
def solvers(monkeypatch):
    """Those of the library and one that carries two predictions."""
    monkeypatch.setitem(SOLVERS, "three_predictions", Solver(three_predictions, 0.5, carried=2))
    return SOLVERS


PROCESSES = {
    "one level": {"num_levels": 1},
    "box": {"num_levels": 3},
    "bilinear": {"num_levels": 3, "operator": "bilinear"},
    "skipped": {"num_levels": 3, "resolution_schedule": "threshold", "thresholds": (0.5, 0.5)},
    "blur": {"num_levels": 2, "blur": 1.0},
}


@cache
def data_of(name: str) -> GaussianData:
    """One for all solvers, so that they share their programs."""
    process = make_process(ProcessConfig(image_size=8, num_timesteps=60, **PROCESSES[name]))
    return GaussianData(process, natural_covariance(8))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", [*SOLVERS, "three_predictions"])
def test_compiled_and_reference_samples_agree(solver, name, solvers):
    data, process = data_of(name), data_of(name).process
    plan = plan_steps(process, solver=solver, num_steps=10)
    assert plan.carried == solvers[solver].carried
    *_, last = iterate(data.denoise, plan, NOISE)
    expected = reference_sample(data.denoise, process, solvers[solver], np.unique(plan.timesteps)[::-1].tolist(), NOISE)
    assert last.x.std() > 0.1
    np.testing.assert_allclose(last.x, expected, atol=2e-5)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TurnedNoise(NoiseSource):
    """Noise along singular directions where a MatrixFreeOperator has it along pixels: V^T xi."""

    inward: Any

    def draw(self, step, shape):
        xi = super().draw(step, shape)
        return along_axes(xi, self.inward[step]) if step in self.inward else xi


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "three_predictions"])
def test_operators_that_are_functions_agree_too(solver, monkeypatch):
    def first_order_up_steps(process, before, t, s, eta):
        if process.levels[s] != process.levels[t]:
            before = ()
        return three_predictions(process, before, t, s, eta)

    monkeypatch.setitem(SOLVERS, "three_predictions", Solver(first_order_up_steps, 0.5, carried=2))
    exact = make_process(ProcessConfig(image_size=8, num_levels=3, num_timesteps=60, operator="bilinear"))
    free = [MatrixFreeOperator(lambda x, m=m: m.apply(x[..., None])[..., 0], m.in_shape) for m in exact.operators]
    log_snr = exact.log_snr - 1e-3 * exact.levels  # the bound on lambda_max is a little above it
    exact, process = (
        ScaleSpaceProcess(exact.shape, log_snr, exact.levels, tuple(each)) for each in (exact.operators, free)
    )
    data, plan = GaussianData(exact, natural_covariance(8)), plan_steps(process, solver=solver, num_steps=12)
    *_, last = iterate(data.denoise, plan, NOISE)
    timesteps = plan.timesteps.tolist()
    changes = {t: exact.transition_operator(s, t) for t, s in pairwise(timesteps)}
    inward = {t: [v.T for v in m.right] for t, m in changes.items() if isinstance(m, SeparableOperator)}
    noise = TurnedNoise(NOISE.keys, NOISE.weights, inward)
    expected = reference_sample(data.denoise, exact, SOLVERS[solver], timesteps, noise)
    np.testing.assert_allclose(last.x, expected, atol=1e-3)


@pytest.mark.parametrize("settings", [{"operator": "bilinear"}, {"operator": "box", "blur": 1.0}], ids=str)
def test_the_exact_error_knows_of_all_that_is_carried(settings, solvers):
    process = make_process(ProcessConfig(image_size=8, num_levels=3, num_timesteps=60, **settings))
    plan = plan_steps(process, solver="three_predictions", num_steps=15)
    spectrum, basis = natural_spectrum((8, 8)), np.kron(dct_basis(8), dct_basis(8))
    covariance = basis.T * spectrum.ravel() @ basis
    drawn = GaussianData(process, covariance).sampled_covariance(plan)
    error = gaussian_error(plan, spectrum)
    np.testing.assert_allclose(error.relative_error, relative_error(drawn, covariance), rtol=1e-7)
    one = plan_steps(process, solver="ddim", eta=0.5, num_steps=15)
    assert abs(gaussian_error(one, spectrum).relative_error / error.relative_error - 1) > 0.1


def test_so_does_the_search_for_timesteps(solvers):
    process = make_process(ProcessConfig(image_size=16, num_levels=3, num_timesteps=100, operator="ideal"))
    plan, spectrum = plan_steps(process, solver="three_predictions", num_steps=15), natural_spectrum((16, 16))
    found = IdealChain(process, spectrum, solvers["three_predictions"]).error(plan.timesteps.tolist())
    np.testing.assert_allclose(found, gaussian_error(plan, spectrum).relative_error, rtol=1e-7)
