"""The processes of a job find each other: told by flags, or by what started them (SLURM, Open MPI, Cloud TPU)."""

import logging
import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from ssd_jax.errors import InputError, few, one_line

from .backends import has_device

COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first process of a job; found by itself on SLURM, Open MPI, Cloud TPU."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job; 1 for this one alone.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)

SECONDS = 300  # that processes wait for each other
REMEDY = "start all of them, with a --coordinator_address that they can reach, or this one alone with --num_processes=1"

logger = logging.getLogger("ssd_jax")


def join_processes() -> None:
    """Joins the job that this process is part of, if it is; call it before JAX looks for devices.

    Raises:
        InputError: if flags do not go together, or the other processes do not come within SECONDS.
    """
    given = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if given == (None, 1, None) or (given == (None, None, None) and not in_job(os.environ, _has_tpu())):
        return
    settings: dict[str, Any] = {}
    if given != (None, None, None):
        if None in given or int(given[2] or 0) >= int(given[1] or 0):
            raise InputError(
                f"--coordinator_address is {given[0]}, --num_processes {given[1]}, --process_id {given[2]}, but all three "
                "must be given, the last below the second (or --num_processes=1 alone, for a process without others)"
            )
        names = ("coordinator_address", "num_processes", "process_id")
        settings = dict(zip(names, given, strict=True)) | {"cluster_detection_method": "deactivate"}
        if given[2]:
            _await(str(given[0]))
    elif place := place_on_node(os.environ):
        mine, idle = devices_of_process(os.environ, visible_gpus(os.environ), *place)
        settings = {"local_device_ids": mine} if mine else {}
        if idle and place[1] == 0:
            logger.warning("GPUs %s of this node are idle: its %d processes cannot share them evenly", few(idle), place[0])
    # Its handler of SIGTERM would take the signal from ours; the loop of training agrees on interruptions itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**settings, initialization_timeout=SECONDS)
    except Exception as error:  # of gRPC, or of what finds clusters
        raise InputError(f"the processes of the job did not find each other: {one_line(error)}; {REMEDY}") from error
    _quieten()


def _await(address: str) -> None:
    """Waits until something answers there: JAX would end without a word of ours. Raises InputError if nothing does."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"--coordinator_address is {address!r}, but must be HOST:PORT")
    until = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError as error:
            if time.monotonic() > until:
                why = f"within {SECONDS} s: {error.strerror or error}"
                raise InputError(f"the job's first process does not answer at {address} {why}; {REMEDY}") from error
            time.sleep(0.2)


def in_job(environment: Mapping[str, str], has_tpu: bool) -> bool:
    """Whether the environment is that of one of several processes, or of a TPU's host, which knows of others."""
    several = any(int(environment.get(name) or 1) > 1 for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return several or (has_tpu and "TPU_SKIP_MDS_QUERY" not in environment)


def _has_tpu() -> bool:
    return "tpu" in (os.environ.get("JAX_PLATFORMS") or "tpu") and has_device("tpu")


def place_on_node(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """How many processes SLURM or Open MPI runs on this node, and which of them this is; None for others."""
    if "SLURM_LOCALID" in environment:
        counts: list[int] = []  # "2(x3),1": two on each of three nodes, one on the fourth
        for count, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")):
            counts += [int(count)] * int(nodes or 1)
        return counts[int(environment.get("SLURM_NODEID", 0))], int(environment["SLURM_LOCALID"])
    if "OMPI_COMM_WORLD_LOCAL_RANK" in environment:
        return int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"]), int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])
    return None


def visible_gpus(environment: Mapping[str, str]) -> int:
    """How many NVIDIA GPUs this process sees, without asking CUDA, which must not start yet."""
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([each for each in shown.split(",") if each.strip() not in ("", "-1", "NoDevFiles")])
    return len([each for each in Path("/dev").glob("nvidia*") if each.name.removeprefix("nvidia").isdecimal()])


def devices_of_process(
    environment: Mapping[str, str], visible: int, processes: int, process: int
) -> tuple[list[int], list[int]]:
    """Which of the GPUs that it sees a process takes, and which no process of the node does.

    JAX would give each process the one GPU of its own number: seven of eight idle with one process a node, and none where
    SLURM shows every process its own GPUs only.
    """
    own = "SLURM_GPUS_PER_TASK" in environment or "SLURM_TRES_PER_TASK" in environment or visible < processes
    if own:
        return list(range(visible)), []
    each = visible // processes
    return list(range(process * each, (process + 1) * each)), list(range(processes * each, visible))


def _quieten() -> None:
    """Leaves it to the first process to tell how things go; the others tell of what is wrong."""
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        logger.setLevel(logging.WARNING)
        setattr(tqdm, "__init__", partialmethod(tqdm.__init__, disable=True))  # noqa: B010
