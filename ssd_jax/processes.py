"""The processes of a job: every one runs the same program; the first writes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from ssd_jax.errors import InputError
from ssd_jax.sharding import replicated

Tree = Any


def first_does(function: Callable[[], Any]) -> None:
    """Calls a function in the first process, while the others wait: what writes to a folder that all of them see.

    Raises:
        InputError: in the others, if the function raises.
    """
    error: Exception | None = None
    if jax.process_index() == 0:
        try:
            function()
        except Exception as raised:  # the others must not wait for ever
            error = raised
    failed = jax.process_count() > 1 and bool(broadcast_one_to_all(np.array(error is not None)))
    if error is not None:
        raise error
    if failed:
        raise InputError("the first process failed; its message says why")


def everywhere(fact: bool) -> bool:
    """Whether it is so in every process: what they find on their own disks may differ, what they do together must not."""
    return fact if jax.process_count() == 1 else bool(np.all(process_allgather(np.array(fact))))


def gathered(tree: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """Arrays that the devices of several processes share, whole in each of them."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree) if jax.process_count() > 1 else tree
