"""How .ci/run chooses its Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT


@pytest.fixture
def machine(tmp_path):
    """A machine whose Pythons are made up: pretend("bin/python3.13", answer) makes one."""
    (tmp_path / "bin").mkdir()
    for tool in ("mktemp", "rm"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))

    def pretend(place: str, answer: str) -> None:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{answer}\n")
        path.chmod(0o755)

    def choose(function: str) -> str:
        script = f"set -euo pipefail; source {ROOT}/.ci/functions; {function}"
        environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
        bash = str(shutil.which("bash"))
        result = subprocess.run([bash, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
        return str(Path(result.stdout.strip()).relative_to(tmp_path)) if result.returncode == 0 else "none"

    return pretend, choose


def test_the_newest_python_is_chosen_from_path_and_pyenv(machine):
    pretend, choose = machine
    assert choose("main_python") == "none"
    pretend("bin/python3", "echo 3.14")
    assert choose("main_python") == "bin/python3"
    pretend("bin/python3.11", "echo 3.11")
    assert choose("main_python") == choose("find_python 3.11") == "bin/python3.11"
    pretend(".pyenv/versions/3.12.1/bin/python3.12", "echo 3.12")
    assert choose("main_python") == ".pyenv/versions/3.12.1/bin/python3.12"
    pretend("bin/python3.13", "exit 127")  # a shim that refuses, or a Python that cannot make environments
    assert choose("main_python") == ".pyenv/versions/3.12.1/bin/python3.12"
    pretend(".pyenv/versions/3.13.0/bin/python3.13", "echo 3.13")
    assert choose("main_python") == ".pyenv/versions/3.13.0/bin/python3.13"


def test_a_part_that_fails_ends_the_run(machine):
    _, choose = machine
    assert choose("failing() { false; true; }; part failing failing; echo /") == "none"
