"""Eight fake devices and a shared compilation cache for the whole session, set before JAX starts."""

import os
import uuid
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax
import pytest

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig
from ssd_jax.files.paths import to_path
from tests.bucket import served

FAST_COMPILE = "--xla_backend_optimization_level=0"  # compiling is most of what the tests do


@pytest.fixture(scope="session")
def _buckets():
    """A server of buckets, which gs:// is in this process."""
    with served() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def bucket(_buckets):
    """A new folder of a bucket."""
    return to_path(f"gs://bucket/{uuid.uuid4().hex}")


@pytest.fixture
def mesh():
    """The first device alone."""
    return mesh_of(1)


def mesh_of(data: int, fsdp: int = 1) -> jax.sharding.Mesh:
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types, devices=jax.devices()[: data * fsdp])


def tiny_config(folder=None, **train: Any) -> Config:
    """Two levels at 8 px, a network of a few thousand parameters."""
    settings: dict[str, Any] = {
        "steps": 4,
        "batch_size": 24,
        "warmup_steps": 1,
        "log_every": 2,
        "sample_every": 100,
        "cosine_decay": False,  # which compiles another update for every number of steps
    } | train
    return Config(
        data=DataConfig(source="folder", folder=str(folder)) if folder else DataConfig(),
        process=ProcessConfig(image_size=8, num_levels=2, num_timesteps=20),
        model=FlexiUNetConfig(widths=(8, 16), attention_levels=(), num_heads=2),
        train=TrainConfig(**settings),
        sample=SampleConfig(num=4, num_steps=4),
    )
