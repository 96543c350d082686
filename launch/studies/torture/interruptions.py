"""Runs that are killed at random moments, and go on: the end must be the same, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.config import Config, config_json
from ssd_jax.errors import InputError

LONGEST = 600  # seconds of a life of a run


def run(config: Config, kills: int, terminations: int, seed: int) -> dict[str, Any]:
    """Trains in processes of their own that get SIGKILL or SIGTERM at random moments, again and again.

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
        whole = _weights(_uninterrupted(command, environment, Path(folder, "whole")))
        started = time.monotonic()  # now that the programs are compiled
        if _weights(_uninterrupted(command, environment, Path(folder, "again"))) != whole:
            faults.append("two runs that nothing interrupted differ")
        length = time.monotonic() - started
        workdir, codes, ended, differing = Path(folder, "run"), [], 0, 0
        for number in tqdm(signals, "signals"):
            code = None
            while code is None:  # a run that ended before its signal came is compared, and another one begun
                code = _life(command, environment, workdir, generator.uniform(0, length), number)
                if code is None:
                    ended, differing = ended + 1, differing + (_weights(workdir) != whole)
                    shutil.rmtree(workdir)
            expected = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15)}[number]  # -15 before Python runs
            if code not in expected:
                faults.append(f"{signal.Signals(number).name}: exit code {code}")
            codes.append(code)
        ended, differing = ended + 1, differing + (_weights(_uninterrupted(command, environment, workdir)) != whole)
    found = {"SIGKILL": kills, "SIGTERM": terminations, "exit codes": {str(code): codes.count(code) for code in set(codes)}}
    return found | {"interrupted runs that ended": ended, "that differ": differing, "faults": faults}


def _uninterrupted(command: list[str], environment: dict, workdir: Path) -> Path:
    done = subprocess.run(
        [*command, f"--workdir={workdir}"], env=environment, capture_output=True, text=True, timeout=LONGEST
    )
    if done.returncode:
        raise InputError(f"training fails by itself: {done.stderr[-500:]}")
    return workdir


def _life(command: list[str], environment: dict, workdir: Path, seconds: float, number: int) -> int | None:
    """Exit code of a run that gets a signal after so many seconds; None if it ended before."""
    with subprocess.Popen(
        [*command, f"--workdir={workdir}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        code = process.wait(LONGEST)
    return None if code == 0 else code


def _weights(workdir: Path) -> dict[str, Any]:
    """The digests of all arrays of the latest checkpoint, and the state of its data iterator."""
    latest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else -1)
    (record,) = (latest / "record").glob("*.json")
    plain = json.loads(record.read_text())
    return {"step": latest.name, "data": plain["data"], "arrays": plain["arrays"]}
