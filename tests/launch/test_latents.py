"""What is known of models of latents before they are trained."""

import json

import pytest

from ssd_jax.config import config_json
from tests.commands import launch
from tests.latents import config_of, latents_in


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The flag of a config on prepared latents of (8, 8), 2 channels."""
    folder = tmp_path_factory.mktemp("latents")
    (folder / "own.py").write_text(
        "from ssd_jax.config import config_from_json, to_config_dict\n"
        f"def get_config():\n    return to_config_dict(config_from_json({config_json(config_of(latents_in(folder)))!r}))\n"
    )
    return f"--config={folder}/own.py"


@pytest.mark.nightly
def test_analysis_compares_operators(config, tmp_path):
    result = launch("launch.analyze", config, "--images=40", f"--out={tmp_path}")
    assert result.returncode == 0 and "Shrunk latents beside smaller pictures" in result.stdout, result.stderr
    found = json.loads((tmp_path / "analysis.json").read_text())["operators"]
    assert [each["operator"] for each in found][:2] == [None, "box"] and found[0]["shape"] == [4, 4]
    assert found[0]["of_latents"] == 0 < found[1]["of_latents"]
    result = launch("launch.optimize", config, "--images=40", "--num_steps=4")
    assert result.returncode == 0 and "timesteps: 19," in result.stdout, result.stderr
