"""What is known of models of latents before they are trained."""

import json
import re

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


@pytest.mark.nightly
def test_forecasts(config):
    forecast = ["launch.forecast", "--hardware=cpu:2", "--quick"]
    result = launch(*forecast, config, "--samples=8", devices=2)
    assert result.returncode == 0, result.stderr
    assert re.search(r"(?m)^decode +4 +1 ", result.stdout) and "Sampling: whether it fits is not known." in result.stdout
    tiny = ["--config.reconstruction.shape=(16, 16)", "--config.model.widths=(4, 8)", "--config.model.num_groups=2"]
    tiny += ["--config.reconstruction.perceptual_weight=0", "--config.model.attention=False"]
    autoencoder = [*forecast, "--config=autoencoder_openmoji128", *tiny, "--config.train.batch_size=8"]
    result = launch(*autoencoder, devices=2)
    assert result.returncode == 0 and "Sampling" not in result.stdout, result.stderr
    assert re.search(r"(?m)^stay0 +4 +1 ", result.stdout) and "A training step of 8 images, one level" in result.stdout
    result = launch(*autoencoder, "--json", devices=2)
    found = json.loads(result.stdout)
    assert found["sampling"] == {} and found["grids"] is None and found["config"]["model"]["kind"] == "autoencoder"
    result = launch(*autoencoder, "--samples=8", devices=2)
    assert result.returncode == 2 and "--samples is 8, but an autoencoder draws none; leave it out" in result.stderr
