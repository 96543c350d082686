"""A run whose config names an unknown operator: nothing is imported, and one line says how to go on."""

import re
import sys
from dataclasses import replace

import pytest

import ssd_jax
from ssd_jax.config import ProcessConfig, config_json
from ssd_jax.errors import InputError
from ssd_jax.process.operators import OPERATORS, box
from tests.conftest import tiny_config

NAME = "beside:operator"  # as earlier versions had it: module:function


@pytest.fixture
def workdir(monkeypatch, tmp_path):
    monkeypatch.setitem(OPERATORS, NAME, box)
    config = replace(tiny_config(), process=ProcessConfig(image_size=8, num_levels=2, operator=NAME))
    (tmp_path / "config.json").write_text(config_json(config))
    (tmp_path / "beside.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(OPERATORS, NAME)
    return tmp_path


def test_it_is_not_imported(workdir):
    with pytest.raises(InputError, match=re.escape(f"OPERATORS[{NAME!r}] = .. and give --import MODULE, or ssd_jax.load(")):
        ssd_jax.load(workdir)
    assert "beside" not in sys.modules and NAME not in OPERATORS


def test_it_is_given_to_load(workdir):
    for _ in range(2):
        with pytest.raises(InputError, match="checkpoint"):  # the config is read; there is nothing else
            ssd_jax.load(workdir, operator=box)
        assert OPERATORS[NAME] is box
    with pytest.raises(InputError, match=f"the run's, {NAME!r}, is registered already"):
        ssd_jax.load(workdir, operator=OPERATORS["bilinear"])
