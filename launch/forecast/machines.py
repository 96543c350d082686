"""Machines to compile for: what is known of them (machines.toml), and their devices, which need not be there."""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from ssd_jax.compilation import has_compiler
from ssd_jax.errors import InputError, one_line, unknown_name

DESCRIPTIONS = tomllib.loads(Path(__file__).with_name("machines.toml").read_text())
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
GPUS_PER_NODE = 8
# What is the same for all GPUs of machines.toml.
GPU = """gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory_per_core}
  shared_memory_per_block_optin: {shared_memory_per_block_optin}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {l2_cache}
  clock_rate_ghz: {clock_ghz}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {compute_capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


@dataclass(frozen=True, eq=False)
class Machine:
    """A machine to compile for.

    Attributes:
        name: as the command line has it.
        platform: "tpu", "cuda" or "cpu".
        devices: as JAX would show them.
        memory: bytes of a device that programs can have; None if not known, as on a CPU.
        flops: operations a second of a device, by dtype and precision; none known for a CPU.
        bandwidth: bytes a second between a device and its memory.
        interconnect: bytes a second each way from a device to the others.
        compiler_options: for its programs.
    """

    name: str
    platform: str
    devices: list[Any]
    memory: float | None = None
    flops: dict[str, float] = field(default_factory=dict)
    bandwidth: float | None = None
    interconnect: float | None = None
    compiler_options: dict[str, Any] | None = None


def find_machine(name: str) -> Machine:
    """The machine that is called KIND:SHAPE. Has JAX run on the CPU of this one.

    Raises:
        InputError: if there is none such, or the package that compiles for it is missing.
    """
    kind, _, shape = name.partition(":")
    known = [f"{each}:{described['example']}" for each, described in DESCRIPTIONS.items()] + ["cpu:8"]
    if kind not in (*DESCRIPTIONS, "cpu"):
        raise unknown_name("hardware", name, known)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # JAX writes programs for other machines, but cannot read them
    if kind == "cpu":
        return Machine(name, "cpu", _cpus(name, shape))
    described = DESCRIPTIONS[kind]
    find_devices, share = (_tpus, 1.0) if described["platform"] == "tpu" else (_gpus, GPU_SHARE)
    try:
        devices = find_devices(name, shape, described)
    except InputError:
        raise
    except Exception as error:  # of the plugins: their own kinds
        example = f"{kind}:{described['example']}"
        raise InputError(
            f"--hardware is {name}, but there is none of that shape, as in {example}: {one_line(error)}"
        ) from error
    several = described["platform"] == "cuda" and len(devices) > GPUS_PER_NODE
    return Machine(
        name,
        described["platform"],
        devices,
        described["memory"] * share,
        described["flops"],
        described["bandwidth"],
        described["network" if several else "interconnect"],
        {"xla_gpu_autotune_level": 0} if described["platform"] == "cuda" else None,  # there is no GPU to try things on
    )


def _cpus(name: str, shape: str) -> list[Any]:
    count = _count(name, shape, "cpu:8")
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
    if len(jax.devices()) < count:
        raise InputError(f"--hardware is {name}, but XLA_FLAGS ask for {len(jax.devices())} CPU device(s); leave them out")
    return jax.devices()[:count]


def _tpus(name: str, shape: str, described: dict[str, Any]) -> list[Any]:
    if not has_compiler("tpu"):
        raise _missing(name, "libtpu", "tpu-forecast")
    # It need not look for a TPU, nor tell that it finds none.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is touched, so several forecasts may run at a time
    for quiet in ("TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL"):
        os.environ.setdefault(quiet, "3")
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{name.partition(':')[0]}:{shape}", **described.get("options", {})
    )
    return list(topology.devices)


def _gpus(name: str, shape: str, described: dict[str, Any]) -> list[Any]:
    if not has_compiler("cuda"):
        raise _missing(name, "jax[cuda13]", "gpu-forecast")
    count = _count(name, shape, "h100:8, h100:16")
    nodes, left = divmod(count, GPUS_PER_NODE)
    if nodes and left:
        raise InputError(f"--hardware is {name}, but more than {GPUS_PER_NODE} GPUs must be whole nodes of {GPUS_PER_NODE}")
    shape = f"1x{nodes}x{GPUS_PER_NODE}" if nodes else f"1x1x{count}"
    text = GPU.format(**described["description"], bandwidth=described["bandwidth"], memory=described["memory"])
    return list(topologies.get_topology_desc(platform="cuda", topology=shape, target_config=text).devices)


def _count(name: str, shape: str, example: str) -> int:
    if not shape.isdecimal() or not 0 < int(shape) <= 2**14:
        raise InputError(f"--hardware is {name}, but must name a number of devices, as in {example}")
    return int(shape)


def _missing(name: str, package: str, extra: str) -> InputError:
    return InputError(
        f"--hardware is {name}, whose compiler is not installed: pip install '{package}', the extra {extra} of the package"
    )
