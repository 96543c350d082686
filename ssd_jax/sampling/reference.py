"""The whole algorithm on one screen, step by step in plain code: to read, and to test the compiled sampler against."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.process.operators import SeparableOperator, along_axes
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.noise import NoiseSource
from ssd_jax.sampling.solvers import Solver


def reference_sample(
    denoise: Denoise, process: ScaleSpaceProcess, solver: Solver, timesteps: Sequence[int], noise: NoiseSource
) -> jax.Array:
    """Draws what `sampler.iterate` draws with a plan that visits these timesteps, [batch, *process.shape, 3].

    Left out: operators that are only functions, classes, states of one's own, and the null-space variance (6').
    """
    stages = {t: stage for stage in process.stages for t in range(stage.t_min, stage.t_max + 1)}
    x, earlier = noise.draw(process.num_timesteps, (*process.level_shape(process.used_levels[-1]), 3)), []
    for before, t, s in solver.steps(process, timesteps):
        z = z_s = denoise(x, jnp.full(len(x), t), None, stage=stages[t])
        if stages[t].is_up:  # M = U diag(m) V^T
            operator, blur = process.transition_operator(s, t), process.target_operator(s)
            sharp = process.level_operators[stages[t].in_level]
            assert isinstance(operator, SeparableOperator) and isinstance(sharp, SeparableOperator)
            u, v, lift = operator.left, operator.right, [np.linalg.pinv(matrix) for matrix in sharp.matrices]
            z_s = z if blur is None else blur.apply(z)
        else:  # M = I, or a blur, which is diagonal in the DCT
            lift = [np.eye(n) for n in x.shape[1:-1]]
            u = v = process.frequency_basis(stages[t].in_level) or lift
        inward = [np.pad(a.T, ((0, len(b) - len(a)), (0, 0))) for a, b in zip(u, v, strict=True)]  # U^T, then zeros
        k_x, k_z, *k_earlier, k_n = np.moveaxis(solver.coefficients(process, before, t, s), -1, 0)[..., None]
        total = k_x * along_axes(x, inward) + k_z * along_axes(z_s, [a.T for a in v]) + k_n * noise.draw(t, z.shape[1:])
        for k, y in zip(k_earlier, earlier, strict=False):  # at first there are fewer than the solver could use
            total += k * along_axes(y, inward)
        x, earlier = along_axes(total, v), [z, *(along_axes(y, lift) for y in earlier)][: solver.carried]  # (6)
    return denoise(x, jnp.zeros(len(x), int), None, stage=stages[0])  # (7)
