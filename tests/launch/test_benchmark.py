import pytest

from launch.benchmark.reference import load_published
from launch.benchmark.sampling import sampling
from launch.benchmark.timing import time_in_turns
from ssd_jax.config import Config, ModelConfig, ProcessConfig, SampleConfig
from ssd_jax.errors import InputError

TINY = Config(
    process=ProcessConfig(image_size=8, num_levels=2, num_timesteps=20),
    model=ModelConfig(widths=(8, 16), attention_levels=(1,), num_heads=2),
    sample=SampleConfig(num=2),
)


def test_contestants_take_turns():
    runs = []
    timings = time_in_turns({name: lambda name=name: runs.append(name) for name in "ab"}, repeats=2)
    assert runs == list("ababab")
    assert set(timings) == {"a", "b"}


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


def test_published_code_must_be_there(tmp_path):
    config = Config(model=ModelConfig(widths=(32, 64, 64, 64)))
    with pytest.raises(InputError, match=r"no guided_diffusion/script_util.py"):
        load_published(str(tmp_path), config)
    with pytest.raises(InputError, match="multiples of 32"):
        load_published(str(tmp_path), TINY)
