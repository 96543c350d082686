"""Bundles: programs of a run that draw what the library draws."""

import ast
import hashlib
import importlib.util
import json
import shutil
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import DenoiserConfig
from ssd_jax.errors import InputError
from ssd_jax.interop import standalone
from ssd_jax.interop.bundle import write_bundle, write_model
from ssd_jax.network.protocol import null_label
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import OPERATORS
from ssd_jax.run.digest import named
from ssd_jax.run.trained import Trained
from ssd_jax.run.weights import write_weights
from ssd_jax.sampling.guidance import Guidance
from ssd_jax.sampling.plan import Plan
from tests.commands import launch
from tests.conftest import tiny_config
from tests.networks import random_trained

Given = tuple[Trained, Any, Plan]  # what a bundle is made of


def model(classes: tuple[str, ...] = (), operator: str = "box", seed: int = 1, **process) -> Trained:
    """Two levels at 8 px, with label dropout and v where there are classes."""
    tiny = tiny_config()
    network = replace(tiny.model, num_classes=len(classes), label_dropout=0.1 if classes else 0.0)
    data = replace(tiny.data, channels=3, classes=classes or None)
    settings = {"denoiser": DenoiserConfig(parameterisation="v")} if classes else {}
    process = replace(tiny.process, operator=operator, **{"zero_terminal_snr": True} | process)
    return random_trained(replace(tiny, data=data, model=network, process=process, **settings), seed)


def loader(folder) -> ModuleType:
    """The loader that lies in a bundle."""
    spec = importlib.util.spec_from_file_location("loader_of_a_bundle", folder / "standalone.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def guided() -> Given:
    """A model with blur and classes, its denoiser with guidance where it pays, and a plan with noise."""
    return given(model(("cat", "dog", "owl"), blur=2.0))


def given(trained: Trained) -> Given:
    low, high = np.quantile(trained.process.image_log_snr, [0.3, 0.8]).tolist()
    return trained, trained.guided(Guidance(2.0, (low, high))), trained.plan(solver="dpmpp_2m_sde", num_steps=6)


@pytest.fixture(scope="module")
def bundle(guided: Given, tmp_path_factory):
    """Its bundle, not to be changed."""
    trained, denoise, plan = guided
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(trained, denoise, plan, folder)
    return folder


def drawn(trained: Trained, denoise, plan: Plan, num: int, label=None) -> np.ndarray:
    *_, last = trained.iterate(denoise, plan, jax.random.key(3), num, label=label)
    return np.asarray(last.x)


def test_a_bundle_draws_what_the_library_draws(guided: Given, bundle):
    draw = loader(bundle).load(bundle)
    np.testing.assert_allclose(draw(3, 4), drawn(*guided, 4), atol=1e-5)
    np.testing.assert_allclose(draw(3, 4, "owl"), drawn(*guided, 4, "owl"), atol=1e-5)
    mixed = drawn(*guided, 4, [1, 0, 2, 2])
    np.testing.assert_allclose(draw(3, 4, [1, 0, 2, 2]), mixed, atol=1e-5)
    np.testing.assert_allclose(draw(3, 2, [1, 0]), mixed[:2], atol=1e-5)  # of any number of images
    assert np.abs(draw(3, 4) - drawn(*guided, 4, "cat")).max() > 0.01
    for wrong in (3, -1, [0, 7], 0.5):
        with pytest.raises(ValueError, match=r"but must be of 3 classes: \['cat', 'dog', 'owl'\]"):
            draw(3, 2, wrong)


def test_programs_hold_no_weights(bundle, tmp_path):
    """Those of another model draw what that model draws."""
    shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
    other = given(model(("cat", "dog", "owl"), blur=2.0, seed=2))
    file, manifest = tmp_path / "model.safetensors", json.loads((bundle / "manifest.json").read_text())
    write_weights(file, other[0].experiment, other[0].network.parameters, 7)
    manifest["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    np.testing.assert_allclose(standalone.load(tmp_path)(3, 2), drawn(*other, 2), atol=1e-5)


def test_the_loader_is_small_and_needs_jax_alone(bundle):
    text = (bundle / "standalone.py").read_text()
    imports = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Import | ast.ImportFrom)]
    modules = {n.name if isinstance(each, ast.Import) else each.module for each in imports for n in each.names}
    assert modules == {"hashlib", "json", "pathlib", "jax.export", "numpy"} and len(text.splitlines()) <= 60


