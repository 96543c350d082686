"""Bytes that a compiled program moves to and from a device's memory, read off its text.

Compilers' own counts add what TPUs copy between memories on the chip, and those of GPUs have none.
"""

import math
import re

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^ *(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](\{[^}]*\})?")
NAME = re.compile(r"%([\w.-]+)")
CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation|branch_computations)=\{?([^,}]*(?:, %[^,}]*)*)"
)
# Those that move nothing.
STILL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "opt-barrier"}
# Those whose computations move it for them.
CALLERS = {"while", "conditional", "call", "async-start"}


def traffic(program: str) -> int:
    """Bytes that every instruction reads and writes in the memory of the device; the bodies of loops once.

    What lies elsewhere, as the memory on a TPU's chip (S(1) in layouts), does not count; nor do tiles that are not full.

    Args:
        program: its `as_text()`, after optimisation.
    """
    computations: dict[str, list[tuple[str, str, str]]] = {}
    sizes: dict[str, int] = {}
    entry = name = ""
    for line in program.splitlines():
        if found := COMPUTATION.match(line):
            name = found[2]
            computations[name] = []
            entry = name if found[1] else entry
        elif found := INSTRUCTION.match(line):
            instruction, results, kind, rest = found.groups()
            sizes[instruction] = _bytes(results)
            computations[name].append((instruction, kind, rest))

    def moved(computation: str) -> int:
        total = 0
        for instruction, kind, rest in computations[computation]:
            if kind in CALLERS:
                total += sum(moved(each) for group in CALLED.findall(rest) for each in NAME.findall(group))
            elif kind.endswith("-start"):  # its results are the arrays on both sides
                total += sizes[instruction]
            elif kind not in STILL and not kind.endswith("-done"):
                operands = set(NAME.findall(rest.partition(")")[0]))
                total += sizes[instruction] + sum(sizes.get(each, 0) for each in operands)
        return total

    return moved(entry)


def _bytes(results: str) -> int:
    """Of the arrays of a type that lie in the memory of the device."""
    arrays = [found for found in ARRAY.findall(results) if "S(" not in found[3]]
    return sum(int(bits or 8) * math.prod(int(n) for n in shape.split(",") if n) for _, bits, shape, _ in arrays) // 8
