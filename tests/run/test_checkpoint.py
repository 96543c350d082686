"""Checkpoints: nothing but what was written is ever handed out."""

import json
import resource
import shutil
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.build import build
from ssd_jax.config import FlexiUNetConfig
from ssd_jax.errors import InputError
from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.run import checkpoint, restore
from ssd_jax.run.digest import digests
from ssd_jax.run.workdir import claim_workdir, load_statistics
from ssd_jax.sharding import make_mesh, placed, replicated
from ssd_jax.training.ema import MAIN
from ssd_jax.training.state import abstract_state, init_state
from tests.conftest import mesh_of, tiny_config


@cache
def experiment_of(**changes):
    config = tiny_config()
    config = replace(config, data=replace(config.data, channels=3), **changes)
    return build(config, DataStatistics(tuple(np.linspace(0.3, 1, 20).tolist())))


@cache
def initial_state(model: FlexiUNetConfig):
    return init_state(experiment_of(model=model).init_parameters, 0, make_mesh()).as_dict()


def state_of(experiment, step: int):
    """A state whose averages are all `step`."""
    state = initial_state(experiment.config.model)
    return state | {"ema": jax.tree.map(lambda leaf: jnp.full_like(leaf, step), state["ema"])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints of steps 2 and 4, written without training."""
    experiment, workdir = experiment_of(), tmp_path_factory.mktemp("saved")
    claim_workdir(workdir, experiment.config, experiment.statistics)
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        for step in (2, 4):
            checkpoint.save(checkpoints, step, experiment, state_of(experiment, step), {"next_index": 24 * step})
    return workdir


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def restored(workdir, experiment=None):
    """As training restores."""
    experiment = experiment or experiment_of()
    abstract = placed(abstract_state(experiment.abstract_parameters).as_dict(), replicated(make_mesh()))
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        return restore.restore(checkpoints, experiment, abstract)


def values(tree) -> set[float]:
    return {float(value) for leaf in jax.tree.leaves(tree) for value in np.unique(leaf)}


def test_what_was_saved_is_restored(copy):
    experiment, found = experiment_of(), restored(copy)
    assert found.step == 4 and found.data == {"next_index": 96}
    chex.assert_trees_all_equal(found.state, state_of(experiment, 4))
    assert values(ssd_jax.load(copy).network.parameters) == {4.0}


def test_the_latest_and_every_so_many_are_kept(tmp_path):
    experiment = experiment_of()
    claim_workdir(tmp_path, experiment.config, experiment.statistics)
    with checkpoint.open_checkpoints(tmp_path, writable=True, latest=2, every=4) as checkpoints:
        for step in range(2, 12, 2):
            checkpoint.save(checkpoints, step, experiment, {"ema": state_of(experiment, step)["ema"]})
    for step in (4, 8, 10):
        trained = ssd_jax.load(tmp_path, step=step)
        assert trained.step == step and values(trained.network.parameters) == {float(step)}
    assert ssd_jax.load(tmp_path).step == 10
    for step in (2, 6, 12):
        with pytest.raises(
            InputError, match=rf"no checkpoint of step {step}, but of 4, 8, 10; train\.keep_every keeps more"
        ):
            ssd_jax.load(tmp_path, step=step)


def test_the_best_is_kept(tmp_path, caplog):
    """As far as its record is whole; what is not finite is no value, and a step that is saved anew has a new one."""
    train = replace(tiny_config().train, keep_best="x", checkpoint_every=2, evaluate_every=2)
    experiment = experiment_of(train=train)
    claim_workdir(tmp_path, experiment.config, experiment.statistics)

    def save(values: dict[int, float | None]) -> list[int]:
        with checkpoint.open_checkpoints(tmp_path, writable=True, latest=1, best="x") as checkpoints:
            for step, value in values.items():
                metrics = {"y": -1.0} if value is None else {"x": value}
                state = {"ema": state_of(experiment, step)["ema"]}
                checkpoint.save(checkpoints, step, experiment, state, metrics=metrics)
        return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())

    assert save({2: None}) == [2]
    with pytest.raises(InputError, match=r"step is 'best', but of .* no checkpoint has a value of train.keep_best, 'x'"):
        ssd_jax.load(tmp_path, step="best")
    assert save({4: float("nan"), 6: 1.0, 8: 2.0, 12: None}) == [6, 12]
    assert save({14: 1.5}) == [6, 14]  # of the command that goes on, too
    best = ssd_jax.load(tmp_path, step="best")
    assert best.step == 6 and values(best.network.parameters) == {6.0} and ssd_jax.load(tmp_path).step == 14
    (record,) = (tmp_path / "checkpoints" / "6" / "record").glob("*.json")
    text = record.read_text()
    record.write_text(text.replace('"x": 1.0', '"x": 9.0'))
    assert record.read_text() != text and ssd_jax.load(tmp_path, step="best").step == 14
    record.write_text(text)
    assert save({16: 0.5, 18: 0.7}) == [16, 18]
    claim_workdir(tmp_path, experiment_of().config, experiment.statistics)
    with pytest.raises(InputError, match=r"step is 'best', but of .* it has no train.keep_best; give a number"):
        ssd_jax.load(tmp_path, step="best")
    with pytest.raises(InputError, match="no checkpoint of step 'bets', but of 16, 18"):
        ssd_jax.load(tmp_path, step="bets")


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"steps": 5000}, 3),
        ({"steps": 9000, "keep_best": "x", "evaluate_every": 1000}, 4),
        ({"steps": 5000, "keep_latest": 1}, 2),
        ({"steps": 9000, "keep_every": 2000}, 7),
        ({"steps": 4}, 1),
    ],
)
def test_too_little_room_is_said_before_training(tmp_path, monkeypatch, settings, kept):
    """For the checkpoints that stay and the one that is written: parameters, average and two moments, in float32."""
    experiment = experiment_of()
    train = replace(experiment.config.train, **settings)
    experiment = replace(experiment, config=replace(experiment.config, train=train))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_parameters))
    for extra, enough in ((0, False), (4096, True)):  # beside the counts of Adam and of steps
        free = 16 * numbers * kept + extra
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if enough:
            checkpoint.check_room(tmp_path / "run", experiment)
        else:
            with pytest.raises(InputError, match=r"run' has \d+ MiB of room, but .* together; make room"):
                checkpoint.check_room(tmp_path / "run", experiment)


def test_a_flipped_bit_never_gives_other_weights(copy, caplog):
    """In every kind of file of the latest checkpoint: the one before is loaded, or the weights are untouched."""
    random = np.random.default_rng(0)
    files = sorted(path for path in (copy / "checkpoints" / "4").rglob("*") if path.is_file() and path.stat().st_size)
    kinds = {path.name if path.parent.name != "d" else f"{path.parent.parent.name}/d": path for path in files}
    assert len(kinds) > 8
    went_back = 0
    for path in kinds.values():
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        trained = ssd_jax.load(copy)
        assert values(trained.network.parameters) == {float(trained.step)}, path
        went_back += trained.step == 2
        path.write_bytes(whole)
    assert went_back >= 2 and "going back to that of step 2" in caplog.text


def test_every_array_and_the_iterator_are_checked(copy):
    """Also what sampling does not need."""
    for name, change in (("data", lambda text: text.replace("96", "97")), ("record", lambda text: text.replace("b", "c"))):
        (file,) = (copy / "checkpoints" / "4" / name).glob("*.json")
        text = file.read_text()
        file.write_text(change(text))
        with checkpoint.open_checkpoints(copy, writable=False) as checkpoints:
            abstract = placed(abstract_state(experiment_of().abstract_parameters).as_dict(), replicated(make_mesh()))
            parts = {"ema": abstract["ema"], "state": {k: v for k, v in abstract.items() if k != "ema"}, "data": None}
            with pytest.raises(checkpoint.Damaged):
                restore._load(checkpoints, 4, experiment_of(), parts)
        file.write_text(text)


def test_training_goes_back_too_and_keeps_the_damaged_one(copy, caplog):
    for file in (copy / "checkpoints" / "4" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    assert restored(copy).step == 2
    assert "4 is damaged" in caplog.text and (copy / "damaged" / "4" / "state").is_dir()
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["2"]
    experiment = experiment_of()
    with checkpoint.open_checkpoints(copy, writable=True) as checkpoints:
        checkpoint.save(checkpoints, 4, experiment, state_of(experiment, 4), {"next_index": 96})
    assert ssd_jax.load(copy).step == 4


def test_nothing_whole_is_one_line(copy):
    for step in (2, 4):
        shutil.rmtree(copy / "checkpoints" / str(step) / "ema")
    with pytest.raises(InputError, match=r"2 is damaged \(it has no 'ema'\), and none before it is whole") as refused:
        ssd_jax.load(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("junk", ["7/", "8", "notes/", ".DS_Store", "4 (copy)/"])
def test_stray_files_and_empty_folders_do_not_matter(copy, junk):
    path = copy / "checkpoints" / junk
    path.mkdir() if junk.endswith("/") else path.write_text("x")
    assert ssd_jax.load(copy).step == 4 and restored(copy).step == 4


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(copy, monkeypatch):
    experiment = experiment_of()
    state = state_of(experiment, 6)
    state["ema"][MAIN]["stem"]["bias"] = state["ema"][MAIN]["stem"]["bias"].at[3].set(jnp.nan)
    with checkpoint.open_checkpoints(copy, writable=True) as checkpoints:
        with pytest.raises(InputError, match=r"step 6 was not saved: 1 of .* ema/main/stem/bias; .* of step 4;.*rate"):
            checkpoint.save(checkpoints, 6, experiment, state, {"next_index": 0})
        assert checkpoints.steps == [2, 4]
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "check_finite", lambda found: None)
            checkpoint.save(checkpoints, 6, experiment, state, {"next_index": 0})
    assert ssd_jax.load(copy).step == 4


def test_checkpoints_of_format_1_load_and_are_said_to_be_unchecked(tmp_path, caplog):
    experiment = experiment_of()
    claim_workdir(tmp_path, experiment.config, experiment.statistics)
    state = state_of(experiment, 4)
    rest = {name: value for name, value in state.items() if name not in ("ema", "skipped_in_a_row")}
    with checkpoint.open_checkpoints(tmp_path, writable=True) as checkpoints:
        parts = {"ema": state["ema"][MAIN], "state": rest, "data": {"next_index": 7}}
        checkpoints.orbax.save_checkpointables(4, parts, force=True)
    assert values(ssd_jax.load(tmp_path).network.parameters) == {4.0}
    (said,) = [record for record in caplog.records if "not checked" in record.getMessage()]
    assert said.levelname == "WARNING"
    found = restored(tmp_path)
    assert found.data == {"next_index": 7}
    chex.assert_trees_all_equal(found.state, state)


def test_another_config_or_other_statistics_are_named(copy):
    """Weights are bound to the process that they were trained for: its settings are no matter of config.json alone."""
    text = (copy / "config.json").read_text()
    plain = json.loads(text)
    plain["process"]["gamma"] = 0.7
    (copy / "config.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="written with process.gamma = 0.5, but config.json says 0.7; restore config.json"):
        ssd_jax.load(copy)
    (copy / "config.json").write_text(text)
    statistics = load_statistics(copy)
    assert statistics is not None
    (copy / "statistics.json").write_text(json.dumps({"variances": [0.5, *statistics.variances[1:]]}))
    with pytest.raises(InputError, match="other statistics of the data than statistics.json holds"):
        ssd_jax.load(copy)


def test_another_model_is_told_by_its_first_parameter(copy):
    other = experiment_of(model=replace(tiny_config().model, widths=(8, 24)))
    abstract = placed({MAIN: other.abstract_parameters}, replicated(make_mesh()))
    with pytest.raises(
        InputError, match=r"of another model: ema/main/\S+ is float32\[.*\], but must be float32\["
    ) as refused:
        restore.restore_averages(copy, experiment_of(), abstract)
    assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_a_new_config_is_fine_while_nothing_is_saved(tmp_path):
    claim_workdir(tmp_path, experiment_of().config)
    claim_workdir(tmp_path, experiment_of(model=replace(tiny_config().model, widths=(8, 24))).config)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "checkpoints" / "2").mkdir()
    claim_workdir(tmp_path, experiment_of().config)
    (tmp_path / "checkpoints" / "2" / "ema").mkdir()
    with pytest.raises(InputError, match=r"model\.widths"):
        claim_workdir(tmp_path, experiment_of(model=replace(tiny_config().model, widths=(8, 24))).config)


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_others_stay(copy):
    experiment = experiment_of()
    state = state_of(experiment, 6)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = "checkpoints cannot be written to .*checkpoints: .*; earlier ones are as they were"
    with pytest.raises(InputError, match=message), checkpoint.open_checkpoints(copy, writable=True) as checkpoints:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # as a disk that is full
            checkpoint.save(checkpoints, 6, experiment, state, {"next_index": 0})
            checkpoint.wait(checkpoints)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ssd_jax.load(copy).step == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "bool", "uint8", "int8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (4, 3, 5)])
def test_host_and_device_compute_the_same_digest(dtype, shape, monkeypatch):
    tree = {"a": jnp.asarray(50 * np.random.default_rng(0).normal(size=shape)).astype(dtype)}
    on_host = digests(tree)
    monkeypatch.setattr("ssd_jax.run.digest.SMALL", -1)
    assert digests(tree) == on_host


def test_digests_do_not_depend_on_where_an_array_lies():
    array = np.random.default_rng(0).normal(size=(16, 6, 3)).astype(np.float32)
    split = jax.sharding.NamedSharding(mesh_of(8), jax.sharding.PartitionSpec("data"))
    whole, parts = digests({"a": array}), digests({"a": jax.device_put(array, split)})
    assert whole == parts and whole["a"].kind == "float32[16, 6, 3]" and whole["a"].finite


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8"])
def test_digests_change_with_every_element_and_with_their_order(dtype):
    array = jnp.arange(24).reshape(4, 6).astype(dtype)
    same = digests({"a": array})["a"].value
    other = array.at[2, 3].set(~array[2, 3] if dtype == "bool" else array[2, 3] + 1)
    assert digests({"a": other})["a"].value != same
    assert digests({"a": array[::-1]})["a"].value != same
    assert digests({"a": array})["a"].value == same


def test_a_flip_of_any_bit_of_a_number_changes_both_words():
    array = np.array([1.5, -2.0], np.float32)
    same = digests({"a": array})["a"].value
    for bit in range(32):
        flipped = array.view(np.uint32).copy()
        flipped[1] ^= np.uint32(1 << bit)
        value = digests({"a": flipped.view(np.float32)})["a"].value
        assert value[:8] != same[:8] and value[8:] != same[8:]
