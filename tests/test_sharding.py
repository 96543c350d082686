"""Meshes, and what lies where on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ssd_jax.config import Config, config_from_json, config_json
from ssd_jax.errors import InputError
from ssd_jax.sharding import MeshConfig, make_mesh, placed, shardings, spec
from tests.conftest import mesh_of


@pytest.mark.parametrize(
    ("data", "fsdp", "shape"), [(-1, 1, (8, 1)), (1, -1, (1, 8)), (2, -1, (2, 4)), (-1, 2, (4, 2)), (4, 2, (4, 2))]
)
def test_meshes_of_eight_devices(data, fsdp, shape):
    mesh = make_mesh(MeshConfig(data, fsdp))
    assert mesh.axis_names == ("data", "fsdp") and mesh.devices.shape == shape
    assert make_mesh().devices.shape == (8, 1)


@pytest.mark.parametrize(("data", "fsdp"), [(4, 1), (-1, 3), (16, -1), (-1, 16), (3, 3)])
def test_meshes_that_do_not_fit_the_devices(data, fsdp):
    with pytest.raises(InputError, match=f"mesh.data={data} and mesh.fsdp={fsdp} do not make the 8 device"):
        make_mesh(MeshConfig(data, fsdp))


def test_meshes_that_cannot_be():
    with pytest.raises(InputError, match="both -1"):
        MeshConfig(-1, -1)
    for bad in (0, -2, 2.5):
        with pytest.raises(InputError, match="mesh.fsdp is"):
            MeshConfig(fsdp=bad)  # type: ignore[arg-type]


def test_runs_from_before_meshes_are_read():
    config = Config(mesh=MeshConfig(fsdp=2))
    assert config_from_json(config_json(config)) == config
    assert config_from_json('{"format": 2, "train": {}}').mesh == MeshConfig()


def test_the_longest_axis_that_devices_divide_is_divided_if_the_array_is_large():
    assert spec((3, 3, 64, 128), 4) == PartitionSpec(None, None, None, "fsdp")
    assert spec((3, 3, 130, 64), 4) == PartitionSpec(None, None, None, "fsdp")
    assert spec((3, 3, 65, 66), 4) == spec((64,), 4) == spec((), 4) == spec((64, 64, 64), 1) == PartitionSpec()
    tree = {"a": jnp.zeros((64, 128)), "b": jnp.zeros(7)}
    where = shardings(tree, mesh_of(2, 4))
    born = jax.jit(lambda: tree, out_shardings=where)()
    assert born["a"].addressable_shards[0].data.shape == (64, 32) and born["b"].is_fully_replicated
    assert placed(jax.eval_shape(lambda: tree), where)["a"].sharding == where["a"]
    np.testing.assert_array_equal(born["a"], tree["a"])
