"""Commands: python -m launch.NAME."""

import os
import signal
import sys


def _interrupted(number: int, _) -> None:
    """Ctrl-C while a command still imports what it needs is one line as well."""
    print("interrupted", file=sys.stderr)
    os._exit(128 + number)


# The first module of a command; `common.command.run` puts Python's handler back. Python has "-m" there at first.
if os.path.basename(sys.argv[0]) in ("-m", "ssd-jax"):
    signal.signal(signal.SIGINT, _interrupted)
