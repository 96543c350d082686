"""The device mesh and what lies where on it.

Two axes over all devices of all processes: "data" and "fsdp". Batches are divided along both; the state of training is
divided along "fsdp" and the same along "data".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ssd_jax.errors import InputError, check_range, section

Tree = Any
AXES = ("data", "fsdp")
WHOLE = PartitionSpec()  # every device holds all of an array
DIVIDED = PartitionSpec(AXES)  # its first axis is divided among all devices
MIN_DIVIDED = 2**12  # elements of an array that is divided along "fsdp": smaller ones take longer to ask for than to hold
MAX_DEVICES = 2**20


@section("mesh")
@dataclass(frozen=True)
class MeshConfig:
    """The mesh of devices that training runs on.

    Attributes:
        data: devices that hold the same part of the state; -1 for those that `fsdp` leaves.
        fsdp: devices that the state (weights, averages, moments of Adam) is divided among; -1 for those that `data` leaves.
    """

    data: int = -1
    fsdp: int = 1

    def __post_init__(self):
        for name in AXES:
            if getattr(self, name) != -1:
                check_range(f"mesh.{name}", getattr(self, name), low=1, high=MAX_DEVICES)
        if self.data == self.fsdp == -1:
            raise InputError("mesh.data and mesh.fsdp are both -1, but only one of them can be all that is left; give one")

    def shape(self, num_devices: int) -> tuple[int, int]:
        """How many devices along each axis. Raises InputError if they are not as many as there are."""
        data, fsdp = self.data, self.fsdp
        if data == -1:
            data = num_devices // fsdp
        elif fsdp == -1:
            fsdp = num_devices // data
        if data * fsdp != num_devices:
            raise InputError(
                f"mesh.data={self.data} and mesh.fsdp={self.fsdp} do not make the {num_devices} device(s) that there are; "
                "their product must, or one of them be -1 and the other divide it"
            )
        return data, fsdp


def make_mesh(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The devices, all that JAX sees if none are given, as a config says; without one all of them along "data".

    Raises:
        InputError: if the config does not fit them.
    """
    devices = jax.devices() if devices is None else devices
    shape = (config or MeshConfig()).shape(len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, WHOLE)


def split_along_batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, DIVIDED)


def spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """How an array of the state lies on `fsdp` devices: its longest axis that they divide is divided, if it is large."""
    divisible = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not divisible or np.prod(shape) < MIN_DIVIDED:
        return WHOLE
    axis = max(divisible, key=lambda each: shape[each])
    return PartitionSpec(*[None] * axis, "fsdp")


def specs(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """The `spec` of every array of a tree."""
    return jax.tree.map(lambda leaf: spec(leaf.shape, mesh.shape["fsdp"]), tree)


def shardings(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """How the arrays of the state lie on a mesh, each by its `spec`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf.shape, mesh.shape["fsdp"])), tree)


def placed(abstract: Tree, where: Tree) -> Tree:
    """The same shapes as `ShapeDtypeStruct`s, to be restored to a sharding, or to a tree of them."""
    if isinstance(where, NamedSharding):
        where = jax.tree.map(lambda _: where, abstract)
    return jax.tree.map(lambda leaf, each: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=each), abstract, where)


def put_batch(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's part of a batch, host arrays, as global arrays: [batch / processes, ...] if split along the batch."""
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
