"""Compiled programs: options that they carry themselves, so that whoever runs them need set nothing; what they exchange."""

import importlib.util
import math
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

import jax
from tqdm import tqdm

T = TypeVar("T")
COMPILING = "compiling"  # how the names of threads begin that compile, which nothing can stop
# Packages that bring the compiler of a platform.
COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin")}

# jaxlib 0.10 hands convolutions on CPUs to YNNPACK: a training step at full resolution then takes 1.5 times as long as with
# Eigen. Later ones are as fast by themselves. What else YNNPACK gets by default stays with it, so that a program is the one
# that the flag --xla_cpu_experimental_ynn_fusion_type=-individual_convolution makes. For `jax.jit(..., compiler_options=)`.
_STAYS_WITH_YNNPACK = ("DOT", "REDUCE", "INDIVIDUAL_DOT")
COMPILER_OPTIONS = (
    {"xla_cpu_experimental_ynn_fusion_type": ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in _STAYS_WITH_YNNPACK)}
    if jax.__version_info__ < (0, 11)
    else None
)

_COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|ragged-all-to-all)(-start)?\((.*)"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
# Groups of devices: their number and size, a list of them, or axes of a mesh that is shown before.
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]*)\}|mesh\[(.*?)\] \{(.*?)\})")
_AXIS = re.compile(r"('\w+')=(\d+)")


def has_compiler(platform: str) -> bool:
    """Whether a package is installed that compiles for "tpu" or "cuda"; the hardware may be absent."""
    return any(map(importlib.util.find_spec, COMPILERS[platform]))


def several_at_a_time(jobs: Mapping[str, Callable[[], T]], title: str) -> dict[str, T]:
    """What each of the jobs, which compile programs, returns: as many at a time as there are cores, under a progress bar.

    If one raises, or a signal comes, those that have not begun are left out, and the rest is not waited for.
    """
    pool = ThreadPoolExecutor(os.cpu_count(), COMPILING)
    try:
        begun = {name: pool.submit(job) for name, job in jobs.items()}
        for done in tqdm(as_completed(begun.values()), title, len(begun), unit="program"):
            done.result()
        return {name: each.result() for name, each in begun.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def operations(lowered: Any) -> float:
    """Floating-point operations of a `jax.stages.Lowered`, loops counted once; NaN where the platform does not count."""
    analysis = lowered.cost_analysis()
    return float(analysis["flops"]) if analysis else math.nan


def collectives(program: str) -> dict[str, int]:
    """Bytes that a compiled program's collectives act on, by kind: of whole arrays, gathered, summed or to be scattered.

    `program` is its `as_text()`.
    """
    found: dict[str, int] = {}
    for results, kind, start, rest in _COLLECTIVE.findall(program):
        found[kind] = found.get(kind, 0) + _whole_bytes(results, kind, bool(start), rest)
    return found


def _whole_bytes(results: str, kind: str, start: bool, rest: str) -> int:
    arrays = _ARRAY.findall(results)
    size = sum(int(bits or 8) * math.prod(int(n) for n in shape.split(",") if n) for _, bits, shape in arrays) // 8
    if kind == "reduce-scatter":
        return size * _group_size(rest)  # the result is a part
    if kind == "all-gather" and start:
        return size * _group_size(rest) // (_group_size(rest) + 1)  # a started one shows its parts as well
    return size // 2 if results.startswith("((") else size  # what is summed, and the sum


def _group_size(attributes: str) -> int:
    """How many devices take part in a collective together."""
    found = _GROUPS.search(attributes)
    if found is None:
        return 1
    size, members, mesh, axes = found.groups()
    if axes is not None:
        return math.prod(int(number) for name, number in _AXIS.findall(mesh) if name in axes)
    return int(size) if size else len(members.split(","))


def read_as(function: Callable, tree: Any, *arguments: Any) -> tuple[frozenset, ...]:
    """As which dtypes a function reads every array of its first argument, in flattened order; none if it does not.

    An array that is only ever converted is read as what it is converted to.
    """
    jaxpr = jax.make_jaxpr(function)(tree, *arguments).jaxpr
    return tuple(_dtypes(jaxpr, variable) for variable in jaxpr.invars[: len(jax.tree.leaves(tree))])


def _dtypes(jaxpr: Any, variable: Any) -> frozenset:
    found: frozenset = frozenset()
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        inner = getattr(inner, "jaxpr", inner)
        for i, each in enumerate(equation.invars):
            if each is not variable:
                continue
            if equation.primitive.name == "convert_element_type":
                found |= {equation.params["new_dtype"]}
            elif inner is not None and len(inner.invars) == len(equation.invars):
                found |= _dtypes(inner, inner.invars[i])
            else:
                found |= {variable.aval.dtype}
    return found
