"""The device mesh: one axis, "data", over all devices of all processes. Batches are split along it, all else replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Tree = Any


def data_mesh() -> jax.sharding.Mesh:
    """All devices on one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split_along_batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def placed(abstract: Tree, sharding: NamedSharding) -> Tree:
    """The same shapes as `ShapeDtypeStruct`s, to be restored with `sharding`."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract)


def put_batch(batch: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, host arrays [batch / processes, ...], as global arrays split along the batch."""
    sharding = split_along_batch(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
