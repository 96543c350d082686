"""How runs end: the loop of training with made-up programs, so that nothing is compiled."""

import os
import signal
import time
from dataclasses import replace
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.build import build
from ssd_jax.data.pipeline import Batches
from ssd_jax.errors import InputError
from ssd_jax.files.events import Events
from ssd_jax.files.lease import lease
from ssd_jax.run import checkpoint
from ssd_jax.run.loop import Loop
from ssd_jax.run.profile import Profiler, busy_seconds, union
from ssd_jax.run.watching import Watch
from ssd_jax.sharding import make_mesh
from ssd_jax.training.stage_sampling import allocate
from ssd_jax.training.state import TrainState, init_state
from ssd_jax.training.step import TrainStep
from tests.conftest import tiny_config


class Counted(Batches):
    """Batches that are only counted; sends a signal when it comes to a number."""

    def __init__(self, at: int = -1, number: int = 0):
        self.given, self.at, self.number = 0, at, number

    def __next__(self):
        self.given += 1
        if self.given == self.at:
            os.kill(os.getpid(), self.number)
        return {"image": np.zeros((24, 8, 8, 3), np.uint8)}

    def get_state(self):
        return {"next_index": self.given}

    def set_state(self, state):
        self.given = state["next_index"]


def nothing(state, step):
    pass


def loop(workdir, checkpoints, held=None, update=lambda state: state, profile=0, looks=nothing, **train):
    """A Loop whose steps only count."""
    config = tiny_config(**{"log_every": 1000, "sample_every": 10_000, "checkpoint_every": 10_000} | train)
    experiment = build(replace(config, data=replace(config.data, channels=3)))
    stages, count = experiment.process.stages, len(jax.tree.leaves(experiment.abstract_parameters))
    step = TrainStep(
        config=config.train,
        mesh=make_mesh(),
        allocation=allocate(stages, config.train, 8, lambda stage: 1.0),
        gather=None,
        zeros=lambda: None,
        gradients={stage: lambda weights, total, draws, step, seed: (total, jnp.float32(0.5)) for stage in stages},
        update=lambda state, total, used: update(replace(state, step=state.step + 1)),
        used={stage: np.ones(count, bool) for stage in stages},
        seed=jnp.uint32(0),
    )
    watch = Watch(experiment, workdir, step.allocation, Events(None), None, None)
    for name in ("write_samples", "evaluate"):
        object.__setattr__(watch, name, looks)
    return Loop(experiment, workdir, step, checkpoints, watch.events, watch, held, Profiler(workdir / "profile", profile))


def run(workdir, batches, held=None, update=lambda state: state, **train) -> list[int]:
    """Runs a loop from step 0 without samples; returns the steps of the checkpoints."""
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        made = loop(workdir, checkpoints, held, update, **train)
        made.run(first_state(made), 0, batches)
    return steps(workdir)


def first_state(made: Loop) -> TrainState:
    return init_state(made.experiment.init_parameters, 0, make_mesh())


def steps(workdir) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("number", "ending", "code"),
    [(signal.SIGTERM, SystemExit, 143), (signal.SIGHUP, SystemExit, 129), (signal.SIGINT, KeyboardInterrupt, None)],
)
def test_a_signal_ends_after_the_step_saved(tmp_path, number, ending, code, caplog):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    with caplog.at_level("INFO", "ssd_jax"), pytest.raises(ending) as ended:
        run(tmp_path, Counted(3, number), steps=1000)
    assert code is None or ended.value.code == code
    assert steps(tmp_path) == [3] and "saved step 3 of 1000; the same command goes on" in caplog.text
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    (data,) = (tmp_path / "checkpoints" / "3" / "data").glob("*.json")
    assert data.read_text() == '{"next_index": 3}'


