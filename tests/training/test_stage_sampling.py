"""Shares of stages, and their turns."""

from collections import Counter

import numpy as np
import pytest

from ssd_jax.config import ProcessConfig, TrainConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.training.stage_sampling import allocate, stage_probabilities

STAGES = make_process(ProcessConfig(num_levels=4)).stages
ELEVEN = make_process(ProcessConfig(image_size=256, num_levels=6)).stages


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
    allocation, count = allocate(stages, config, devices), 5000
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
    allocation = allocate(STAGES, TrainConfig(batch_size=64), 1)
    assert all(rate < 1 for rate, stage in zip(allocation.rates, STAGES, strict=True) if stage.is_up)
    for stage, rate in zip(STAGES, allocation.rates, strict=True):
        at = [step for step in range(2000) if stage in allocation.taking_part(step)]
        assert np.diff(at).max() <= 3 / rate


def test_turns_are_of_the_seed_and_the_same_on_any_mesh_that_divides_the_multiple():
    one, eight, other = (
        allocate(STAGES, TrainConfig(batch_size=64, seed=seed), devices) for seed, devices in ((3, 1), (3, 8), (4, 1))
    )
    turns = [[each.taking_part(step) for step in range(30)] for each in (one, eight, other)]
    assert turns[0] == turns[1] != turns[2] and one.batch_sizes == eight.batch_sizes


def test_rounds_divide_the_draws_of_every_stage():
    allocation = allocate(STAGES, TrainConfig(batch_size=96, accumulate=3), 4)
    assert all(size % 12 == 0 for size in allocation.batch_sizes)
    with pytest.raises(InputError, match="batch_size is 96, but must be a multiple of the 4 device.* train.accumulate=5"):
        allocate(STAGES, TrainConfig(batch_size=96, accumulate=5), 4)


@pytest.mark.parametrize("stage_sampling", ["mixed", "single"])
def test_the_devices_must_divide_the_batch(stage_sampling):
    with pytest.raises(InputError, match="batch_size is 4, but must be a multiple of the 8"):
        allocate(STAGES, TrainConfig(batch_size=4, stage_sampling=stage_sampling), 8)
