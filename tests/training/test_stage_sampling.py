"""Shares of stages, and their turns."""

from collections import Counter

import numpy as np
import pytest

from ssd_jax.config import ProcessConfig, TrainConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.training.stage_sampling import (
    UNIFORM_SHARE,
    allocate,
    drawn_probabilities,
    relative_training_cost,
    stage_probabilities,
    timestep_shares,
    wanted_draws,
)

STAGES = make_process(ProcessConfig(num_levels=4)).stages
ELEVEN = make_process(ProcessConfig(image_size=256, num_levels=6)).stages


def flops(stage) -> float:
    return 1e9 * (3.0**-stage.in_level + 3.0**-stage.out_level)


def test_at_its_relative_cost_a_step_is_as_clean_as_one_level_s():
    """sum_s p_s^2 v / n_s is v / B for the draws that `wanted_draws` buys with it; all draws equally noisy."""
    by_timestep = {t: flops(stage) for stage in STAGES for t in (stage.t_min, stage.t_max)}
    share = relative_training_cost(STAGES, 0.05, by_timestep.__getitem__)
    config = TrainConfig(batch_size=32, up_share=0.05, allocation="cost_aware", flops_per_step=share)
    variance = (stage_probabilities(STAGES, 0.05) ** 2 / wanted_draws(STAGES, config, flops)).sum()
    assert 0 < share < 1
    np.testing.assert_allclose(variance, 1 / 32, rtol=1e-12)


def test_probabilities():
    p = stage_probabilities(STAGES, 0.06)
    assert p.sum() == pytest.approx(1)
    np.testing.assert_allclose(p[1::2], 0.02)
    lengths = np.array([stage.t_max - stage.t_min + 1 for stage in STAGES])[::2]
    np.testing.assert_allclose(p[::2], 0.94 * lengths / lengths.sum())
    one_level = make_process(ProcessConfig(num_levels=1)).stages
    np.testing.assert_allclose(stage_probabilities(one_level, 0.06), [1.0])


@pytest.mark.parametrize("stage_sampling", ["mixed", "single"])
@pytest.mark.parametrize(
    ("stages", "batch_size", "devices", "multiple"),
    [
        (STAGES, 64, 1, 8),
        (STAGES, 64, 8, 1),
        (STAGES, 256, 8, 16),
        (STAGES, 7, 1, 8),
        (STAGES, 12, 3, 8),
        (ELEVEN, 1024, 256, 8),
    ],
)
def test_every_stage_counts_by_its_probability(stages, batch_size, devices, multiple, stage_sampling):
    """In many steps: what stages weigh when they take part is what they must, and draws are as many as were asked for."""
    config = TrainConfig(batch_size=batch_size, draws_multiple=multiple, stage_sampling=stage_sampling)
    allocation, count = allocate(stages, config, devices, flops), 5000
    steps = [allocation.taking_part(step) for step in range(count)]
    seen = Counter(stage for step in steps for stage in step)
    weighed = np.array([seen[stage] / count * weight for stage, weight in zip(stages, allocation.weights, strict=True)])
    np.testing.assert_allclose(weighed, stage_probabilities(stages, config.up_share), atol=0.002)
    assert all(size % devices == 0 for size in allocation.batch_sizes) and all(steps)
    unit = min(int(np.lcm(multiple, devices)), batch_size)
    drawn = sum(seen[stage] * size for stage, size in zip(stages, allocation.batch_sizes, strict=True)) / count
    assert abs(drawn - batch_size) <= unit / 2 + 0.01 and abs(sum(allocation.draws) - drawn) < 0.1
    sizes = Counter(len(step) for step in steps)
    assert max(sizes) - min(sizes) <= 1 and (stage_sampling == "mixed" or set(sizes) == {1})


def test_stages_wait_no_longer_than_they_must():
    allocation = allocate(STAGES, TrainConfig(batch_size=64), 1, flops)
    assert all(rate < 1 for rate, stage in zip(allocation.rates, STAGES, strict=True) if stage.is_up)
    for stage, rate in zip(STAGES, allocation.rates, strict=True):
        at = [step for step in range(2000) if stage in allocation.taking_part(step)]
        assert np.diff(at).max() <= 3 / rate


