"""What every command shares: flags, logging, and user errors as one line instead of a traceback."""

import logging
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import absl.logging
import jax
from absl import app, flags
from tqdm import tqdm

from ssd_jax.config import Config, from_config_dict
from ssd_jax.errors import InputError

# On CPUs XLA hands convolutions to YNNPACK: a training step at full resolution then takes 1.6 times as long as with Eigen.
CPU_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


class _BarHandler(logging.Handler):
    """Prints log records above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; exits with status 2 and one line on stderr if the user's input is at fault."""
    if jax.__version_info__ < (0, 12):  # XLA aborts at a flag it does not know; later ones of the user's own prevail
        os.environ["XLA_FLAGS"] = f"{CPU_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
    logger = logging.getLogger("ssd_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(_BarHandler())
    logger.propagate = False
    absl.logging.set_verbosity(absl.logging.WARNING)
    warnings.showwarning = lambda message, *_: tqdm.write(f"warning: {message}", file=sys.stderr)

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument {argv[1]!r}; options are written --name=value")
        try:
            main()
        except InputError as error:
            _fail(str(error))

    app.run(guarded, flags_parser=_parse)


def read_config(flag: flags.FlagHolder) -> Config:
    """The validated config of a config_file flag. Raises InputError if the file cannot be loaded or the config is bad."""
    try:
        config_dict = flag.value.to_dict()
    except OSError as error:  # ml_collections reports a missing file only here
        raise InputError(" ".join(str(error).split())) from error
    return from_config_dict(config_dict)


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
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections raises the latter kinds for unknown config fields, values of the wrong type and missing files
        _fail(" ".join(str(error).split()))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
