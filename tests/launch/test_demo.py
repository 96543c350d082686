"""The page that draws in the browser: its noise and steps against the library in node, and the whole of it in Chromium."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import DataConfig, ProcessConfig, SampleConfig
from ssd_jax.errors import InputError
from ssd_jax.files.json_file import write_json
from ssd_jax.interop.bundle import write_model
from ssd_jax.interop.page import check_shown, write_page_data
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import OPERATORS
from ssd_jax.sampling.guidance import clipped
from ssd_jax.sampling.solvers import SOLVERS, Solver
from tests.commands import run
from tests.conftest import FAST_COMPILE
from tests.forks import ROOT, TIMEOUT, forked
from tests.networks import randomised
from tests.pixels import PixelsConfig
from tests.sampling.test_reference import three_predictions

PAGE = ROOT / "launch" / "page"
SCRIPTS = Path(__file__).parent / "page"
EMOJI = ROOT / "docs" / "models" / "emoji"
RUNTIME = ("ort.wasm.min.mjs", "ort.webgpu.min.mjs", *(f"ort-wasm-simd-threaded{each}" for each in (".mjs", ".wasm")))
RUNTIME += tuple(f"ort-wasm-simd-threaded.asyncify{each}" for each in (".mjs", ".wasm"))


def node(script: str, *arguments: str) -> dict:
    """What a script of ours says, in JSON."""
    if not (program := shutil.which("node")):
        pytest.skip("there is no node")
    result = run([program, str(SCRIPTS / script), *arguments])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def write_run(workdir: Path, process: ProcessConfig) -> ssd_jax.Trained:
    """A model of random weights with a graph of no bytes for each stage."""
    data, sample = DataConfig(classes=("cat", "dog"), channels=3), SampleConfig(solver="ddim", num_steps=12, guidance=2.0)
    experiment = ssd_jax.build(ssd_jax.Config(data, process, PixelsConfig(2, 0.1), sample=sample))
    trained = ssd_jax.Trained(experiment, experiment.denoiser(randomised(experiment.abstract_parameters)), 1)
    write_model(trained, workdir)
    (workdir / "onnx").mkdir()
    for name in (*(f"{stage}.onnx" for stage in trained.process.stages), "weights.bin"):
        (workdir / "onnx" / name).touch()
    write_json(workdir / "onnx" / "digest.json", {"digest": trained.digest})
    return trained


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    write_run(folder, ProcessConfig(image_size=8, num_levels=2, num_timesteps=20))
    return folder


@pytest.mark.parametrize(
    "process",
    [
        ProcessConfig(image_size=8, num_levels=3, num_timesteps=60, blur=2.0),
        ProcessConfig(shape=(8, 16), num_levels=2, num_timesteps=60, operator="bilinear"),
    ],
    ids=["blur", "rectangle"],
)
def test_noise_and_steps_are_the_librarys(process, tmp_path, monkeypatch):
    monkeypatch.setitem(SOLVERS, "three_predictions", Solver(three_predictions, 0.5, carried=2))
    trained = write_run(tmp_path / "run", process)
    page = tmp_path / "page"
    shutil.copytree(PAGE, page, ignore=shutil.ignore_patterns("node_modules"))
    write_page_data(trained, tmp_path / "run" / "onnx", page)

    def denoise(x, t, label=None, *, stage):
        for axis, size in enumerate(trained.process.level_shape(stage.out_level), 1):
            x = x.repeat(size // x.shape[axis], axis)
        return 1.2 * jnp.sin(2 * x + t[:, None, None, None] / 10)

    bounded = clipped(denoise, trained.experiment.bounds)
    for solver, seed in (("dpmpp_2m_sde", 0), ("ddim", 2**32 - 1), ("three_predictions", 7)):
        key = jax.random.key(seed)
        found = node("draw.mjs", str(page), solver, "12", str(seed))
        expected = ssd_jax.sample(bounded, trained.plan(solver=solver, num_steps=12), key, 1)[0]
        noise = jax.random.normal(jax.random.fold_in(key, 5), (1000,))
        assert found["calls"] == 12 and found["shape"] == [*trained.process.shape, 3]
        np.testing.assert_allclose(found["noise"], noise, atol=1e-6)
        np.testing.assert_allclose(found["image"], np.ravel(expected), atol=2e-4)
        assert np.std(found["image"]) > 0.3


def test_models_that_the_page_cannot_show(workdir, tmp_path, monkeypatch):
    (tmp_path / "page").mkdir()

    def refused(trained, graphs, message):
        with pytest.raises(InputError, match=message) as error:
            write_page_data(trained, graphs, tmp_path / "page")
        assert "\n" not in str(error.value) and not list((tmp_path / "page").iterdir())

    trained = ssd_jax.load(workdir)
    refused(trained, tmp_path, r"lacks stay1.onnx, up1to0.onnx, stay0.onnx, weights.bin, digest.json; launch")
    shutil.copytree(workdir / "onnx", tmp_path / "another")
    write_json(tmp_path / "another" / "digest.json", {"digest": "0" * 16})
    refused(trained, tmp_path / "another", "another' are of another model; launch.export_onnx writes those of this one")
    heat = ProcessConfig(image_size=8, num_levels=1, num_timesteps=20, noise_schedule="constant", blur=2.0)
    refused(write_run(tmp_path / "heat", heat), tmp_path / "heat" / "onnx", "x_T-1 of this process is not noise")

    def halve(shape):
        return MatrixFreeOperator(lambda x: ((x + jnp.roll(x, (-1, -1), (0, 1))) / 2)[::2, ::2], shape)

    monkeypatch.setitem(OPERATORS, "halve", halve)
    function = ProcessConfig(image_size=8, num_levels=2, num_timesteps=20, operator="halve")
    trained = write_run(tmp_path / "function", function)
    refused(trained, tmp_path / "function" / "onnx", "the operator of up1to0 is only a function")


def test_the_shipped_graphs_are_of_the_shipped_model():
    check_shown(ssd_jax.load(EMOJI), EMOJI / "onnx")


@pytest.fixture
def runtime(tmp_path) -> Path:
    """An onnxruntime-web of no bytes."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).touch()
    return folder


