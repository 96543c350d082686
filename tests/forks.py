"""Python in forks of one process that has imported what they import, so that a command takes no time for imports.

`python -m tests.forks` is that process: a request a line of JSON, an answer a line. Nothing of JAX has run in it.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMEOUT = 900  # seconds: no command of the tests takes a fifth of it
IMPORTED = ("launch.common.command", "ssd_jax.analysis.optimal_process", "ssd_jax.metrics", "matplotlib.figure")
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "agg"}
Completed = subprocess.CompletedProcess[str]


def forked(function: str, *arguments: Any, folder: Path = ROOT, **environment: str) -> Completed:
    """Calls a function, "module:name", in a folder, in a process of its own; arguments are what JSON has.

    Returns:
        What it said, and its exit status; what it raised is in stderr.
    """
    server = _server()
    requests: Any = server.stdin
    answers: Any = server.stdout
    request = [function, arguments, str(folder), {**os.environ, **ENVIRONMENT, **environment}]
    print(json.dumps(request), file=requests, flush=True)
    return Completed(arguments, *json.loads(answers.readline()))


def module(name: str, *arguments: str) -> None:
    """python -m NAME, for `forked`."""
    sys.argv = ["-m", *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


@cache
def _server() -> subprocess.Popen[str]:
    """The one of this process, with whose end its own comes."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "tests.forks"], cwd=ROOT, env={**os.environ, **ENVIRONMENT}, **pipes)


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # what is imported: to take it down again, and copy its pages for that, takes a fork a second
    warnings.filterwarnings("ignore", "os.fork")
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
            if not (child := os.fork()):
                with open(os.devnull) as nothing:
                    for stream, file in enumerate((nothing, out, error)):
                        os.dup2(file.fileno(), stream)
                return _answer(*json.loads(line))
            _, status = os.waitpid(child, 0)
            said = [file.seek(0) or file.read() for file in (out, error)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *said]), flush=True)


def _answer(function: str, arguments: list, folder: str, environment: dict[str, str]) -> None:
    signal.alarm(TIMEOUT)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    module_name, name = function.split(":")
    getattr(importlib.import_module(module_name), name)(*arguments)


if __name__ == "__main__":
    _serve()
