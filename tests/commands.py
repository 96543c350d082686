"""Commands in processes of their own: `launch` in forks, all others as a user types them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import FAST_COMPILE
from tests.forks import ROOT, TIMEOUT, Completed, forked

# The smallest run that there is, for commands with a --config.
TINY = [
    "--config.process.image_size=8",
    "--config.process.num_levels=2",
    "--config.process.num_timesteps=20",
    "--config.model.widths=(8, 16)",
    "--config.model.attention_levels=(1,)",
    "--config.model.num_heads=2",
    "--config.model.label_dropout=0.1",
    "--config.train.steps=3",
    "--config.train.batch_size=8",
    "--config.sample.num=4",
    "--config.sample.num_steps=4",
]


def launch(*arguments: str, devices: int = 1, folder: Path = ROOT) -> Completed:
    """Runs `python -m *arguments` in a folder, on so many fake devices."""
    flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
    return forked("tests.forks:module", *arguments, folder=folder, XLA_FLAGS=flags)


def start_processes(*arguments: str, count: int = 2, **environment: str) -> list[subprocess.Popen[str]]:
    """Starts `python -m *arguments` as a job of so many processes of this machine, each on one fake device."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": FAST_COMPILE, "JAX_PLATFORMS": "cpu", **environment}
    job = ["-m", *arguments, f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}"]
    commands = [[sys.executable, *job, f"--process_id={i}"] for i in range(count)]
    pipes: dict = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(command, cwd=ROOT, env=env, **pipes) for command in commands]


def ended(processes: list[subprocess.Popen[str]]) -> list[Completed]:
    """What the processes of a job say until they end."""
    said = [process.communicate(timeout=TIMEOUT) for process in processes]
    return [Completed(p.args, p.returncode, *each) for p, each in zip(processes, said, strict=True)]


def run(command: list[str], *, folder: Path = ROOT, timeout: float = TIMEOUT, **environment: str) -> Completed:
    """Runs any command in a folder, on CPU."""
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout)
