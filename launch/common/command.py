"""What every command shares: flags, logging, and user errors as one line instead of a traceback."""

import importlib
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import absl.logging
import jax
from absl import app, flags
from tqdm import tqdm

from ssd_jax.compilation import COMPILING
from ssd_jax.errors import InputError, one_line
from ssd_jax.files.paths import PACKAGES

from .backends import leave_out_absent
from .compilation_cache import keep_compiled_programs
from .config_flag import FIRST, parse_fields
from .processes import join_processes
from .usage import unknown_flag, usage

IMPORT = flags.DEFINE_multi_string(
    "import",
    [],
    "Module that registers networks, operators or sources of your own.",
    flag_values=FIRST,
)
HELP = flags.DEFINE_bool("help", False, "Prints this and ends.", flag_values=FIRST)


class _BarHandler(logging.Handler):
    """Prints log records above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; exits with status 2 and one line on stderr if the user's input is at fault."""
    logger = logging.getLogger("ssd_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(_BarHandler())
    logger.propagate = False
    absl.logging.set_verbosity(absl.logging.FATAL)  # Orbax tells at length what our own checks say in a line,
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and leaves tasks that failed to be found one by one
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = _tell_unraisable
    warnings.showwarning = lambda message, *_: tqdm.write(f"warning: {message}", file=sys.stderr)

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            fail(f"unexpected argument {argv[1]!r}; options are written --name=value")
        keep_compiled_programs()
        leave_out_absent()
        try:
            join_processes()
            main()
        except InputError as error:
            fail(str(error).partition("\n")[0])  # to errors of its workers Grain adds lines of its own
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            fail(f"{where}{error.strerror or error}; nothing is left half-written")
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in PACKAGES:
                raise
            fail(f"a bucket does not answer: {one_line(error)}; run the same again")
        except KeyboardInterrupt:
            tqdm.write("interrupted", file=sys.stderr)
            _leave(128 + signal.SIGINT)
        except SystemExit as end:
            _leave(end.code)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _end)
    app.run(guarded, flags_parser=_parse)


def _tell_unraisable(unraisable: Any) -> None:
    """Python's own, but for what every thread of TensorStore tells of a save that failed: an InputError says it already."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _end(number: int, _) -> NoReturn:
    """Ends the command as a signal asks, in one line, leaving all that must be closed."""
    tqdm.write(f"ended by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(128 + number)


def _leave(code: Any) -> NoReturn:
    """Ends the process; at once if programs are being compiled: Python would wait for them, minutes."""
    if any(thread.name.startswith(COMPILING) for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(int(code or 0))
    sys.exit(code)


def provenance() -> dict[str, str | int | None]:
    """What computed a number: devices, versions, commit. For the records that commands write."""
    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "flax", "numpy")},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
    }


def _commit() -> str:
    """The commit of this checkout, "-dirty" if files differ from it; "unknown" outside of one."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _parse(argv: list[str]) -> list[str]:
    try:
        argv = FIRST(argv, known_only=True)
        for name in IMPORT.value:
            _import(name)
        config = FIRST.config if "config" in FIRST else None
        if "config" in FIRST and not (HELP.value and config is None):
            argv = parse_fields(config, argv)
        if HELP.value:
            print(usage())
            sys.exit()
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        fail(str(unknown_flag(error.flagname)))
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections raises the latter kinds for unknown config fields and values of the wrong type
        fail(" ".join(str(error).split()))


def _import(name: str) -> None:
    """Imports a module. Raises InputError if that fails."""
    try:
        importlib.import_module(name)
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"--import {name}: {message}; it must be a module in this folder or an installed one") from error


def fail(message: str) -> NoReturn:
    """Ends the command: status 2, and the message as one line on stderr."""
    print(f"error: {message}", file=sys.stderr)
    _leave(2)
