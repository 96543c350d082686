"""Jobs of several processes: real ones, on 127.0.0.1; and how they find each other."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import launch.common.processes as processes
import ssd_jax
from ssd_jax.files.images import read_image
from tests.commands import ROOT, TINY, ended, launch, run, start_processes

TRAIN = ["launch.train", "--config=openmoji32", *TINY, "--config.train.checkpoint_every=2", "--config.train.log_every=1"]
TRAIN += ["--config.train.cosine_decay=False"]
EVALUATED = ["--config.data.holdout=5", "--config.train.evaluate_every=2", "--config.train.evaluate_num=12"]


def train(workdir: Path, count: int, steps: int) -> None:
    """On two devices, of one process or of two."""
    arguments = [*TRAIN, *EVALUATED, f"--workdir={workdir}", f"--config.train.steps={steps}"]
    results = [launch(*arguments, devices=2)] if count == 1 else ended(start_processes(*arguments, count=count))
    for result in results:
        assert result.returncode == 0, result.stderr
    for other in results[1:]:  # only the first tells how things go
        assert "training" not in other.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run by one process, and by two that one goes on from, and two again."""
    folder = tmp_path_factory.mktemp("processes")
    train(folder / "one", 1, 6)
    for count, steps in ((2, 2), (1, 4), (2, 6)):
        train(folder / "mixed", count, steps)
    return folder


def losses(workdir: Path) -> dict[tuple[str, int], float]:
    """By name and step, as TensorBoard reads them."""
    events = EventAccumulator(str(workdir))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name.startswith(("loss", "holdout", "frechet"))]
    return {(name, event.step): event.value for name in names for event in events.Scalars(name)}


@pytest.mark.nightly
def test_the_number_of_processes_changes_nothing(runs):
    """Losses, evaluations, and where the data stand, of a job that changes it twice on its way."""
    expected, found = losses(runs / "one"), losses(runs / "mixed")
    assert {step for _, step in expected} == set(range(1, 7)) and found.keys() == expected.keys()
    assert {step for name, step in found if name == "holdout/loss"} == {2, 4, 6}
    for key, value in found.items():  # pixels of samples may be rounded the other way
        np.testing.assert_allclose(
            value, expected[key], rtol=1e-2 if key[0].startswith("frechet") else 1e-5, err_msg=str(key)
        )
    (data,) = (runs / "mixed" / "checkpoints" / "6" / "data").glob("*.json")
    assert json.loads(data.read_text()) == {"next_index": 48}


@pytest.mark.nightly
def test_two_processes_sample_and_evaluate(runs, tmp_path):
    workdir = f"--workdir={runs / 'mixed'}"
    for count in (1, 2):
        arguments = ["launch.sample", workdir, "--num=6", "--num_steps=3", f"--out={tmp_path / str(count)}"]
        results = [launch(*arguments, devices=2)] if count == 1 else ended(start_processes(*arguments))
        assert all(result.returncode == 0 for result in results), results
    one, two = sorted((tmp_path / "1").glob("*.png")), sorted((tmp_path / "2").glob("*.png"))
    assert [path.name for path in one] == [path.name for path in two] and len(one) == 7
    for a, b in zip(one, two, strict=True):
        difference = read_image(a, channels=3).astype(int) - read_image(b, channels=3)
        assert np.abs(difference).max() <= 1
    results = ended(start_processes("launch.evaluate", workdir, "--num=8", "--num_steps=3"))
    assert all(result.returncode == 0 for result in results), results
    assert len((runs / "mixed" / "evaluations.jsonl").read_text().splitlines()) == 1


@pytest.mark.nightly
def test_a_signal_to_one_process_ends_all_saved(tmp_path):
    job = start_processes(*TRAIN, f"--workdir={tmp_path}", "--config.train.steps=100000")
    deadline = time.monotonic() + 300
    while not (tmp_path / "checkpoints" / "2" / "commit_success.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    job[1].send_signal(signal.SIGTERM)
    results = ended(job)
    assert [result.returncode for result in results] == [143, 143], results
    assert "saved step" in results[0].stderr
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    assert f"saved step {saved} of" in results[0].stderr and ssd_jax.load(tmp_path).step == saved


def test_a_coordinator_that_does_not_answer_is_one_line(tmp_path):
    sample = "runpy.run_module('launch.sample', None, '__main__', True)"
    code = f"import runpy, launch.common.processes as p; p.SECONDS = 2; {sample}"
    flags = ["--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=1", f"--workdir={tmp_path}", "--out=x"]
    result = run([sys.executable, "-c", code, *flags], PYTHONPATH=str(ROOT))
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: the job's first process does not answer at 127.0.0.1:9 within 2 s: Connection")
    assert len(result.stderr.splitlines()) == 1


def test_flags_of_a_job_go_together(tmp_path):
    flags = ["--coordinator_address=127.0.0.1:9", "--num_processes=2", "--process_id=2"]
    result = launch("launch.sample", f"--workdir={tmp_path}", "--out=x", *flags)
    assert result.returncode == 2 and "--process_id 2, but all three must be given" in result.stderr


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("environment", "has_tpu", "expected"),
    [
        ({}, False, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, False, False),  # a batch script, before srun
        ({"SLURM_STEP_NUM_TASKS": "1"}, False, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, False, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False, True),
        ({}, True, True),
        ({"TPU_SKIP_MDS_QUERY": "1"}, True, False),
    ],
)
def test_which_environments_are_a_job_s(environment, has_tpu, expected):
    assert processes.in_job(environment, has_tpu) == expected


SLURM = {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_LOCALID": "1"}


@pytest.mark.smoke
def test_places_on_a_node():
    assert processes.place_on_node({**SLURM, "SLURM_NODEID": "2"}) == (2, 1)
    assert processes.place_on_node({**SLURM, "SLURM_NODEID": "3", "SLURM_LOCALID": "0"}) == (1, 0)
    assert processes.place_on_node({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}) == (4, 3)
    assert processes.place_on_node({}) is None


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("environment", "place", "mine", "idle"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (1, 0), [0, 1, 2, 3, 4, 5, 6, 7], []),  # one task a node
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (4, 3), [3], []),  # one task a GPU, all shown to all
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, (2, 1), [1], []),  # a part of a node: numbers are among those shown
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, (1, 0), [0, 1], []),
        ({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1"}, (4, 3), [0], []),  # each is shown its own
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}, (2, 1), [0, 1], []),
        ({"CUDA_VISIBLE_DEVICES": "0"}, (4, 2), [0], []),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4"}, (2, 1), [2, 3], [4]),
        ({"CUDA_VISIBLE_DEVICES": ""}, (2, 1), [], []),
    ],
)
def test_processes_of_a_node_share_its_gpus(environment, place, mine, idle):
    visible = processes.visible_gpus(environment)
    assert processes.devices_of_process(environment, visible, *place) == (mine, idle)
