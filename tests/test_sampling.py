import itertools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd_jax import sampling
from ssd_jax.config import ModelConfig, ProcessConfig
from ssd_jax.denoiser import Denoiser
from ssd_jax.flexi_unet import FlexiUNet
from ssd_jax.process import make_process
from ssd_jax.sampling import iterate, sample
from ssd_jax.solvers import plan_steps
from tests.gaussians import GaussianData, natural_covariance, relative_error

PROCESS = make_process(ProcessConfig(image_size=4, num_levels=2, num_timesteps=200))
DATA = GaussianData(PROCESS, natural_covariance(4))


@pytest.mark.parametrize(("solver", "num_steps"), [("ddim", 20), ("ancestral", 200)])
def test_samples_have_the_covariance_of_the_plan(solver, num_steps):
    plan = plan_steps(PROCESS, solver=solver, num_steps=num_steps)
    drawn = sample(DATA.denoise, plan, jax.random.key(0), 8192)
    flat = np.moveaxis(np.asarray(drawn, np.float64), -1, 1).reshape(-1, 16)  # channels are independent
    expected = DATA.sampled_covariance(plan)
    np.testing.assert_allclose(flat.T @ flat / len(flat), expected, atol=6 * expected.max() / len(flat) ** 0.5)
    assert relative_error(expected, DATA.covariance) < 0.02


def tiny_denoiser() -> Denoiser:
    config = ModelConfig(widths=(8, 8), attention_levels=(), num_heads=1)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: FlexiUNet(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)
    noise = jax.tree.map(lambda p: jnp.asarray(0.3 * rng.standard_normal(p.shape, np.float32)), nnx.to_pure_dict(state))
    return Denoiser(noise, graphdef)


def test_images_depend_on_key_and_index_only():
    denoiser, plan = tiny_denoiser(), plan_steps(PROCESS, solver="ancestral", num_steps=6)
    whole = sample(denoiser, plan, jax.random.key(5), 4)
    part = sample(denoiser, plan, jax.random.key(5), 2, first_index=2)
    np.testing.assert_allclose(whole[2:], part, atol=1e-5)
    np.testing.assert_array_equal(whole, sample(denoiser, plan, jax.random.key(5), 4))
    assert np.abs(whole - sample(denoiser, plan, jax.random.key(6), 4)).max() > 0.1
    assert np.abs(whole[0] - whole[1]).max() > 0.1


def test_one_program_per_stage_whatever_the_steps():
    denoiser = tiny_denoiser()
    stay, up = cast(Any, sampling._run_stay), cast(Any, sampling._run_up)
    stay.clear_cache()
    up.clear_cache()
    for solver, num_steps in (("ddim", 5), ("ancestral", 9), ("ddim", 200)):
        sample(denoiser, plan_steps(PROCESS, solver=solver, num_steps=num_steps), jax.random.key(num_steps), 4)
    other = Denoiser(jax.tree.map(lambda p: 2 * p, denoiser.parameters), denoiser.graphdef)
    sample(other, plan_steps(PROCESS, num_steps=7, eta=0.5), jax.random.key(0), 4)
    assert stay._cache_size() == 2 and up._cache_size() == 1


def test_snapshots_follow_the_stages():
    plan = plan_steps(PROCESS, num_steps=9)
    denoiser = tiny_denoiser()
    snapshots = list(iterate(denoiser, plan, jax.random.key(5), 2))
    assert [str(s.stage) for s in snapshots] == ["stay1", "up1to0", "stay0"]
    assert [s.x.shape[1] for s in snapshots] == [2, 4, 4] and snapshots[-1].calls == 9
    assert all(s.x.shape == s.z.shape for s in snapshots)
    finer = list(iterate(denoiser, plan, jax.random.key(5), 2, every=2))
    assert len(finer) > 3 and max(b.calls - a.calls for a, b in itertools.pairwise(finer)) <= 2
    np.testing.assert_allclose(finer[-1].x, snapshots[-1].x, atol=1e-6)
    np.testing.assert_array_equal(snapshots[-1].x, snapshots[-1].z)  # (7)


def test_labels_reach_the_denoiser():
    def denoise(x, t, label, *, stage):
        shape = (x.shape[0], *PROCESS.level_shape(stage.out_level), x.shape[-1])
        return jnp.broadcast_to(label[:, None, None, None] / 10.0, shape)

    drawn = sample(denoise, plan_steps(PROCESS, num_steps=4), jax.random.key(0), 3, label=np.array([1, 5, 7]))
    np.testing.assert_allclose(drawn.mean((1, 2, 3)), [0.1, 0.5, 0.7], rtol=1e-6)
