"""The jump rule that launch.studies.solvers compares with equation (6)."""

import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.sampling.parts import UpPlan


@pytest.mark.nightly  # imports a command
def test_the_jump_rule_repeats_pixels_and_whitens_the_noise():
    from launch.studies.solvers import jumping

    process = make_process(ProcessConfig(image_size=8, num_levels=2))
    plan, calls = jumping(process, 12)
    assert calls == plan.calls - 1
    (up,) = [part for part in plan.stages if isinstance(part, UpPlan)]
    t = int(up.timesteps[0])
    k_x, k_z, _, k_n = np.moveaxis(up.coefficients, -1, 0)
    right, left = np.kron(*up.operator.right), np.kron(*up.operator.left)
    inward = np.zeros((64, 16))
    inward[up.operator.in_range.ravel()] = left.T
    enlarge = (right * k_x.ravel()) @ inward
    repeat = np.kron(np.kron(np.eye(4), np.ones((2, 1))), np.kron(np.eye(4), np.ones((2, 1))))
    np.testing.assert_allclose(enlarge, process.sigma[t - 1] / process.sigma[t] / 2 * repeat, atol=1e-12)
    noise = (right * k_n.ravel() ** 2) @ right.T
    block = noise[np.ix_([0, 1, 8, 9], [0, 1, 8, 9])]
    np.testing.assert_allclose(block / block[0, 0], np.eye(4) * 4 / 3 - 1 / 3, atol=1e-9)  # gamma = -1/3
    np.testing.assert_allclose(
        process.sigma[t] ** 2 * enlarge @ enlarge.T + noise, process.sigma[t - 1] ** 2 * np.eye(64), atol=1e-9
    )
    np.testing.assert_array_equal(k_z, 0)
    with pytest.raises(InputError, match="the jump rule repeats pixels"):
        jumping(make_process(ProcessConfig(image_size=8, num_levels=2, operator="bilinear")), 12)