def test_turns_are_of_the_seed_and_the_same_on_any_mesh_that_divides_the_multiple():
    runs = ((3, 1), (3, 8), (4, 1))
    one, eight, other = (allocate(STAGES, TrainConfig(batch_size=64, seed=s), devices, flops) for s, devices in runs)
    turns = [[each.taking_part(step) for step in range(30)] for each in (one, eight, other)]
    assert turns[0] == turns[1] != turns[2] and one.batch_sizes == eight.batch_sizes


def test_rounds_divide_the_draws_of_every_stage():
    allocation = allocate(STAGES, TrainConfig(batch_size=96, accumulate=3), 4, flops)
    assert all(size % 12 == 0 for size in allocation.batch_sizes)
    with pytest.raises(InputError, match="batch_size is 96, but must be a multiple of the 4 device.* train.accumulate=5"):
        allocate(STAGES, TrainConfig(batch_size=96, accumulate=5), 4, flops)


@pytest.mark.parametrize("stage_sampling", ["mixed", "single"])
def test_the_devices_must_divide_the_batch(stage_sampling):
    with pytest.raises(InputError, match="batch_size is 4, but must be a multiple of the 8"):
        allocate(STAGES, TrainConfig(batch_size=4, stage_sampling=stage_sampling), 8, flops)


def noise(draws, variances) -> float:
    """The variance of a step's gradient, sum p^2 v / n."""
    return float((stage_probabilities(STAGES, 0.05) ** 2 * variances / draws).sum())


@pytest.mark.parametrize("variances", [(), (3.0, 1.0, 5.0, 0.2, 1.0, 9.0, 2.0)])
def test_no_draws_of_the_same_cost_make_a_less_noisy_gradient(variances):
    config = TrainConfig(batch_size=64, allocation="cost_aware", gradient_variances=variances)
    best = wanted_draws(STAGES, config, flops)
    plain = wanted_draws(STAGES, TrainConfig(batch_size=64), flops)
    costs, v = np.array([flops(stage) for stage in STAGES]), np.array(variances or [1.0] * len(STAGES))
    assert best @ costs == pytest.approx(plain @ costs) and noise(best, v) < 0.95 * noise(plain, v)
    for seed in range(20):
        other = best * np.random.default_rng(seed).uniform(0.8, 1.25, len(best))
        assert noise(other * (best @ costs) / (other @ costs), v) > noise(best, v)


def test_no_shares_of_a_stage_s_parts_make_its_gradient_less_noisy():
    parts = [stage.parts(3) for stage in STAGES]
    variances = np.random.default_rng(0).uniform(0.1, 10, sum(map(len, parts)))
    config = TrainConfig(allocation="cost_aware", gradient_variances=tuple(variances.tolist()), timestep_parts=3)
    of_stages, shares = timestep_shares(STAGES, config)
    first = 0
    for stage, own, variance, share in zip(STAGES, parts, of_stages, shares, strict=True):
        p = np.array([part.t_max + 1 - part.t_min for part in own]) / (stage.t_max + 1 - stage.t_min)
        v, q = variances[first : first + len(own)], np.array(share)
        first += len(own)
        assert q.sum() == pytest.approx(1) and (p**2 * v / q).sum() == pytest.approx(variance)
        for seed in range(10):
            other = q * np.random.default_rng(seed).uniform(0.8, 1.25, len(q))
            assert (p**2 * v / (other / other.sum())).sum() >= variance * (1 - 1e-9)


@pytest.mark.parametrize("allocation", ["proportional", "cost_aware"])
def test_a_step_costs_what_it_may(allocation):
    config = TrainConfig(batch_size=64, allocation=allocation, flops_per_step=0.7, draws_multiple=1)
    costs, allocated = np.array([flops(stage) for stage in STAGES]), allocate(STAGES, config, 1, flops)
    assert wanted_draws(STAGES, config, flops) @ costs == pytest.approx(0.7 * 64 * costs[-1])
    assert allocated.draws @ costs == pytest.approx(0.7 * 64 * costs[-1], rel=0.03)
    assert sum(allocated.draws) > 64  # images serve several stages
    np.testing.assert_allclose(np.multiply(allocated.weights, allocated.rates), stage_probabilities(STAGES, 0.05))


def test_one_level_draws_its_batch_however_it_is_shared_out():
    stages = make_process(ProcessConfig(num_levels=1)).stages
    for config in (TrainConfig(allocation="cost_aware"), TrainConfig(flops_per_step=1.0)):
        assert wanted_draws(stages, config, flops) == pytest.approx([64])


