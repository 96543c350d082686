import dataclasses
import io
import itertools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from ssd_jax.config import FlexiUNetConfig, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.process.config import make_process
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.sampling import parts
from ssd_jax.sampling.noise import NoiseSource, seeded
from ssd_jax.sampling.parts import UpPlan
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.sampler import iterate, sample, with_progress
from ssd_jax.sharding import make_mesh, split_along_batch
from tests.gaussians import GaussianData, natural_covariance, relative_error
from tests.networks import random_denoiser

CONFIG = ProcessConfig(image_size=4, num_levels=2, num_timesteps=200)
PROCESS = make_process(CONFIG)
DATA = GaussianData(PROCESS, natural_covariance(4))


def noise_of(seed: int, num: int) -> NoiseSource:
    return seeded(jax.random.key(seed), np.arange(num))


def covariance_of(images: jax.Array) -> np.ndarray:
    """Of zero-mean images whose channels are independent, [pixels, pixels]."""
    flat = np.moveaxis(np.asarray(images, np.float64), -1, 1).reshape(-1, images.shape[1] * images.shape[2])
    return flat.T @ flat / len(flat)


@pytest.mark.parametrize(
    ("solver", "num_steps"),
    [
        ("ancestral", 200),
        *(pytest.param(*each, marks=pytest.mark.smoke) for each in (("ddim", 20), ("dpmpp_2m", 8), ("dpmpp_2m_sde", 12))),
    ],
)
def test_samples_have_the_covariance_of_the_plan(solver, num_steps):
    plan = plan_steps(PROCESS, solver=solver, num_steps=num_steps)
    drawn = covariance_of(sample(DATA.denoise, plan, jax.random.key(0), 8192))
    expected = DATA.sampled_covariance(plan)
    np.testing.assert_allclose(drawn, expected, atol=6 * expected.max() / (3 * 8192) ** 0.5)
    assert relative_error(expected, DATA.covariance) < 0.02


@pytest.mark.parametrize("changes", [{"num_levels": 2, "blur": 3.0}, {"num_levels": 3, "thresholds": (0.6, 0.6)}], ids=str)
def test_blur_and_skipped_levels_on_the_device(changes):
    schedule = "threshold" if "thresholds" in changes else "equal"
    process = make_process(ProcessConfig(image_size=4, num_timesteps=100, resolution_schedule=schedule, **changes))
    data, plan = GaussianData(process, natural_covariance(4)), plan_steps(process, num_steps=12)
    drawn = covariance_of(sample(data.denoise, plan, jax.random.key(0), 8192))
    expected = data.sampled_covariance(plan)
    np.testing.assert_allclose(drawn, expected, atol=6 * expected.max() / (3 * 8192) ** 0.5)


def test_an_up_step_blurs_the_prediction_as_far_as_the_state_is():
    """Without noise, and with the right prediction, the step from a_t z_t leads to a_s z_s."""
    config = ProcessConfig(image_size=8, num_levels=2, num_timesteps=100, blur=3.0, noise_schedule="cosine")
    process = make_process(config)
    plan = plan_steps(process, num_steps=10)
    part = next(part for part in plan.stages if part.stage.is_up)
    (t,), s = part.timesteps.tolist(), int(plan.timesteps[plan.timesteps < part.timesteps[0]][0])
    x0 = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    sharp = process.degrade(x0, 1)
    x = process.add_noise(sharp, jnp.array([t]), jnp.zeros_like(sharp))
    assert isinstance(part, UpPlan)
    silent = dataclasses.replace(part, coefficients=part.coefficients * np.array([1, 1, 1, 0]))
    run = dataclasses.replace(plan, stages=(silent,))
    *_, last = iterate(lambda x, t, label, *, stage: x0, run, noise_of(0, 1), start=x)
    np.testing.assert_allclose(last.x, process.add_noise(x0, jnp.array([s]), jnp.zeros_like(x0)), atol=1e-5)


