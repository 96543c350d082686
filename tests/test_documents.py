"""Code blocks of the documents: what is written there is what runs.

Run here: the python blocks of README and of the pages for users, a page at a time, as written, but ssd_jax.train takes no
steps: it checks config and data, and writes fresh weights. Runs that are loaded are fresh, too, of 16 px and a network of a
dozen parameters; Weights & Biases is a stand-in. In .ci/nightly training takes two steps.

Only parsed here: the commands of all documents. The command exists, it has every flag and takes every value; the config
exists, has every field, and is valid. Run in .ci/nightly: those of README and of the pages for users, with tiny settings
after their own, but for programs that are not ours and for what NOT_RUN names.

The commands of the other documents are only ever parsed, most take hours. What docstrings and text beside blocks say is not
tested.
"""

import json
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import DataConfig, SampleConfig
from ssd_jax.data.openmoji_classes import CLASSES
from ssd_jax.files.images import write_png
from tests.commands import TINY
from tests.conftest import FAST_COMPILE
from tests.documents import blocks, commands, launched, write_fresh
from tests.forks import ROOT, Completed, forked
from tests.pixels import PixelsConfig

GUIDES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("index", "gallery", "troubleshooting"))]
GUIDES += sorted((ROOT / "docs" / "guides").glob("*.md"))
DOCUMENTS = [*GUIDES, *(path for path in sorted((ROOT / "docs").glob("*.md")) if path not in GUIDES)]
DOCUMENTS.append(ROOT / "launch" / "cluster" / "README.md")
# Programs that are not ours.
OTHERS = {"pip", "pytest", "tensorboard", "sbatch", "mkdocs", "jupyter", "cd", "docker", "apt-get", "ls", "npm", "xargs"}
SIZE = 16
SAMPLE = SampleConfig(solver="dpmpp_2m_sde", num_steps=8, guidance=2.0)
# What a command is told after its own words, so that it takes seconds.
CONFIG = [
    *TINY,
    f"--config.process.image_size={SIZE}",
    "--config.process.num_timesteps=1000",
    "--config.model.num_res_blocks=1",
    "--config.model.attention_levels=()",
    "--config.train.warmup_steps=1",
    "--config.train.sample_every=3",
    "--config.train.checkpoint_every=1",
]
SHORTLY = {
    "train": CONFIG,
    "quickstart": CONFIG,
    "prepare": CONFIG,
    "analyze": [*CONFIG, "--images=16"],
    "optimize": [*CONFIG, "--images=16"],
    "forecast": [*CONFIG, "--hardware=cpu:2", "--quick"],
    "sample": ["--num=2", "--num_steps=8"],
    "edit": ["--num=2", "--num_steps=8"],
    "evaluate": ["--num=8", "--num_steps=4"],
}
# Commands of the guides that .ci/nightly does not run, by a part of them.
NOT_RUN = {
    "import_reference": "a released file is not at hand; tests/interop makes files of its kind",
    "runs/celeba64": "for the same reason",
    "runs/adm256": "for the same reason",
    "export_onnx": "jax2onnx wants an environment of its own; tests/interop/test_onnx_stages.py has it",
    "launch.demo": "it serves until it is ended, what npm installs; tests/launch/test_demo.py has it",
    "import_inception": "its weights are not at hand",
    "launch.studies.": "takes hours",
    "launch.serve": "only a signal ends it; tests/launch/test_serve.py has it",
    "runs/dense": "a python block of its page makes this run; tests/run/test_own_network.py samples one",
    "runs/averaged": "widths need hundreds of steps; tests/run/test_averages.py has them",
    "--step best": "nothing is evaluated in three steps; tests/run/test_watching.py has it",
    "--bound": "the run that is there held nothing out; tests/launch/test_evaluate.py has one that did",
    "--init_from runs/emoji": "the run that is there has another network; tests/launch/test_launch.py starts from one",
    "gs://": "there is no bucket of this name; tests/run/test_bucket.py has one",
    "--config.process.shape": "the tiny settings are of images; tests/data and tests/launch/test_clips.py have the others",
    "runs/clips": "for the same reason",
    "--config clips16": "for the same reason",
    "launch.forecast --config video64": "it compiles for many minutes; tests/launch/test_forecast.py has smaller ones",
    "my_videos": "for the same reason",
    "runs/autoencoder": "the tiny settings are of denoisers; tests/run and tests/launch/test_latents.py have it",
    "runs/latents128": "for the same reason",
    "dit32": "the tiny settings are of the other network; tests/network/test_flexi_dit.py has it",
    "runs/sd_vae": "published weights are not at hand; tests/interop makes some of their kind",
}


def launch_here(module: str, *arguments: str, folder: Path) -> Completed:
    return forked("tests.documents:command", module, *arguments, folder=folder, XLA_FLAGS=FAST_COMPILE)


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A workdir of fresh weights, of the quickstart's kind."""
    folder = tmp_path_factory.mktemp("run") / "run"
    process = ssd_jax.ProcessConfig(image_size=SIZE, num_levels=2)
    model = PixelsConfig(num_classes=8, label_dropout=0.1)
    write_fresh(folder, ssd_jax.Config(DataConfig(classes=CLASSES, channels=3), process, model, sample=SAMPLE))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    return folder


