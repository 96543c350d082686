import json

import pytest

from launch.benchmark.reference import load_published
from launch.benchmark.sampling import sampling
from launch.benchmark.timing import time_in_turns
from ssd_jax.config import Config, FlexiUNetConfig, ProcessConfig, SampleConfig
from ssd_jax.errors import InputError
from tests.commands import TINY as TINY_FLAGS
from tests.commands import launch

TINY = Config(
    process=ProcessConfig(image_size=8, num_levels=2, num_timesteps=20),
    model=FlexiUNetConfig(widths=(8, 16), attention_levels=(1,), num_heads=2),
    sample=SampleConfig(num=2),
)


def test_contestants_take_turns():
    runs = []
    timings = time_in_turns({name: lambda name=name: runs.append(name) for name in "ab"}, repeats=2)
    assert runs == list("ababab")
    assert set(timings) == {"a", "b"}


@pytest.mark.nightly  # compiles much
def test_sampling_costs_are_those_of_the_stages():
    tables = sampling(TINY, (1, 2), repeats=1)
    cost = {row["stage"]: row for row in tables["sampling_stages"].rows}
    one, two = tables["sampling"].rows
    assert list(cost) == ["stay1", "up1to0", "stay0"] and sum(row["steps"] for row in cost.values()) == 20
    for column, total in (("GFLOPs", "GFLOPs"), ("ms", "s")):
        scale = 1e-3 if column == "ms" else 1
        assert one[total] == pytest.approx(20 * scale * cost["stay0"][column])
        assert two[total] == pytest.approx(scale * sum(row["steps"] * row[column] for row in cost.values()))
    assert one["time ratio"] == pytest.approx(1) and one["FLOPs ratio"] == 1 > two["FLOPs ratio"]


@pytest.mark.nightly  # a minute and a half, most of it lowering the published networks
def test_the_whole_command_at_its_smallest(tmp_path):
    smallest = [*TINY_FLAGS, "--config.process.num_timesteps=30", "--config.sample.num=2", "--config.model.label_dropout=0"]
    result = launch("launch.benchmark", *smallest, "--repeats=1", f"--out={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"benchmark.{kind}" for kind in ("json", "md", "png")]
    found = json.loads((tmp_path / "benchmark.json").read_text())
    tables = {name: table["rows"] for name, table in found["tables"].items()}
    assert [row["levels"] for row in tables["sampling"]] == [1, 2]
    for table in ("sampling", "training"):
        assert tables[table][0]["FLOPs ratio"] == 1 > tables[table][1]["FLOPs ratio"] > 0
    assert {row["stage"] for row in tables["training_stages"]} == {"stay1", "up1to0", "stay0"}
    preserve, published = (row["low frequencies"] for row in tables["accuracy"] if row["levels"] == 2)
    assert abs(preserve - 1) < abs(published - 1)
    exact, lanczos = (row["error"] for row in tables["up_step_noise"])
    assert exact < 1e-4 and lanczos < 1e-2
    assert all(0 < row["FLOPs ratio"] < 1 for row in tables["published_networks"])
    assert result.stdout.count("## ") == len(tables)


def test_published_code_must_be_there(tmp_path):
    config = Config(model=FlexiUNetConfig(widths=(32, 64, 64, 64)))
    with pytest.raises(InputError, match=r"no guided_diffusion/script_util.py"):
        load_published(str(tmp_path), config)
    with pytest.raises(InputError, match="multiples of 32"):
        load_published(str(tmp_path), TINY)