def test_a_function_as_operator_draws_what_its_matrices_draw():
    (operator,) = PROCESS.operators
    free = MatrixFreeOperator(lambda x: operator.apply(x[..., None])[..., 0], operator.in_shape)
    log_snr = PROCESS.log_snr - 1e-3 * PROCESS.levels  # the bound on lambda_max is a little above it
    processes = [ScaleSpaceProcess(PROCESS.shape, log_snr, PROCESS.levels, (m,)) for m in (operator, free)]
    exact, plan = (plan_steps(process, num_steps=8, eta=0.5) for process in processes)
    drawn = covariance_of(sample(DATA.denoise, plan, jax.random.key(0), 8192))
    expected = DATA.sampled_covariance(exact)
    np.testing.assert_allclose(drawn, expected, atol=6 * expected.max() / (3 * 8192) ** 0.5)


def test_blur_instead_of_noise_starts_from_blurred_images():
    process = make_process(ProcessConfig(image_size=8, num_levels=1, num_timesteps=50, noise_schedule="constant", blur=8.0))
    plan = plan_steps(process, num_steps=10, solver="ancestral")
    x0 = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), minval=-1)
    start = process.add_noise(x0, jnp.full(2, 49), jax.random.normal(jax.random.key(1), x0.shape))
    assert float(jnp.std(start - start.mean((1, 2), keepdims=True))) < 0.05  # nothing but the mean colour is left
    drawn = sample(lambda x, t, label, *, stage: x0, plan, jax.random.key(2), 2, start=start)
    np.testing.assert_allclose(drawn, x0, atol=1e-6)
    with pytest.raises(InputError, match=r"x_T-1 of this process is not noise.*start"):
        sample(lambda x, t, label, *, stage: x0, plan, jax.random.key(2), 2)
    with pytest.raises(InputError, match=r"start has shape \(2, 4, 4, 3\)"):
        sample(lambda x, t, label, *, stage: x0, plan, jax.random.key(2), 2, start=start[:, :4, :4])


def tiny_denoiser() -> Denoiser:
    config = FlexiUNetConfig(widths=(8, 8), attention_levels=(), num_heads=1)
    return random_denoiser(config, CONFIG, scale=0.3, seed=1)


def test_images_depend_on_key_and_index_only():
    denoiser, plan = tiny_denoiser(), plan_steps(PROCESS, solver="ancestral", num_steps=6)
    whole = sample(denoiser, plan, jax.random.key(5), 4)
    part = sample(denoiser, plan, jax.random.key(5), 2, first_index=2)
    np.testing.assert_allclose(whole[2:], part, atol=1e-5)
    np.testing.assert_array_equal(whole, sample(denoiser, plan, jax.random.key(5), 4))
    assert np.abs(whole - sample(denoiser, plan, jax.random.key(6), 4)).max() > 0.1
    assert np.abs(whole[0] - whole[1]).max() > 0.05


def test_one_program_per_stage_whatever_the_steps():
    denoiser = tiny_denoiser()
    stay, up = cast(Any, parts._stay), cast(Any, parts._up)
    stay.clear_cache()
    up.clear_cache()
    for solver, num_steps in (("ddim", 5), ("ancestral", 9), ("dpmpp_2m", 8), ("dpmpp_2m_sde", 200)):
        sample(denoiser, plan_steps(PROCESS, solver=solver, num_steps=num_steps), jax.random.key(num_steps), 4)
    other = dataclasses.replace(denoiser, parameters=jax.tree.map(lambda p: 2 * p, denoiser.parameters))
    sample(other, plan_steps(PROCESS, num_steps=7, eta=0.5), jax.random.key(0), 4)
    assert stay._cache_size() == 2 and up._cache_size() == 1


