import json
import os
import subprocess
import sys
import time

import pytest

from ssd_jax.errors import InputError
from ssd_jax.files import lease as module
from ssd_jax.files.lease import lease


def write(path, **changes):
    holder = {"machine": module._machine(), "process": os.getpid(), "token": "another"} | changes
    path.write_text(json.dumps(holder))


def test_a_second_one_is_kept_out_until_the_first_has_gone(tmp_path):
    path = tmp_path / "new" / "lock.json"
    with lease(path) as held:
        held.check()
        with (
            pytest.raises(InputError, match=f"in use by process {os.getpid()} on .*; wait for it, stop it, or"),
            lease(path),
        ):
            pass
    assert list(path.parent.iterdir()) == []
    with lease(path):
        pass


def test_another_process_is_kept_out(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ssd_jax.files.lease import lease; lease(Path(sys.argv[1])).__enter__()"
    )
    with lease(tmp_path / "lock.json"):
        run = subprocess.run([sys.executable, "-c", code, tmp_path / "lock.json"], capture_output=True, text=True)
    assert "is in use by process" in run.stderr


def test_a_dead_process_holds_nothing(tmp_path):
    path = tmp_path / "lock.json"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    write(path, process=int(dead.stdout))
    with lease(path) as held:
        held.check()
    write(path)  # this very process, started again under the number that the dead one had
    with lease(path):
        pass


def test_that_of_another_machine_is_waited_for_and_expires(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXPIRES", 1.5)
    write(tmp_path / "lock.json", machine="elsewhere")
    started = time.monotonic()
    with lease(tmp_path / "lock.json"):
        assert 1 < time.monotonic() - started < 30
    write(tmp_path / "lock.json", machine="elsewhere")
    os.utime(tmp_path / "lock.json", (0, 0))  # long expired
    with lease(tmp_path / "lock.json"):
        pass


def test_that_of_another_machine_is_respected_once_it_is_renewed(tmp_path, monkeypatch):
    path = tmp_path / "lock.json"
    write(path, machine="elsewhere")
    os.utime(path, (time.time() - 30, time.time() - 30))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: os.utime(path))
    with pytest.raises(InputError, match="in use by process .* on elsewhere"), lease(path):
        pass


def test_it_is_renewed_and_a_takeover_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RENEWED", 0.05)
    path = tmp_path / "lock.json"
    with lease(path) as held:
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert path.stat().st_mtime > 0
        write(path)
        with pytest.raises(InputError, match="was taken over by process .*: nothing more is written"):
            held.check()
    assert json.loads(path.read_text())["token"] == "another"  # not ours to delete


def test_a_damaged_one_is_somebodys(tmp_path):
    (tmp_path / "lock.json").write_text("{")
    os.utime(tmp_path / "lock.json", (0, 0))
    with lease(tmp_path / "lock.json"):
        pass
