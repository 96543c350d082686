"""What `pip install .` installs, and what it requires."""

import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ssd_jax
from tests.commands import ROOT, run

FOLDERS = {"ssd_jax": "ssd_jax", "launch": "ssd_jax/launch", "configs": "ssd_jax/configs"}  # in the wheel


def test_requirements_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["figures"], *extras["tensorboard"], *extras["test"]]
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    listed = [str(Requirement(line)) for line in lines if line]
    assert listed == [str(Requirement(text)) for text in declared]


def pip(*arguments: str, folder: Path) -> None:
    result = run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], folder=folder)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that what earlier builds left in the checkout does not count."""
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir=dist", ".", folder=copy)
    (built,) = (copy / "dist").iterdir()
    return built


def test_wheel_holds_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ssd_jax", f"ssd_jax-{ssd_jax.__version__}.dist-info"}
    for folder, place in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{place}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert {"ssd_jax/py.typed", "ssd_jax/launch/page/index.html", "ssd_jax/launch/page/package-lock.json"} <= set(names)


@pytest.mark.nightly
def test_installed_commands(wheel, tmp_path):
    site, folder = tmp_path / "site", tmp_path / "elsewhere"
    pip("install", "--no-deps", f"--target={site}", str(wheel), folder=tmp_path)
    folder.mkdir()
    (folder / "own.py").write_text("from ssd_jax.configs.blur32 import get_config as get_config\n")
    (folder / "kinds.py").write_text("print('imported')\n")
    script = str(site / "bin" / "ssd-jax")

    def installed(*command: str) -> str:
        result = run(list(command), folder=folder, PYTHONPATH=str(site))
        assert result.returncode == 0, result.stderr
        return result.stdout

    listed = installed(script)
    assert "  train  " in listed and listed == installed(sys.executable, "-m", "ssd_jax.launch")
    shipped = installed(sys.executable, "-m", "ssd_jax.launch", "train", "--config=blur32", "--help")
    assert "--config.process.blur=8.0" in shipped
    assert installed(script, "train", "--config=own.py", "--import=kinds", "--help") == "imported\n" + shipped
    found = "import importlib.metadata as m, importlib.util as u, ssd_jax; print(ssd_jax.__file__, m.version('ssd_jax'))"
    top_level = "; print(u.find_spec('launch'), u.find_spec('configs'))"
    assert installed(sys.executable, "-c", found + top_level).split() == [
        str(site / "ssd_jax" / "__init__.py"),
        ssd_jax.__version__,
        "None",
        "None",
    ]