@pytest.mark.nightly  # compiles many chunks
def test_a_memory_limit_splits_large_stages_only():
    denoiser, plan = tiny_denoiser(), plan_steps(PROCESS, solver="ancestral", num_steps=6)
    stay = cast(Any, parts._stay)
    whole = sample(denoiser, plan, jax.random.key(5), 16)
    noise, x = noise_of(5, 16), jnp.zeros((16, 4, 4, 3))

    def memory(stage, x, chunk):
        part = next(part for part in plan.stages if part.stage == stage)
        rows = cast(Any, part)._rows
        bounds = np.int32(0), np.int32(0)
        lowered = stay.lower(denoiser, x, (x,), noise, None, rows, None, *bounds, stage=stage, chunk=chunk)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    coarse, *_, fine = [part.stage for part in plan.stages]
    limit = memory(fine, x, 4)
    assert memory(coarse, x[:, :2, :2], 16) < limit < memory(fine, x, 8)
    stay.clear_cache()
    split = sample(denoiser, plan, jax.random.key(5), 16, memory_limit=limit)
    np.testing.assert_allclose(split, whole, atol=1e-5)
    assert stay._cache_size() == 2
    sample(denoiser, plan, jax.random.key(6), 16, memory_limit=limit)
    assert stay._cache_size() == 2
    shared = jax.device_put(noise, split_along_batch(make_mesh()))
    *_, drawn = iterate(denoiser, plan, shared, memory_limit=memory(fine, x, 1))
    np.testing.assert_allclose(drawn.x, whole, atol=1e-5)
    assert drawn.x.addressable_shards[0].data.shape == (2, 4, 4, 3)
    with pytest.raises(InputError, match=r"memory_limit is 1 bytes, but stage stay1 needs \d+ for 1 image"):
        sample(denoiser, plan, jax.random.key(5), 16, memory_limit=1)


def test_snapshots_follow_the_stages():
    plan = plan_steps(PROCESS, num_steps=9)
    denoiser = tiny_denoiser()
    snapshots = list(iterate(denoiser, plan, noise_of(5, 2)))
    assert [str(s.stage) for s in snapshots] == ["stay1", "up1to0", "stay0"]
    assert [s.x.shape[1] for s in snapshots] == [2, 4, 4] and snapshots[-1].calls == 9
    assert all(s.x.shape == s.z.shape for s in snapshots)
    finer = list(iterate(denoiser, plan, noise_of(5, 2), every=2))
    assert len(finer) > 3 and max(b.calls - a.calls for a, b in itertools.pairwise(finer)) <= 2
    np.testing.assert_allclose(finer[-1].x, snapshots[-1].x, atol=1e-6)
    np.testing.assert_array_equal(snapshots[-1].x, snapshots[-1].z)  # (7)


def test_all_devices_share_a_batch():
    plan = plan_steps(PROCESS, solver="ancestral", num_steps=6)
    alone = sample(DATA.denoise, plan, jax.random.key(5), 16)
    shared = jax.device_put(noise_of(5, 16), split_along_batch(make_mesh()))
    *_, drawn = iterate(DATA.denoise, plan, shared)
    assert len(drawn.x.sharding.device_set) == 8 and drawn.x.addressable_shards[0].data.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(drawn.x, alone, atol=1e-5)


def test_a_bar_counts_calls():
    plan = plan_steps(PROCESS, num_steps=9)
    with tqdm(total=9, disable=False, file=io.StringIO()) as bar:
        counts = [bar.n for _ in with_progress(iterate(DATA.denoise, plan, noise_of(5, 2), every=2), bar)]
    assert bar.n == 9 and counts == sorted(counts) and 0 < counts[-1] < 9


def test_images_have_as_many_channels_as_they_are_said_to_or_as_their_start():
    plan = plan_steps(PROCESS, solver="ancestral", num_steps=6)
    grey = sample(DATA.denoise, plan, jax.random.key(5), 2, channels=1)
    assert grey.shape == (2, 4, 4, 1)
    start = jax.random.normal(jax.random.key(0), (2, 2, 2, 5))
    drawn = sample(DATA.denoise, plan, jax.random.key(5), 2, start=start)
    assert drawn.shape == (2, 4, 4, 5)
    with pytest.raises(InputError, match=r"shape \(2, 4, 4, 5\), but x_T-1 of this plan has shape \(2, 2, 2, 5\)"):
        sample(DATA.denoise, plan, jax.random.key(5), 2, start=drawn)


def test_labels_reach_the_denoiser():
    def denoise(x, t, label, *, stage):
        shape = (x.shape[0], *PROCESS.level_shape(stage.out_level), x.shape[-1])
        return jnp.broadcast_to(label[:, None, None, None] / 10.0, shape)

    drawn = sample(denoise, plan_steps(PROCESS, num_steps=4), jax.random.key(0), 3, label=np.array([1, 5, 7]))
    np.testing.assert_allclose(drawn.mean((1, 2, 3)), [0.1, 0.5, 0.7], rtol=1e-6)
