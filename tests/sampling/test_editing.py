"""Variations, super-resolution, inpainting and interpolation of Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.analysis.error import gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.process import ScaleSpaceProcess, compose
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.editing import inpainting, matching, noised, resampled, timestep_of
from ssd_jax.sampling.noise import interpolated, seeded
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.sampler import iterate, sample
from tests.gaussians import GaussianData, natural_covariance, table

PROCESS = make_process(ProcessConfig(image_size=8, num_levels=3, num_timesteps=100))
DATA = GaussianData(PROCESS, natural_covariance(8))
KEY = jax.random.key(0)
NUM = 4096
T = jnp.zeros(1, int)


def gaussian_images(num: int) -> jax.Array:
    """Of the distribution of DATA, float32 [num, 8, 8, 3]."""
    root = np.linalg.cholesky(DATA.covariance + 1e-9 * np.eye(64))
    eps = np.random.default_rng(0).standard_normal((num, 64, 3))
    return jnp.asarray((root @ eps).reshape(num, 8, 8, 3), jnp.float32)


def covariance_of(images, pixels: int = 64) -> np.ndarray:
    flat = np.moveaxis(np.asarray(images, np.float64), -1, 1).reshape(-1, pixels)
    return flat.T @ flat / len(flat)


def variance_ratio(images) -> float:
    return float(np.trace(covariance_of(images)) / np.trace(DATA.covariance))


@pytest.mark.parametrize("strength", [0.1, 0.3, 1.0])
def test_variations_are_of_the_data_and_near_the_image_if_weak(strength):
    plan = plan_steps(PROCESS, num_steps=20, start=timestep_of(PROCESS, strength))
    assert plan.timesteps[0] == round(99 * strength) and plan.timesteps[-1] == 0
    x0 = gaussian_images(NUM)
    drawn = sample(DATA.denoise, plan, KEY, NUM, start=noised(plan, x0, seeded(KEY, np.arange(NUM))))
    assert abs(variance_ratio(drawn) - 1) < 0.03
    correlation = float((drawn * x0).mean() / (x0**2).mean())
    low, high = {0.1: (0.8, 0.95), 0.3: (0.4, 0.6), 1.0: (-0.05, 0.05)}[strength]
    assert low < correlation < high


def blurring(operator: str) -> ScaleSpaceProcess:
    return make_process(ProcessConfig(image_size=8, num_levels=3, num_timesteps=100, blur=4.0, operator=operator))


def test_super_resolution_of_a_process_that_blurs_keeps_the_thumbnail_sharp():
    """The thumbnail is shrunk, not blurred as the level's states are, and so is the result's."""
    process = blurring("box")
    data, (shrink, *_) = GaussianData(process, natural_covariance(8)), process.operators
    y = shrink.apply(gaussian_images(NUM))
    plan = plan_steps(process, num_steps=12, start=process.first_timestep(1))
    start = noised(plan, y, seeded(KEY, np.arange(NUM)))
    drawn = sample(matching(data.denoise, process, y), plan, KEY, NUM, start=start)
    np.testing.assert_allclose(shrink.apply(drawn), y, atol=2e-5)
    assert 0.9 < variance_ratio(drawn) < 1.03


@pytest.mark.parametrize("level", [1, 2])
def test_a_process_that_blurs_blurs_thumbnails_as_it_does_images(level):
    """Exactly, if shrinking couples no frequencies: the state to begin with, and predictions that are right already."""
    process, x0 = blurring("ideal"), gaussian_images(2)
    y = compose(process.operators[:level]).apply(x0)
    plan, noise = plan_steps(process, num_steps=12, start=process.first_timestep(level)), seeded(KEY, np.arange(2))
    assert np.abs(process.degrade(x0, level) - y).max() > 0.05
    np.testing.assert_allclose(noised(plan, y, noise), noised(plan, x0, noise), atol=1e-5)
    right = matching(lambda x, t, label, *, stage: process.degrade(x0, stage.out_level), process, y)
    for stage in process.stages:
        z = process.degrade(x0, stage.out_level)
        np.testing.assert_allclose(right(z, T, None, stage=stage), z, atol=1e-4)


@pytest.mark.parametrize("kind", ["matrices", "function"])
def test_super_resolution_keeps_the_thumbnail(kind):
    process = PROCESS
    if kind == "function":  # the same operators, as functions; the bound on lambda_max is a little above it
        free = [MatrixFreeOperator(lambda x, m=m: m.apply(x[..., None])[..., 0], m.in_shape) for m in PROCESS.operators]
        process = ScaleSpaceProcess(PROCESS.shape, PROCESS.log_snr - 1e-3 * PROCESS.levels, PROCESS.levels, tuple(free))
    num = NUM if kind == "matrices" else 8
    y = PROCESS.degrade(gaussian_images(num), 1)
    plan = plan_steps(process, num_steps=12, start=process.first_timestep(1))
    start = noised(plan, y, seeded(KEY, np.arange(num)))
    drawn = sample(matching(DATA.denoise, process, y), plan, KEY, num, start=start)
    np.testing.assert_allclose(PROCESS.degrade(drawn, 1), y, atol=2e-5 if kind == "matrices" else 1e-3)
    if kind == "matrices":
        assert 0.93 < variance_ratio(drawn) < 1.03  # and the detail that the thumbnail lacks is there
        once = sample(
            matching(DATA.denoise, process, y[:1]), plan, KEY, 2, start=noised(plan, y[:1], seeded(KEY, np.arange(2)))
        )
        assert np.abs(once[0] - once[1]).max() > 0.1 and np.abs(PROCESS.degrade(once, 1) - y[:1]).max() < 2e-5


def test_inpainting_keeps_what_is_known_and_resampling_makes_the_rest_agree():
    known = np.zeros((8, 8), bool)
    known[:, :5] = True  # the boundary runs through pixels of the coarse levels
    x0, errors, painted = gaussian_images(NUM // 2), {}, ~known.ravel()
    for times in (1, 4):
        plan = resampled(plan_steps(PROCESS, solver="ancestral", num_steps=16), times)
        drawn = sample(inpainting(DATA.denoise, PROCESS, x0, known), plan, KEY, NUM // 2)
        np.testing.assert_array_equal(drawn[:, known], x0[:, known])
        wrong = covariance_of(drawn) - DATA.covariance
        errors[times] = np.abs(wrong[painted][:, ~painted]).max()  # of painted with known pixels:
    assert errors[4] < 0.6 * errors[1] < 0.05, errors


@pytest.mark.nightly
def test_clips_are_continued_and_get_more_frames():
    """What follows the first frames agrees with them; frames between those that are given keep their means."""
    num, factors = NUM // 4, ((2, 1, 1), (1, 2, 2))  # fewer frames, then smaller ones
    process = make_process(ProcessConfig(shape=(4, 4, 4), factors=factors, num_levels=3, num_timesteps=100))
    over_time = 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    data = GaussianData(process, np.kron(over_time, natural_covariance(4)))
    root = np.linalg.cholesky(data.covariance)
    eps = np.random.default_rng(0).standard_normal((num, 64, 3))
    x0 = jnp.asarray((root @ eps).reshape(num, 4, 4, 4, 3), jnp.float32)
    known = np.broadcast_to(np.arange(4)[:, None, None] < 2, (4, 4, 4))
    plan = resampled(plan_steps(process, solver="ancestral", num_steps=16), 4)
    drawn = sample(inpainting(data.denoise, process, x0, known), plan, KEY, num)
    np.testing.assert_array_equal(drawn[:, :2], x0[:, :2])
    painted = ~known.ravel()
    found, right = (each[painted][:, ~painted] for each in (covariance_of(drawn), data.covariance))
    assert right.max() > 0.15 and np.abs(found - right).max() < 0.05, np.abs(found - right).max()
    y = process.degrade(x0, 1)
    assert y.shape == (num, 2, 4, 4, 3)
    plan = plan_steps(process, num_steps=12, start=process.first_timestep(1))
    start = noised(plan, y, seeded(KEY, np.arange(num)))
    drawn = sample(matching(data.denoise, process, y), plan, KEY, num, start=start)
    np.testing.assert_allclose(process.degrade(drawn, 1), y, atol=2e-5)
    between = np.trace(covariance_of(drawn[:, 1::2] - drawn[:, ::2], 32))
    np.testing.assert_allclose(between, 2 * np.trace(data.covariance) / 2 * 0.2, rtol=0.1)


@pytest.mark.parametrize("operator", ["box", "haar", "bicubic"])
def test_a_partly_known_pixel_is_known_in_part(operator):
    """An even image, its colour predicted rightly, stays as it is at every level, whatever the mask and the gain."""
    process = make_process(ProcessConfig(image_size=8, num_levels=3, num_timesteps=100, operator=operator))
    known, x0 = np.random.default_rng(0).random((8, 8)) < 0.5, jnp.full((1, 8, 8, 3), 0.7)
    right = inpainting(lambda x, t, label, *, stage: process.degrade(x0, stage.out_level), process, x0, known)
    wrong = inpainting(lambda x, t, label, *, stage: 0 * process.degrade(x0, stage.out_level), process, x0, known)
    for stage in process.stages:
        z = process.degrade(x0, stage.out_level)
        np.testing.assert_allclose(right(x0, T, None, stage=stage), z, atol=1e-5)
        assert 0.3 < float(wrong(x0, T, None, stage=stage).mean() / z.mean()) < 0.7


@pytest.mark.parametrize("blur", [0.0, 2.0])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_there_and_back_keeps_the_marginal(eta, blur):
    process = make_process(ProcessConfig(image_size=8, num_levels=3, num_timesteps=100, blur=blur))
    more = resampled(plan_steps(process, solver="ddim", eta=eta, num_steps=8), 2)
    for part in more.stages:
        for i in np.flatnonzero(np.diff(part.timesteps) == 0):
            (k_x, k_z, _, k_n), t = np.moveaxis(table(part)[i], -1, 0), part.timesteps[i]
            rates = heat_rate_grid(process.level_shape(part.stage.in_level), process.shape) if blur else np.zeros(())
            alpha, variance = process.alpha[t] * np.exp(-process.blur_times[t] * rates), process.sigma[t] ** 2
            np.testing.assert_allclose(k_x * alpha + k_z, alpha, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(k_x**2 * variance + k_n**2, np.broadcast_to(variance, k_x.shape), rtol=1e-9)


@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_resampling_draws_no_worse_than_steps_of_first_order_do(blur):
    process = make_process(ProcessConfig(image_size=8, num_levels=2, num_timesteps=100, blur=blur))
    plan, spectrum = plan_steps(process, solver="ddim", num_steps=12), natural_spectrum((8, 8))
    errors = [gaussian_error(resampled(plan, times), spectrum).relative_error for times in (1, 3)]
    assert errors[1] < errors[0], errors


def test_resampling_leaves_the_distribution_alone():
    plan = plan_steps(PROCESS, solver="ddim", num_steps=8)
    assert resampled(plan, 1).timesteps.tolist() == plan.timesteps.tolist()
    more = resampled(plan, 3)
    assert len(more.timesteps) == 3 * 8 - 2 * 3  # not the up-steps, not the last
    drawn = covariance_of(sample(DATA.denoise, more, KEY, NUM))
    expected = DATA.sampled_covariance(more)
    np.testing.assert_allclose(drawn, expected, atol=6 * expected.max() / (3 * NUM) ** 0.5)
    assert abs(np.trace(expected - DATA.sampled_covariance(plan)) / np.trace(DATA.covariance)) < 0.06


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_interpolation_passes_through_samples_and_stays_fair(solver):
    plan = plan_steps(PROCESS, solver=solver, num_steps=10)
    *_, path = iterate(DATA.denoise, plan, interpolated(KEY, [2, 0, 5], 9))
    images = sample(DATA.denoise, plan, KEY, 6)
    for place, index in ((0, 2), (4, 0), (8, 5)):
        np.testing.assert_allclose(path.x[place], images[index], atol=1e-5)
    # The sampler is linear here: half-way is the sum of the ends over the root of 2, as large as they are.
    np.testing.assert_allclose(path.x[2], (images[2] + images[0]) / 2**0.5, atol=1e-4)


def test_bad_input():
    x0, plan = gaussian_images(2), plan_steps(PROCESS, num_steps=6, start=30)
    noise = seeded(KEY, np.arange(2))
    with pytest.raises(InputError, match="the thumbnail is 5x5 pixels, but must be 8x8 or 4x4 or 2x2"):
        matching(DATA.denoise, PROCESS, x0[:, :5, :5])
    with pytest.raises(InputError, match=r"the mask is \(8, 4\) pixels, but must be \(8, 8\)"):
        inpainting(DATA.denoise, PROCESS, x0, np.ones((8, 4)))
    with pytest.raises(InputError, match=r"the image is \(4, 8\) pixels"):
        inpainting(DATA.denoise, PROCESS, x0[:, :4], np.ones((8, 8)))
    for strength in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="strength is .*, but must be > 0 and <= 1"):
            timestep_of(PROCESS, strength)
    with pytest.raises(InputError, match="begins at t = 30 with 8x8 pixels, which the image has not"):
        noised(plan, PROCESS.degrade(x0, 1), noise)
    with pytest.raises(InputError, match="the plan begins at t = 30.*give x_30 as start"):
        sample(DATA.denoise, plan, KEY, 2)
    with pytest.raises(InputError, match=r"start has shape \(2, 4, 4, 3\), but x_30 of this plan has shape"):
        sample(DATA.denoise, plan, KEY, 2, start=PROCESS.degrade(x0, 1))
    with pytest.raises(InputError, match="start is 100"):
        plan_steps(PROCESS, start=100)
    with pytest.raises(InputError, match="1 indices and 5 images"):
        interpolated(KEY, [3], 5)
    with pytest.raises(InputError, match="resampling is 0"):
        resampled(plan, 0)
