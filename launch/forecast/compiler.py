"""What a compiler says of programs: memory, traffic, collectives. What was compiled once is kept."""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ssd_jax.compilation import collectives, several_at_a_time
from ssd_jax.errors import InputError, one_line
from ssd_jax.files.json_file import read_json, write_json
from ssd_jax.files.paths import cache_folder

from .machines import Machine
from .programs import Program
from .traffic import traffic

FORMAT = 1  # of what is kept
COMPILERS = ("jaxlib", "libtpu", "jax-cuda13-plugin", "jax-cuda12-plugin")
# As libtpu ends a program that is too large: "... temporaries (32.00G) exceeds available HBM (15.75G)", or in short.
TOO_LARGE = re.compile(r"([\d.]+)([KMGT])\)?(?: exceeds available HBM| of [\d.]+[KMGT] hbm)")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

logger = logging.getLogger("ssd_jax")


@dataclass(frozen=True)
class Compiled:
    """A compiled program, each number that of one device.

    Attributes:
        arguments, outputs, temporaries: bytes; outputs without those that take the place of arguments.
        traffic: bytes to and from memory, None if not counted.
        seconds: as the compiler foresees it, None if it does not.
        exchanged: bytes of whole arrays that collectives act on, by kind.
        fits: False if the compiler refused it for its size: `temporaries` is then what it asked for.
    """

    arguments: int
    outputs: int
    temporaries: int
    traffic: float | None
    seconds: float | None
    exchanged: dict[str, int]
    fits: bool = True

    @property
    def memory(self) -> int:
        """Bytes in all."""
        return self.arguments + self.outputs + self.temporaries


def compile_all(programs: Sequence[Program], machine: Machine) -> dict[str, Compiled]:
    """Compiles programs for a machine, several at a time, under a progress bar.

    Raises:
        InputError: if one does not compile, for another reason than its size.
    """
    jobs = {each.name: partial(_figures, each.name, each.lower, machine) for each in programs}
    return several_at_a_time(jobs, f"compiling for {machine.name}")


def _figures(name: str, lower: Callable[[], Any], machine: Machine) -> Compiled:
    """Of one program: read if it was compiled before."""
    lowered = lower()
    file = cache_folder() / "forecast" / f"{_key(lowered, machine)}.json"
    try:
        return Compiled(**read_json(file))
    except FileNotFoundError:
        pass
    except (InputError, TypeError):
        logger.warning("%s is damaged; compiling anew", file)
    figures = _compile(name, lowered, machine)
    try:
        write_json(file, asdict(figures))
    except OSError as error:
        logger.warning("what was compiled is not kept: %s: %s", file, error.strerror)
    return figures


def _key(lowered: Any, machine: Machine) -> str:
    parts = [f"format {FORMAT}", machine.name, lowered.as_text()]
    for package in COMPILERS:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _compile(name: str, lowered: Any, machine: Machine) -> Compiled:
    try:
        compiled = lowered.compile(machine.compiler_options)
    except Exception as error:  # of the compiler
        found = TOO_LARGE.search(str(error))
        if found is None:
            raise InputError(f"program {name} does not compile for {machine.name}: {one_line(error)}") from error
        return Compiled(0, 0, int(float(found[1]) * UNITS[found[2]]), None, None, {}, fits=False)
    memory, costs, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    seconds = costs.get("optimal_seconds", -1)
    return Compiled(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        traffic(text),
        seconds if seconds > 0 else None,
        collectives(text),
    )