@pytest.mark.parametrize("every", ["sample_every", "evaluate_every"])
def test_samples_and_evaluations_are_left_at_once(tmp_path, every):
    """They can be made again; whoever sends signals does not wait long."""

    def looks(state, step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            raise AssertionError("was not left")

    with checkpoint.open_checkpoints(tmp_path, writable=True) as checkpoints:
        made = loop(tmp_path, checkpoints, steps=1000, looks=looks, **{every: 2})
        with pytest.raises(SystemExit):
            made.run(first_state(made), 0, Counted())
    assert steps(tmp_path) == [2]


def test_a_run_that_is_complete_ends_well_whatever_comes(tmp_path):
    assert run(tmp_path, Counted(4, signal.SIGTERM), steps=4) == [4]


def test_updates_that_are_not_finite_end_it_and_replace_nothing(tmp_path, caplog):
    numbers = count()

    def update(state):
        """Not finite from the 130th on."""
        skipped = max(next(numbers) - 129, 0)
        return replace(state, skipped=jnp.int32(skipped), skipped_in_a_row=jnp.int32(skipped))

    with pytest.raises(InputError, match=r"the last 170 updates were not finite.*of step 200;.*train.learning_rate"):
        run(tmp_path, Counted(), update=update, steps=1000, checkpoint_every=100)
    assert steps(tmp_path) == [100, 200]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    def update(state):
        return jax.tree.map(lambda leaf: leaf * jnp.nan if leaf.dtype == jnp.float32 else leaf, state)

    with pytest.raises(InputError, match="step 4 was not saved: .* not finite, .*; there is no checkpoint"):
        run(tmp_path, Counted(), update=update, steps=4)
    assert steps(tmp_path) == []


def test_nothing_is_written_where_another_run_took_over(tmp_path):
    with lease(tmp_path / "lock.json") as held:
        (tmp_path / "lock.json").write_text('{"machine": "elsewhere", "process": 1, "token": "another"}')
        with pytest.raises(InputError, match="taken over by process 1 on elsewhere"):
            run(tmp_path, Counted(), held, steps=4)
    assert steps(tmp_path) == []


def test_a_trace_of_some_steps(tmp_path, caplog):
    with caplog.at_level("INFO", "ssd_jax"), checkpoint.open_checkpoints(tmp_path, writable=True) as checkpoints:
        made = loop(tmp_path, checkpoints, profile=3, steps=8)
        made.run(first_state(made), 0, Counted())
    assert "3 steps took" in caplog.text and "% of it outside compiled programs" in caplog.text
    assert len(list((tmp_path / "profile").glob("**/*.xplane.pb"))) == 1


def test_time_in_programs_leaves_out_what_the_host_does_between_them(tmp_path):
    assert union([(0.0, 2.0), (1.0, 3.0), (10.0, 1.0), (10.5, 0.2)]) == 5
    program = jax.jit(lambda x: jnp.sin(x @ x)).lower(x := jnp.ones((500, 500))).compile()
    jax.block_until_ready(program(x))
    jax.profiler.start_trace(tmp_path)
    for _ in range(3):
        jax.block_until_ready(program(x))
        time.sleep(0.3)
    jax.profiler.stop_trace()
    (path,) = tmp_path.glob("**/*.xplane.pb")
    assert 0.001 < busy_seconds(jax.profiler.ProfileData.from_file(str(path))) < 0.5  # not the 0.9 s of sleep


def test_rates_count_the_time_that_the_device_takes(tmp_path, monkeypatch):
    logged = []

    def after_waiting(watch, losses):
        time.sleep(0.2)  # for the device
        return {"loss": 0.5}

    monkeypatch.setattr(Watch, "means", after_waiting)
    monkeypatch.setattr(Events, "scalars", lambda events, scalars, step: logged.append(scalars))
    run(tmp_path, Counted(), steps=4, batch_size=8, log_every=2)
    assert len(logged) == 2 and all(0 < each["images_per_second"] <= 2 * 8 / 0.2 for each in logged)
