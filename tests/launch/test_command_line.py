"""What all commands share: their list, --help, --config and --import."""

import os
import re
import signal as signals
import subprocess
import sys
import time
from typing import Any

import pytest
from absl import flags

from launch.common import config_flag
from launch.common.config_flag import FOLDER, load_config, parse_fields, shipped
from ssd_jax.errors import InputError
from ssd_jax.training.config import OptimizerConfig
from tests.commands import ROOT, TINY, launch, run
from tests.conftest import FAST_COMPILE

OWN = """
import dataclasses

from ssd_jax.config import Config, TrainConfig, to_config_dict


def get_config():
    return to_config_dict(Config(train=TrainConfig(steps=7)))
"""


def test_commands_are_listed_at_once():
    imported = "import sys; sys.argv = ['launch']; from launch.__main__ import main; main(); print('jax' in sys.modules)"
    *lines, jax_is_there = run([sys.executable, "-c", imported]).stdout.splitlines()
    assert jax_is_there == "False"
    for name in ("train", "sample", "evaluate", "experiment", "gaussian_error", "handover", "diagnose", "benchmark"):
        (line,) = [line for line in lines if line.split()[0] == name]
        assert len(line.split()) > 5
    assert not {"common", "studies", "command", "report"} & {line.split()[0] for line in lines}


def test_unknown_command():
    result = launch("launch", "trian")
    assert result.returncode == 2 and result.stderr.startswith(
        "error: command is 'trian', but must be one of: allocation, "
    )
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["sample", "train", "evaluate"])
def test_help_has_all_flags_and_no_others(command):
    result = launch("launch", command, "--help")
    assert result.returncode == 0 and not result.stderr
    parts = result.stdout.split("\n\n")
    found = {title: re.findall(r"^  --(?:\[no\])?([\w-]+)", part, re.M) for part in parts for title in [part.split(":")[0]]}
    assert found[command] == defined_in(f"{command}.py")
    assert found["every command"] == ["import", "help"]
    shared = ["processes"] if command == "train" else ["processes", "run flags", "sampler flags"]
    shared += ["bits"] if command == "evaluate" else []
    others = {title: defined_in(f"common/{title.replace(' ', '_')}.py") for title in shared}
    others |= {"config": ["config"]} if command == "train" else {}
    assert all(found[title] == names for title, names in others.items())
    assert len([title for title, names in found.items() if names]) == 2 + len(others)


def defined_in(file: str) -> list[str]:
    return re.findall(r'DEFINE_\w+\(\s*"([\w-]+)"', (ROOT / "launch" / file).read_text())


def test_help_tells_defaults():
    text = " ".join(launch("launch.sample", "--help").stdout.split())
    for told in ("--workdir Folder of a trained run. (required)", "--num Images. (default: 64)", "--animation <gif|webp>:"):
        assert told in text
    text = launch("launch.train", "--config=openmoji32", "--config.train.steps=9", "--help").stdout
    for told in ("data.source=openmoji", "data.folder", "model.widths='(24, 48, 64)'", "train.steps=9"):
        assert f"  --config.{told}\n" in text