def test_rounded_weights_are_read_alike(guided: Given, tmp_path):
    write_bundle(*guided, tmp_path / "bundle", quantize="int8")
    weights = standalone.read_arrays((tmp_path / "bundle" / "model.safetensors").read_bytes())
    loaded = ssd_jax.load(tmp_path / "bundle")
    ours = {name.replace("/", "."): np.asarray(leaf) for name, leaf in named(loaded.network.parameters).items()}
    assert weights.keys() == ours.keys() and null_label(loaded.config.model) == 3
    for name, array in ours.items():
        np.testing.assert_array_equal(weights[name], array)


def test_damage_and_other_versions_are_said(bundle, tmp_path):
    for name in ("model.safetensors", "plan.safetensors", "stay1.stablehlo"):
        folder = tmp_path / name
        shutil.copytree(bundle, folder)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(ValueError, match=f"{name} is damaged, or of another bundle"):
            standalone.load(folder)
    folder = tmp_path / "manifest.json"
    shutil.copytree(bundle, folder)
    for change in ({"classes": ["dog", "cat", "owl"]}, {"timesteps": 21}, {"carried": 0}):
        manifest = json.loads((bundle / "manifest.json").read_text()) | change
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=r"manifest.json is damaged, or of another bundle"):
            standalone.load(folder)
    for change in ({"format": 1}, {"calling_convention": 3}, {"jax": "99.1.2"}):
        manifest = json.loads((bundle / "manifest.json").read_text()) | change
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=f"was written by JAX {manifest['jax']}, but this is .*: export it by this"):
            standalone.load(folder)


@pytest.mark.nightly
def test_the_command(tmp_path):
    write_model(model(), tmp_path / "model")
    command = ["launch.export", f"--workdir={tmp_path}/model", f"--out={tmp_path}/bundle", "--num_steps=6"]
    result = launch(*command, "--seed=1")
    assert result.returncode == 2 and "--seed is given, but a bundle draws any images; leave it out" in result.stderr
    result = launch(*command, "--quantize=int8")
    assert result.returncode == 0 and "model.safetensors" in result.stdout, result.stderr
    assert loader(tmp_path / "bundle").load(tmp_path / "bundle")(0, 2).shape == (2, 8, 8, 3)


def test_what_cannot_be_exported_leaves_nothing(guided: Given, tmp_path, monkeypatch):
    trained, _, plan = guided
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InputError, match="is not an empty folder"):
        write_bundle(*guided, tmp_path / "taken")
    noisy = model(noise_schedule="constant", num_levels=1, zero_terminal_snr=False)
    with pytest.raises(InputError, match="not noise .* a bundle has not"):
        write_bundle(noisy, noisy.denoiser, noisy.plan(num_steps=4), tmp_path / "new")

    def halves(shape):
        return MatrixFreeOperator(lambda x: (x[::2, ::2] + x[1::2, 1::2]) / 2, shape)

    monkeypatch.setitem(OPERATORS, "function", halves)
    function = model(operator="function")
    with pytest.raises(InputError, match="operator of up1to0 is only a function, .* as a SeparableOperator"):
        write_bundle(function, function.denoiser, function.plan(num_steps=4), tmp_path / "new")

    def of_the_host(network, x, t, label=None, *, stage) -> Any:
        return np.asarray(network(x, t, label, stage=stage))

    with pytest.raises(InputError, match=r"program of stay1 cannot be exported: .*; functions of your own"):
        write_bundle(trained, jax.tree_util.Partial(of_the_host, trained.network), plan, tmp_path / "new")
    with pytest.raises(InputError, match="denoise does not hold the network of trained, .*; make it by trained.guided"):
        write_bundle(trained, model(("cat", "dog", "owl"), blur=2.0).denoiser, plan, tmp_path / "new")
    for plan in (trained.plan(start=10, num_steps=6), model().plan(num_steps=6)):
        with pytest.raises(InputError, match="plan is of another process, or does not begin at T - 1"):
            write_bundle(*guided[:2], plan, tmp_path / "new")
    with pytest.raises(InputError, match="quantize is 'int4', but must be one of: float16, int8"):
        write_bundle(*guided, tmp_path / "new", quantize="int4")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