def test_operations_must_be_known():
    with pytest.raises(InputError, match='platform does not count .* train.allocation="proportional"'):
        wanted_draws(STAGES, TrainConfig(allocation="cost_aware"), lambda stage: float("nan"))


def test_variances_must_be_of_the_stages():
    config = TrainConfig(allocation="cost_aware", gradient_variances=(1.0, 2.0))
    with pytest.raises(InputError, match="are 2, but the process has 7 stages: stay3, .*; give one of each, or none"):
        wanted_draws(STAGES, config, flops)
    config = TrainConfig(allocation="cost_aware", gradient_variances=(1.0,) * 7, timestep_parts=2)
    with pytest.raises(InputError, match="are 7, but the process has 7 stages in 11 parts: "):
        wanted_draws(STAGES, config, flops)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allocation": "equal"}, "allocation is 'equal', but must be one of: proportional, cost_aware"),
        ({"flops_per_step": 0.0}, "flops_per_step is 0.0, but must be > 0"),
        ({"allocation": "cost_aware", "gradient_variances": (1.0, -1.0)}, "gradient_variances is -1.0, but must be > 0"),
        ({"gradient_variances": (1.0,)}, 'only train.allocation="cost_aware" uses them'),
        (
            {"timestep_parts": 4, "allocation": "cost_aware"},
            "timestep_parts needs train.gradient_variances, one of each part",
        ),
        ({"allocation": "cost_aware", "stage_sampling": "single"}, 'need "mixed"'),
        ({"flops_per_step": 0.5, "stage_sampling": "single"}, 'need "mixed"'),
    ],
)
def test_settings_of_the_allocation(settings, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings)


def test_logit_normal_timesteps():
    """One draw in ten is uniform, of the rest the logit of s is N(0, 1): for a flow s is even in t."""
    process = make_process(ProcessConfig(num_levels=1, noise_schedule="flow"))
    q = drawn_probabilities(process.log_snr)
    s = process.sigma / (process.alpha + process.sigma)
    logit = np.log(s / (1 - s))
    own = (q - UNIFORM_SHARE / len(q)) / (1 - UNIFORM_SHARE)
    assert q.sum() == pytest.approx(1) and own.min() >= 0
    assert own @ logit == pytest.approx(0, abs=0.01) and own @ logit**2 == pytest.approx(1, abs=0.02)
    density = np.exp(-(logit**2) / 2) / (s * (1 - s))
    middle = slice(50, 950)
    np.testing.assert_allclose(own[middle] / own[middle].sum(), density[middle] / density[middle].sum(), rtol=0.01)
    assert (1 / len(q) / q).max() <= 1 / UNIFORM_SHARE * (1 + 1e-9)


def test_logit_normal_draws_leave_the_expected_loss():
    process = make_process(ProcessConfig(num_levels=4))
    config = TrainConfig(batch_size=64, allocation="logit_normal", timestep_parts=64, draws_multiple=1)
    allocation = allocate(process.stages, config, 1, flops, process.log_snr)
    assert sum(allocation.draws) == pytest.approx(64, rel=0.02)
    q, p = drawn_probabilities(process.log_snr), stage_probabilities(process.stages, config.up_share)
    stays = [
        (stage, n)
        for stage, n in zip(process.stages, wanted_draws(process.stages, config, flops, process.log_snr), strict=True)
        if not stage.is_up
    ]
    masses = np.array([q[stage.t_min : stage.t_max + 1].sum() for stage, _ in stays])
    np.testing.assert_allclose([n for _, n in stays], 64 * (1 - config.up_share) * masses / masses.sum())
    for stage, shares, weight, n, own in zip(
        process.stages, allocation.shares, allocation.weights, allocation.draws, p, strict=True
    ):
        lengths = np.array([part.t_max + 1 - part.t_min for part in stage.parts(64)])
        assert sum(shares) == pytest.approx(1) and len(shares) == len(lengths)
        assert weight * n == pytest.approx(own * allocation.batch_sizes[process.stages.index(stage)])
    with pytest.raises(InputError, match='"logit_normal", but what is trained has no noise'):
        allocate(process.stages, config, 1, flops)
    with pytest.raises(InputError, match="timestep_parts is 1; give more"):
        TrainConfig(allocation="logit_normal")