def test_shipped_configs_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    assert "openmoji32" in shipped() and not [name for name in shipped() if name.startswith("_")]
    assert load_config("blur32") == load_config(str(FOLDER / "blur32.py"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openmoji32.py").write_text(OWN)
    assert load_config("openmoji32").to_dict()["train"]["steps"] == 1700
    assert load_config("openmoji32.py").to_dict()["train"]["steps"] == 7


def test_configs_that_take_an_argument(tmp_path, monkeypatch):
    published = load_config("celeba64:published")
    assert published == load_config(f"{FOLDER / 'celeba64.py'}:published") and published != load_config("celeba64")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own:1.py").write_text(OWN)
    assert load_config("own:1.py").to_dict()["train"]["steps"] == 7


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "openmoji",
            None,
            "config is 'openmoji', but must be a Python file that exists or one of: autoencoder_openmoji128, benchmark64",
        ),
        ("celeba64:x", None, "variant of the config is 'x', but must be one of: ours, published"),
        ("openmoji32:x", None, "config 'openmoji32:x' fails: TypeError: get_config() takes 0 positional arguments"),
        (
            "nowhere.py:x",
            None,
            "'nowhere.py', but must be a Python file that exists or one of: autoencoder_openmoji128, benchmark64",
        ),
        (
            "nowhere.py",
            None,
            "'nowhere.py', but must be a Python file that exists or one of: autoencoder_openmoji128, benchmark64",
        ),
        ("own.py", "steps = 3\n", "'own.py' must have a function get_config"),
        ("own.py", "def get_config():\n    return {}\n", "'own.py' must have a function get_config"),
        ("own.py", "\nimport nothing_of_that_name\n", "'own.py' fails, line 2: ModuleNotFoundError: No module named"),
        ("own.py", "def get_config():\n    return 1 / 0\n", "'own.py' fails, line 2: ZeroDivisionError"),
        ("own.py", "def get_config(:\n", "'own.py' fails: SyntaxError"),
        ("own.py", OWN.replace("steps=7", "steps=0"), "train.steps is 0, but must be >= 1"),
    ],
)
def test_configs_that_cannot_be_loaded(name, content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        load_config(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_own_config_and_own_modules(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "kinds.py").write_text("from ssd_jax.process.operators import OPERATORS, box\n\nOPERATORS['mine'] = box\n")
    tiny = [flag for flag in TINY if "process" in flag or "model.w" in flag or "model.a" in flag]
    analyze = ["launch", "analyze", "--config=own.py", *tiny, "--spectrum=natural", "--config.process.operator=mine"]
    result = launch(*analyze, "--import=kinds", folder=tmp_path)
    assert result.returncode == 0 and "relative error" in result.stdout, result.stderr
    result = launch(*analyze, folder=tmp_path)
    assert result.returncode == 2 and "process.operator is 'mine', but must be one of" in result.stderr
    result = launch(*analyze, "--import=kinds", "--import=kindz", folder=tmp_path)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: --import kindz: ModuleNotFoundError: No module named 'kindz'")


COMPILES = """
import jax
from launch.common.command import run
run(lambda: print(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((4, 4)))))
"""


def test_compiled_programs_are_kept_and_checked(tmp_path):
    def command(cache: str = str(tmp_path)) -> tuple[str, str]:
        seconds = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0"
        environment = ["env", f"XDG_CACHE_HOME={cache}", "JAX_COMPILATION_CACHE_DIR=", seconds]
        result = run([*environment, sys.executable, "-c", COMPILES])
        assert result.returncode == 0, result.stderr
        return result.stdout, result.stderr

    assert command() == ("64.0\n", "")
    files = sorted((tmp_path / "ssd_jax" / "compiled").glob("jit_*-cache"))
    written = [path.read_bytes() for path in files]
    assert files and command() == ("64.0\n", "") and [path.read_bytes() for path in files] == written
    for path, content in zip(files, written, strict=True):
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    result, said = command()
    assert result == "64.0\n" and said.count("warning: Error reading persistent compilation cache entry") == len(files)
    result, said = command("/dev/null")
    assert result == "64.0\n" and said.splitlines() == [
        "compiled programs are not kept: /dev/null/ssd_jax/compiled cannot be made: Not a directory"
    ]


@pytest.mark.nightly
def test_a_second_start_of_a_job_compiles_nothing(tmp_path):
    kept = []
    for start in ("first", "second"):
        cache = {"JAX_COMPILATION_CACHE_DIR": "", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment: dict[str, Any] = {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": FAST_COMPILE} | cache
        command = [sys.executable, "-m", "launch.train", "--config=openmoji32", f"--workdir={tmp_path / start}", *TINY]
        result = run(command, **environment, PYTHONPATH=str(ROOT))
        assert result.returncode == 0, result.stderr
        kept.append({path.name for path in (tmp_path / "ssd_jax" / "compiled").glob("*-cache")})
    assert len(kept[0]) > 10 and kept[0] == kept[1]


def test_missing_extra_is_one_line():
    hidden = "import sys; sys.modules['matplotlib'] = None; import launch.analyze"
    result = run([sys.executable, "-c", hidden])
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "pip install 'ssd_jax[figures]'" in result.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.proces.x=1", "config section is 'proces', but must be one of: data, .*(did you mean process?)"),
        ("--config.train.stepps=5", "config field of train is 'stepps', but must be one of: .*(did you mean steps?)"),
        ("--noconfig.data.flipp", "config field of data is 'flipp', but must be one of: .*(did you mean flip?)"),
        ("--config.model.kindd=3", "config field of model is 'kindd', but must be one of: .*(did you mean kind?)"),
        ("--config.train.steps.x=4", "config field 'train.steps.x' does not exist"),
        ("--config.model.widths[0]=4", "config field 'model.widths[0]' does not exist; model.widths is set as a whole"),
        ("--config.train=5", "config section train is set field by field: --config.train."),
        ("--config.train.steps=abc", "train.steps is 'abc', but must be of type int"),
        ("--config.train.steps=1.5", "train.steps is '1.5', but must be of type int"),
        ("--config.train.steps=", "train.steps is '', but must be of type int"),
        ("--config.train.seed=é\n", "train.seed is 'é\\n', but must be of type int"),
        ("--config.data.channels=x", "data.channels is 'x', but must be of type int"),
        ("--config.train.optimizer=5", "config section train.optimizer is set field by field: --config.train.optimizer."),
        ("--config.train.optimizer.b3=5", "config field of train.optimizer is 'b3', but must be one of: b1, b2,"),
        ("--config.train.optimizer.b2.x=5", "'train.optimizer.b2.x' does not exist; train.optimizer.b2 is set as a whole"),
        ("--config.train.optimizer.b2=x", "train.optimizer.b2 is 'x', but must be of type float"),
    ],
)
def test_fields_that_the_command_line_cannot_set(argument, message):
    with pytest.raises(InputError) as error:
        parse_fields("openmoji32", ["train", argument])
    told = str(error.value)
    assert all(part in told for part in message.split(".*")) and len(told.splitlines()) == 1, told


def test_settings_within_a_section_from_the_command_line():
    assert parse_fields("openmoji32", ["train", "--config.train.optimizer.b2=0.95", "--num=3"]) == ["train", "--num=3"]
    assert config_flag.read_config().train.optimizer == OptimizerConfig(b2=0.95)


@pytest.fixture(autouse=True)
def no_fields(monkeypatch):
    """`parse_fields` defines a flag: it may do so once a process."""
    values = flags.FlagValues()
    values.set_gnu_getopt()
    monkeypatch.setattr(config_flag, "FIELDS", values)


def test_unknown_flags_list_the_known_ones():
    result = launch("launch.sample", "--num_step=3", "--workdir=x", "--out=y")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert "flag is '--num_step', but must be one of: --workdir, --out, --num" in result.stderr
    assert "(did you mean --num_steps?)" in result.stderr
    result = launch("launch.sample", f"--seed={2**32}", "--workdir=x", "--out=y")
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and "[0, 4294967295]" in result.stderr


COMPILES_LONG = """
import time
from launch.common.command import run
from ssd_jax.compilation import several_at_a_time

def work():
    print("begun", flush=True)
    time.sleep(60)

def fail():
    time.sleep(0.5)
    raise InputError("no such program")

from ssd_jax.errors import InputError
jobs = {"long": work} | ({"wrong": fail} if FAILS else {})
run(lambda: several_at_a_time(jobs, "compiling"))
"""


@pytest.mark.parametrize(
    "signal, code, said", [("SIGTERM", 143, "ended by SIGTERM"), ("SIGINT", 130, "interrupted"), (None, 2, "error")]
)
def test_what_compiles_is_not_waited_for(tmp_path, signal, code, said):
    (tmp_path / "long.py").write_text(COMPILES_LONG.replace("FAILS", str(signal is None)))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = subprocess.Popen(
        [sys.executable, "-m", "long"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert command.stdout is not None and command.stdout.readline() == "begun\n"
    started = time.monotonic()
    if signal:
        command.send_signal(getattr(signals, signal))
    _, errors = command.communicate(timeout=60)
    assert command.returncode == code and said in errors
    assert time.monotonic() - started < 30  # the job takes 60
