from ssd_jax.config import ProcessConfig
from ssd_jax.process.config import make_process
from ssd_jax.process.stages import Stage

STAGES = make_process(ProcessConfig(num_levels=4)).stages


def test_stages_cover_every_timestep_once_in_order():
    assert [str(stage) for stage in STAGES] == ["stay3", "up3to2", "stay2", "up2to1", "stay1", "up1to0", "stay0"]
    covered = [t for stage in STAGES for t in range(stage.t_max, stage.t_min - 1, -1)]
    assert covered == list(range(999, -1, -1))


def test_a_level_of_a_single_timestep_has_no_stay_stage():
    process = make_process(ProcessConfig(num_levels=3, num_timesteps=5, resolution_schedule="equal"))
    assert process.levels.tolist() == [0, 0, 1, 2, 2]
    assert [str(stage) for stage in process.stages] == ["stay2", "up2to1", "up1to0", "stay0"]


def test_parts_of_a_stage():
    stage = Stage(1, 1, 10, 19)
    assert [(part.t_min, part.t_max) for part in stage.parts(3)] == [(16, 19), (13, 15), (10, 12)]
    assert stage.parts(1) == (stage,) and all(part.in_level == 1 for part in stage.parts(3))
    assert Stage(1, 0, 9, 9).parts(4) == (Stage(1, 0, 9, 9),)
