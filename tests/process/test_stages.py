from collections import Counter

import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.training.stage_sampling import pick_stage, split_batch, stage_probabilities

STAGES = make_process(ProcessConfig(num_levels=4)).stages


def test_stages_cover_every_timestep_once_in_order():
    assert [str(stage) for stage in STAGES] == ["stay3", "up3to2", "stay2", "up2to1", "stay1", "up1to0", "stay0"]
    covered = [t for stage in STAGES for t in range(stage.t_max, stage.t_min - 1, -1)]
    assert covered == list(range(999, -1, -1))


def test_a_level_of_a_single_timestep_has_no_stay_stage():
    process = make_process(ProcessConfig(num_levels=3, num_timesteps=5, resolution_schedule="equal"))
    assert process.levels.tolist() == [0, 0, 1, 2, 2]
    assert [str(stage) for stage in process.stages] == ["stay2", "up2to1", "up1to0", "stay0"]


def test_probabilities():
    p = stage_probabilities(STAGES, 0.06)
    assert p.sum() == pytest.approx(1)
    np.testing.assert_allclose(p[1::2], 0.02)
    lengths = np.array([stage.t_max - stage.t_min + 1 for stage in STAGES])[::2]
    np.testing.assert_allclose(p[::2], 0.94 * lengths / lengths.sum())
    one_level = make_process(ProcessConfig(num_levels=1)).stages
    np.testing.assert_allclose(stage_probabilities(one_level, 0.06), [1.0])


@pytest.mark.parametrize(("batch_size", "devices"), [(64, 1), (64, 8), (256, 8), (7, 1)])
def test_split_batch(batch_size, devices):
    p = stage_probabilities(STAGES, 0.05)
    sizes = split_batch(batch_size, p, devices)
    assert sizes.sum() == batch_size and (sizes >= devices).all() and (sizes % devices == 0).all()
    assert np.abs(sizes - p * batch_size).max() <= max(2, len(p) / 2) * devices


def test_split_batch_of_a_bad_size():
    for batch_size, devices in ((6, 1), (55, 8), (48, 8)):
        with pytest.raises(InputError, match=f"batch_size is {batch_size}"):
            split_batch(batch_size, stage_probabilities(STAGES, 0.05), devices)


def test_stages_are_picked_by_seed_and_step_with_their_probabilities():
    p = stage_probabilities(STAGES, 0.1)
    picked = [pick_stage(STAGES, p, 3, step) for step in range(3000)]
    assert picked[:20] == [pick_stage(STAGES, p, 3, step) for step in range(20)]
    assert picked[:20] != [pick_stage(STAGES, p, 4, step) for step in range(20)]
    counts = Counter(picked)
    np.testing.assert_allclose([counts[stage] / 3000 for stage in STAGES], p, atol=0.03)