@pytest.fixture
def desk(tmp_path):
    """desk(document): a folder with what the commands and blocks of a page expect there, the files that it shows too."""

    def lay(document: Path, run: Path | None = None) -> Path:
        for name in ("configs", "docs"):
            (tmp_path / name).symlink_to(ROOT / name)
        for block in blocks(document, "python"):
            if block.title:
                (tmp_path / block.title).write_text(block.text)
        random = np.random.default_rng(0)
        for name in ("cats/1", "cats/2", "dogs/1", "dogs/2"):
            path = tmp_path / "my_images" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, random.integers(0, 256, (20, 24, 3), np.uint8))
        for name, side in (("cat", 40), ("hole", SIZE), ("cat16", SIZE // 2), ("small", SIZE // 2)):
            picture = random.integers(0, 256, (side, side, 3), np.uint8)
            write_png(tmp_path / f"{name}.png", _mask(side) if name == "hole" else picture)
        if run is not None:
            for name in ("emoji", "quickstart", "smaller", "frontier/levels-12-seed0"):
                shutil.copytree(run, tmp_path / "runs" / name)
        return tmp_path

    return lay


def _mask(side: int) -> np.ndarray:
    mask = np.zeros((side, side, 3), np.uint8)
    mask[: side // 2] = 255
    return mask


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_are_understood(document, desk):
    folder = desk(document)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for block in blocks(document, "bash"):
        for command in commands(block):
            where = f"{named(document)}:{block.line}: {' '.join(command)}"
            if ours := launched(command):
                result = forked("tests.documents:parse", *ours, folder=folder, XLA_FLAGS=FAST_COMPILE)
                assert result.returncode == 0, f"{where}\n{result.stderr}"
            elif command[0] == "pytest":
                assert all((ROOT / word).exists() for word in command if word.startswith("tests")), where
            elif command[0] == "bash":
                assert (ROOT / command[1]).exists(), where
            elif command[0] == "pip":
                assert {extra for word in command for extra in re.findall(r"^\.\[(.+)\]$", word)} <= set(extras), where
            else:
                assert command[0] in OTHERS or command[:2] == ["python", "-c"], where


@pytest.mark.parametrize("steps", [0, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("document", [each for each in GUIDES if blocks(each, "python")], ids=named)
def test_python_blocks_run(document, steps, run, desk):
    folder = desk(document, run)
    (folder / "wandb.py").write_text(WANDB)
    (folder / "samples" / "sixteen").mkdir(parents=True)
    shutil.copy(folder / "cat.png", folder / "samples" / "sixteen" / "000000.png")
    if "bundles/emoji" in document.read_text():
        result = launch_here("export", "--workdir=runs/emoji", "--out=bundles/emoji", "--num_steps=4", folder=folder)
        assert result.returncode == 0, result.stderr
    session = [(block.line, block.text) for block in blocks(document, "python") if not block.title]
    result = forked("tests.documents:python", named(document), session, steps, folder=folder, XLA_FLAGS=FAST_COMPILE)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=named)
def test_notebooks_are_kept_without_results(notebook):
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


WANDB = """
from contextlib import contextmanager
from types import SimpleNamespace

@contextmanager
def init(project):
    yield SimpleNamespace(log=lambda values, step: values["step"])
"""


@pytest.mark.nightly
@pytest.mark.parametrize("document", [each for each in GUIDES if blocks(each, "bash")], ids=named)
def test_commands_run(document, run, desk):
    folder = desk(document, run)
    lay_data_sets(folder)
    typed = [(block.line, command) for block in blocks(document, "bash") for command in commands(block)]
    for made in {path for _, command in typed for path in trained_by(command)}:  # by the page itself, so not there yet
        shutil.rmtree(folder / made, ignore_errors=True)
    for number, command in typed:
        line = " ".join(command)
        if (ours := launched(command)) and not any(part in line for part in NOT_RUN):
            module, arguments = ours
            result = launch_here(module, *arguments, *SHORTLY.get(module, []), folder=folder)
            assert result.returncode == 0, f"{named(document)}:{number}: {line}\n{result.stderr}"


def trained_by(command: list[str]) -> list[str]:
    """The workdir that a command trains in."""
    module, arguments = launched(command) or ("", [])
    if module not in ("train", "quickstart"):
        return []
    return [arguments[arguments.index("--workdir") + 1]] if "--workdir" in arguments else ["runs/quickstart"]


def lay_data_sets(folder: Path) -> None:
    """The images of `my_images` as Parquet and in a tar file."""
    import datasets
    from webdataset.writer import TarWriter

    paths = sorted((folder / "my_images").rglob("*.png"))
    (folder / "my_parquet").mkdir()
    table = datasets.Dataset.from_dict({"image": list(map(str, paths))}).cast_column("image", datasets.Image())
    table.to_parquet(folder / "my_parquet" / "train.parquet")
    (folder / "my_tars").mkdir()
    with TarWriter(str(folder / "my_tars" / "train.tar")) as tar:
        for index, path in enumerate(paths):
            tar.write({"__key__": f"{index:04d}", "png": path.read_bytes()})
