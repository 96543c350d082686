"""The parts of the torture study, each at a size that takes a moment."""

from typing import Any

import numpy as np
import pytest

from launch.studies.torture import checkpoints, configs, hostile
from ssd_jax.config import from_config_dict
from tests.conftest import tiny_config


def test_random_configs_are_refused_or_built():
    result = configs.run(16, seed=3, num_trained=0)
    assert result["accepted"] + result["refused"] == 16 and min(result["accepted"], result["refused"]) > 1
    assert result["faults"] == [] and result["over 10 s"] == 0


def test_the_base_is_accepted_and_overrides_reach_all_sections():
    from_config_dict(configs.overridden({}))
    generator = np.random.default_rng(0)
    assert {section for _ in range(60) for section, _ in configs.random_overrides(generator)} == set(configs.SECTIONS)


def test_a_fault_is_counted(monkeypatch):
    def broken(config: Any):
        raise KeyError("x")

    monkeypatch.setattr(configs.ssd_jax, "build", broken)
    result = configs.run(10, seed=3, num_trained=0)
    assert result["faults"] and result["accepted"] == 0
    assert all("KeyError in broken" in fault and len(fault.splitlines()) == 1 for fault in result["faults"])


def test_hostile_files_are_refused():
    result = hostile.run(40, seed=1)
    assert result["files"] == 40 and result["faults"] == [] and result["refused"] > 20


@pytest.mark.nightly  # reads as many checkpoints as it flips bits
def test_flips_are_counted():
    result = checkpoints.flips(tiny_config(), 3, seed=0)
    assert result["faults"] == [] and "wrong" not in result
    assert sum(result.get(name, 0) for name in ("untouched", "the one before", "refused")) == result["read"] == 6
