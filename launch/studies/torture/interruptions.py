"""Runs that are killed at random moments, and go on: the end must be the same, bit for bit."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.config import Config, config_json
from ssd_jax.errors import InputError

LONGEST = 600  # seconds of a life of a run


def run(config: Config, kills: int, terminations: int, seed: int, processes: int = 1) -> dict[str, Any]:
    """Trains in processes of their own that get SIGKILL or SIGTERM at random moments, again and again.

    Args:
        config: of the run.
        kills, terminations: how many signals of either kind.
        seed: of the moments and the order.
        processes: of a job, each on a device of its own. All of them get the signal.

    Returns:
        How many signals of either kind came while a run was alive, after which exit codes; how many runs that were
        interrupted came to their end; how many of these differ from one that was not; what went wrong, a line each.
    """
    generator, faults = np.random.default_rng(seed), []
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terminations
    generator.shuffle(signals)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "own.py")
        file.write_text(
            "from ssd_jax.config import config_from_json, to_config_dict\n"
            f"def get_config():\n    return to_config_dict(config_from_json({config_json(config)!r}))\n"
        )
        command = [sys.executable, "-m", f"{__name__.partition('.studies')[0]}.train", f"--config={file}"]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"}
        job = Job(command, environment, processes)
        whole = _weights(job.whole(Path(folder, "whole")))
        started = time.monotonic()  # now that the programs are compiled
        if _weights(job.whole(Path(folder, "again"))) != whole:
            faults.append("two runs that nothing interrupted differ")
        length = time.monotonic() - started
        workdir, codes, ended, differing = Path(folder, "run"), [], 0, 0
        for number in tqdm(signals, "signals"):
            code = None
            while code is None:  # a run that ended before its signal came is compared, and another one begun
                code = job.life(workdir, generator.uniform(0, length), number)
                if code is None:
                    ended, differing = ended + 1, differing + (_weights(workdir) != whole)
                    shutil.rmtree(workdir)
            # -15 before Python runs; -6 where others of the job have gone already, which JAX cannot bear
            expected = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15, *([-6] if processes > 1 else []))}[number]
            if code not in expected:
                faults.append(f"{signal.Signals(number).name}: exit code {code}")
            codes.append(code)
        ended, differing = ended + 1, differing + (_weights(job.whole(workdir)) != whole)
    found = {"SIGKILL": kills, "SIGTERM": terminations, "exit codes": {str(code): codes.count(code) for code in set(codes)}}
    return found | {"interrupted runs that ended": ended, "that differ": differing, "faults": faults}


@dataclass(frozen=True)
class Job:
    """A command that trains, by one process or several of this machine.

    Attributes:
        command: without the workdir.
        environment: of it.
        processes: how many.
    """

    command: list[str]
    environment: dict[str, str]
    processes: int

    def _started(self, workdir: Path) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [*self.command, f"--workdir={workdir}"]
        commands = [command]
        if self.processes > 1:
            command += [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={self.processes}"]
            commands = [[*command, f"--process_id={i}"] for i in range(self.processes)]
        pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return [subprocess.Popen(each, env=self.environment, **pipes) for each in commands]

    def whole(self, workdir: Path) -> Path:
        """The workdir of a run that nothing interrupts."""
        started = self._started(workdir)
        said = [process.communicate(timeout=LONGEST)[1] for process in started]
        for process, each in zip(started, said, strict=True):
            if process.returncode:
                raise InputError(f"training fails by itself: {each[-500:]}")
        return workdir

    def life(self, workdir: Path, seconds: float, number: int) -> int | None:
        """Exit code of the first process of a run whose processes all get a signal after so many seconds; None if it ended
        before."""
        started = self._started(workdir)
        try:
            started[0].communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for process in started:
                process.send_signal(number)
        for process in started:
            process.communicate(timeout=LONGEST)
        return started[0].returncode or None


def _weights(workdir: Path) -> dict[str, Any]:
    """The digests of all arrays of the latest checkpoint, and the state of its data iterator."""
    latest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else -1)
    (record,) = (latest / "record").glob("*.json")
    plain = json.loads(record.read_text())
    return {"step": latest.name, "data": plain["data"], "arrays": plain["arrays"]}