def command(runtime: str, *arguments: str) -> None:
    """python -m launch.demo, with another onnxruntime-web, so that the tests of all else need none."""
    sys.argv = ["-m", *arguments]
    demo: Any = importlib.import_module("launch.demo")
    demo.RUNTIME = Path(runtime)
    demo.run(demo.main)


def test_errors_of_the_command(workdir, runtime, tmp_path):
    run_flags, new = ("--import=tests.pixels", f"--workdir={workdir}"), f"--out={tmp_path}/new"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = [
            (tmp_path, [new], "onnxruntime-web is not installed .*; npm ci --prefix .*launch/page"),
            (runtime, [f"--port={port}"], f"--port is {port}, but that is taken or not yours; choose another"),
            (runtime, [f"--onnx={tmp_path}", new], "lacks stay1.onnx, up1to0.onnx, stay0.onnx, weights.bin"),
            (runtime, [f"--out={workdir}"], "is not an empty folder"),
            (runtime, [new, "--port=1"], "--port is given, but --out writes the page"),
        ]
        for folder, arguments, message in cases:
            result = forked("tests.launch.test_demo:command", str(folder), *run_flags, *arguments)
            assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
            assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "new").exists()


def test_what_is_written_and_served(workdir, runtime, tmp_path):
    arguments = (str(runtime), "--import=tests.pixels", f"--workdir={workdir}")
    result = forked("tests.launch.test_demo:command", *arguments, f"--out={tmp_path}/site")
    assert result.returncode == 0 and "onnxruntime-web, WASM" in result.stdout, result.stderr
    names = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*") if path.is_file()}
    assert {"index.html", "page.js", "model.json", "graphs/up1to0.onnx", "plans/ddim-12.json"} <= names
    assert {f"ort/{name}" for name in RUNTIME} <= names and not {"package.json", "plans/ddim-30.json"} & names
    with served(*arguments) as url:
        for name, kind in (("", "text/html"), ("page.js", "text/javascript"), ("ort/ort.wasm.min.mjs", "text/javascript")):
            with urllib.request.urlopen(url + name) as answer:
                assert answer.headers.get_content_type() == kind
        with urllib.request.urlopen(f"{url}model.json") as answer:
            model = json.load(answer)
    assert model["classes"] == ["cat", "dog"] and model["calls"] == [12, 20] and model["null_label"] == 2


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address that `command` says it serves at, while it does."""
    code = "import sys; from tests.launch.test_demo import command; command(*sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE}
    serving = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--port=0"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert serving.stdout is not None
        said = next((line for line in serving.stdout if "http" in line), "")
        assert said.startswith("http://127.0.0.1:"), said
        yield said.split()[0]
    finally:
        serving.terminate()
        serving.wait(TIMEOUT)


@pytest.fixture(scope="module")
def page():
    """browse(**settings): the shipped model's page in Chromium, see `page/browse.mjs`."""
    chromium, packages = shutil.which("chromium"), PAGE / "node_modules"
    playwright = packages / "playwright-core"
    if not chromium or not playwright.is_dir():
        pytest.skip("there is no Chromium, or no npm ci --prefix launch/page")
    with served(str(packages / "onnxruntime-web" / "dist")) as url:
        settings = {"playwright": str(playwright), "chromium": chromium, "url": url, "choices": None, "simd": True}

        def browse(**own) -> dict:
            seen = node("browse.mjs", json.dumps(settings | {"webgpu": None} | own))
            assert seen["errors"] == [] and seen["hosts"] == [url.split("/")[2]] and seen["width"] == 375
            return seen

        yield browse


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("label", "seed", "solver", "calls"), [("faces", 0, "dpmpp_2m_sde", 30), ("food", 4_000_000_000, "dpmpp_2m", 12)]
)
def test_the_page_draws_the_librarys_image(label, seed, solver, calls, page):
    trained = ssd_jax.load(EMOJI)
    assert trained.config.data.classes is not None
    samples = trained.sample(jax.random.key(seed), 1, solver=solver, num_steps=calls, label=label)
    expected = trained.encoding.decode(samples)[0].astype(int)
    number = str(trained.config.data.classes.index(label))
    seen = page(choices={"label": number, "seed": str(seed), "solver": solver, "calls": str(calls)})
    for shown in ("image", "prediction"):  # the last prediction is the image
        assert np.abs(np.reshape(seen[shown], (32, 32, 4))[..., :3] - expected).max() <= 2
    assert expected.std() > 20 and seen["status"] == "ready, on WASM" and not seen["notice"]
    sizes = [[4, 4], [4, 8], [8, 8], [8, 16], [16, 16], [16, 32], [32, 32]]
    assert [scene["sizes"] for scene in seen["scenes"]] == sizes
    counts = [int(re.findall(r"(\d+) calls?, \d+ ms", scene["text"])[0]) for scene in seen["scenes"]]
    assert counts == [part.calls for part in trained.plan(solver=solver, num_steps=calls).stages]
    assert re.match(r"[1-9]\d % of the work saved: ", seen["saved"]) and "CC BY-SA 4.0" in seen["text"]


@pytest.mark.nightly
def test_browsers_that_cannot(page):
    seen = page(simd=False)
    assert "has no WebAssembly SIMD" in seen["notice"] and not seen["drawable"]
    seen = page(webgpu=0.0)
    assert seen["status"] == "ready, on WebGPU" and not seen["notice"]
    for webgpu, message in (
        (0.1, "WebGPU computes predictions that are 0.20 off in this browser"),  # guided
        ("NaN", "WebGPU computes predictions that are no numbers"),
        ("fails", "WebGPU fails in this browser, so WASM draws: no such device"),
    ):
        seen = page(webgpu=webgpu)
        assert seen["status"] == "ready, on WASM" and message in seen["notice"] and seen["drawable"]
