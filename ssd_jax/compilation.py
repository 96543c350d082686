"""Compiled programs: options that they carry themselves, so that whoever runs them need set nothing; what they exchange."""

import math
import re

import jax

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
    r" = (.*?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|ragged-all-to-all)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


def collective_bytes(program: str) -> int:
    """Bytes of what the collectives of a compiled program result in on a device; `program` is the `as_text()` of it."""
    arrays = [each for results in _COLLECTIVE.findall(program) for each in _ARRAY.findall(results)]
    return sum(int(bits or 8) * math.prod(int(n) for n in shape.split(",") if n) for _, bits, shape in arrays) // 8
