"""A network of one's own: one file, one line in NETWORKS. It trains, resumes, and is sampled by a fresh process.

`--import tests.run.test_own_network` is how that process learns of it.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ssd_jax
from ssd_jax.config import Config, DataConfig, ProcessConfig, SampleConfig, TrainConfig, config_from_json, config_json
from ssd_jax.errors import InputError, check_range
from ssd_jax.network import NETWORKS
from tests.commands import launch

SHAPE = (4, 8)


@dataclass(frozen=True)
class DenseConfig:
    """Settings that look like nobody else's."""

    hidden: int = 8
    num_classes: int = 0
    label_dropout: float = 0.0

    def __post_init__(self):
        check_range("model.hidden", self.hidden, low=1)


class Dense(nnx.Module):
    """A hidden layer between all pixels of one level and all pixels of another."""

    def __init__(self, config: DenseConfig, *, shapes, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        sizes = [int(np.prod(shape)) for shape in shapes]
        self.shapes, self.out_channels = shapes, out_channels
        self.inward = nnx.List([nnx.Linear(size * in_channels + 1, config.hidden, rngs=rngs) for size in sizes])
        self.outward = nnx.List([nnx.Linear(config.hidden, size * out_channels, rngs=rngs) for size in sizes])

    @property
    def num_levels(self) -> int:
        return len(self.shapes)

    def __call__(self, x, t, label=None, *, in_level, out_level, dropout_keys=None):
        flat = jnp.concatenate([x.reshape(len(x), -1), t[:, None] / 100], axis=1)
        out = self.outward[out_level](nnx.silu(self.inward[in_level](flat)))
        return out.reshape(len(x), *self.shapes[out_level], self.out_channels)


NETWORKS["dense"] = (DenseConfig, Dense)


def config(steps: int) -> Config:
    return Config(
        data=DataConfig(channels=1),
        process=ProcessConfig(shape=SHAPE, num_levels=2, num_timesteps=20),
        model=DenseConfig(hidden=6),
        train=TrainConfig(steps=steps, batch_size=24, warmup_steps=1, log_every=2, sample_every=100, cosine_decay=False),
        sample=SampleConfig(num=4, num_steps=5),
    )


IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE, 1), np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps, then three more."""
    workdir = tmp_path_factory.mktemp("dense")
    ssd_jax.train(config(3), workdir, source=IMAGES)
    ssd_jax.train(config(6), workdir, source=IMAGES)
    return workdir


def test_it_trains_and_resumes(run, tmp_path):
    ssd_jax.train(config(6), tmp_path, source=IMAGES)
    resumed, whole = (jax.tree.leaves(ssd_jax.load(folder).network.parameters) for folder in (run, tmp_path))
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert ssd_jax.load(run).sample(jax.random.key(0), 2).shape == (2, *SHAPE, 1)


def test_a_fresh_process_samples_it(run, tmp_path):
    arguments = ["launch.sample", f"--workdir={run}", "--num=2", "--num_steps=4"]
    result = launch(*arguments, "--import=tests.run.test_own_network", f"--out={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "out" / "samples.npz")["images"].shape == (2, *SHAPE, 1)
    result = launch(*arguments, f"--out={tmp_path}/not")  # nothing is imported because a file of a run names it
    assert result.returncode == 2 and "model.kind is 'dense', but must be one of: flexi_unet" in result.stderr
    assert "--import MODULE" in result.stderr and not (tmp_path / "not").exists()


def test_evaluation_asks_for_a_reference(run):
    result = launch("launch.evaluate", f"--workdir={run}", "--num=4", "--import=tests.run.test_own_network")
    assert result.returncode == 2 and "--reference" in result.stderr and "sampling" not in result.stderr, result.stderr
    assert not (run / "samples" / "evaluation").exists()


def test_its_config_is_as_strict_as_others():
    assert config_from_json(config_json(config(3))) == config(3)
    text = config_json(config(3))
    for old, new, message in (
        ('"hidden": 6', '"hidden": 0', "model.hidden is 0, but must be >= 1"),
        ('"hidden": 6', '"hidden": "many"', "model.hidden is 'many', but must be of type int"),
        ('"hidden": 6', '"widths": [3]', "config field of model is 'widths'.*hidden, num_classes"),
    ):
        with pytest.raises(InputError, match=message):
            config_from_json(text.replace(old, new))


def test_data_from_python_is_recorded_and_asked_for(run, tmp_path):
    trained = ssd_jax.load(run)
    assert trained.config.data.source == "python" and trained.config.data.channels == 1
    with pytest.raises(InputError, match=r"trained on data given from Python.*source=.*--reference"):
        ssd_jax.train(replace(config(9), data=trained.config.data), run)
    sources: tuple[tuple[Any, str], ...] = (
        (IMAGES[:, :2], r"images of source are uint8 \(2, 8, 1\), but process.shape.*uint8 \(4, 8, 1\)"),
        (IMAGES.astype(np.float32), r"images are float32 \(40, 4, 8, 1\), but must be uint8"),
        (IMAGES.repeat(3, axis=-1), "data.channels is 1, but the data have 3"),
    )
    for source, message in sources:
        with pytest.raises(InputError, match=message):
            ssd_jax.train(config(3), tmp_path / "new", source=source)
    assert not (tmp_path / "new").exists()
