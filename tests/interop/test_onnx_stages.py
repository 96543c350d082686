"""ONNX graphs against the library. Converting needs the environment of launch/onnx_environment.sh; .ci/nightly makes it."""

import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.build import build
from ssd_jax.config import Config, DenoiserConfig, FlexiUNetConfig, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.interop import onnx_stages
from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import OPERATORS
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.guidance import clipped
from tests.commands import launch
from tests.conftest import tiny_config
from tests.networks import randomised

NETWORK = FlexiUNetConfig(widths=(8, 16, 16), attention_levels=(1,), num_heads=2, num_classes=3, label_dropout=0.1)
BLURRED = ProcessConfig(image_size=16, num_levels=3, num_timesteps=50, blur=2.0)


def trained_of(parameterisation: str, process: ProcessConfig = BLURRED, model: FlexiUNetConfig = NETWORK) -> Trained:
    """A model with random parameters, and statistics that images might have."""
    statistics = DataStatistics(tuple(np.linspace(0.3, 0.2, process.num_timesteps).tolist()))
    config = Config(process=process, model=model, denoiser=DenoiserConfig(parameterisation))
    experiment = build(config, statistics)
    return Trained(experiment, experiment.denoiser(randomised(experiment.abstract_parameters)), 0)


def kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_graphs_are_of_the_network_in_float32():
    process, model = replace(BLURRED, shape=(8, 8), num_levels=2), replace(NETWORK, widths=(8, 16))
    fast = trained_of("x0", process, replace(model, dtype="bfloat16", remat="all"))
    exact = replace(fast.network, graphdef=trained_of("x0", process, model).network.graphdef)
    stage = fast.process.stages[0]
    arguments = jnp.asarray(kernel(2, 4, 4, 3)), jnp.full(2, stage.t_min), jnp.arange(2)
    networks = onnx_stages.exportable(fast), exact, fast.network
    found, expected, in_bfloat16 = (jax.jit(partial(each, stage=stage))(*arguments) for each in networks)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(in_bfloat16 - expected).max() > 1e-4


def test_operators_that_are_only_functions(monkeypatch):
    def halve(shape):
        return MatrixFreeOperator(lambda x: ((x + jnp.roll(x, (-1, -1), (0, 1))) / 2)[::2, ::2], shape)

    monkeypatch.setitem(OPERATORS, "halve", halve)
    process = ProcessConfig(image_size=8, num_levels=2, num_timesteps=20, operator="halve")
    model = replace(NETWORK, widths=(8, 16))
    with pytest.raises(InputError, match="process.operator, here 'halve', is only a function; train with 'x0', or"):
        onnx_stages.exportable(trained_of("v", process, model))
    onnx_stages.exportable(trained_of("x0", process, model))


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match="jax2onnx is not installed; .* bash launch/onnx_environment.sh FOLDER"):
        onnx_stages.check_installed()


@pytest.fixture(scope="module", params=["x0", "v"])
def exported(request, tmp_path_factory):
    """A model, the folder of its graphs, and the network that they are."""
    pytest.importorskip("jax2onnx")
    trained, folder = trained_of(request.param), tmp_path_factory.mktemp("onnx")
    return trained, folder, onnx_stages.export_stages(trained, folder)


@pytest.mark.nightly
def test_every_stage_agrees(exported):
    trained, folder, network = exported
    found = onnx_stages.greatest_differences(onnx_stages.onnx_denoiser(folder), trained.network, trained)
    assert [str(stage) for stage in found] == ["stay2", "up2to1", "stay1", "up1to0", "stay0"]
    assert 0 < max(found.values()) < 1e-5
    pairs = zip(*(jax.tree.leaves(each.parameters) for each in (network, trained.network)), strict=True)
    assert all(exported is own for exported, own in pairs)


@pytest.mark.nightly
def test_whole_chains_agree(exported):
    """Images of 30 calls, of batches of two sizes: at most 2 of 255 apart."""
    trained, folder, _ = exported
    plan = trained.plan(num_steps=30)
    denoise = clipped(onnx_stages.onnx_denoiser(folder), trained.experiment.bounds)
    for num in (2, 5):
        arguments = plan, jax.random.key(0), num
        label = trained.classes_in_turn(num)
        found, expected = (ssd_jax.sample(each, *arguments, label=label) for each in (denoise, trained.denoiser))
        found, expected = (trained.encoding.decode(each).astype(int) for each in (found, expected))
        assert np.abs(found - expected).max() <= 2 and expected.std() > 20


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_quantized_weights_are_those_of_the_rounded_network(kind, tmp_path):
    pytest.importorskip("jax2onnx")
    onnx = pytest.importorskip("onnx")
    trained = trained_of(
        "v", replace(BLURRED, num_levels=2), replace(NETWORK, widths=(16, 32), num_classes=0, label_dropout=0.0)
    )
    network = onnx_stages.export_stages(trained, tmp_path / "small", kind)
    denoise = onnx_stages.onnx_denoiser(tmp_path / "small")
    assert 0 < max(onnx_stages.greatest_differences(denoise, network, trained).values()) < 1e-5
    assert max(onnx_stages.greatest_differences(denoise, trained.network, trained).values()) > 1e-4
    kernels = {leaf.size for leaf in jax.tree.leaves(trained.network.parameters) if leaf.ndim > 1}
    size = {"float16": 2, "int8": 1}[kind]
    stored = sum(kernel.size for kernel in jax.tree.leaves(trained.network.parameters) if kernel.ndim > 1) * size
    assert stored < (tmp_path / "small" / onnx_stages.WEIGHTS).stat().st_size < 1.3 * stored  # once for all graphs
    for path in (tmp_path / "small").glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(str(path))
        whole = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
        assert not {int(np.prod(each.dims)) for each in whole if len(each.dims) > 1} & kernels


@pytest.mark.nightly
def test_a_run_is_exported_by_the_command(tmp_path):
    pytest.importorskip("jax2onnx")
    images = np.random.default_rng(0).integers(0, 256, (48, 8, 8, 3), np.uint8)
    ssd_jax.train(tiny_config(steps=2), str(tmp_path / "run"), source=images)
    arguments = [f"--workdir={tmp_path}/run", f"--out={tmp_path}/onnx", "--quantize=int8"]
    result = launch("launch.export_onnx", *arguments)
    assert result.returncode == 0 and "3 graphs of step 2" in result.stdout, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run", "onnx"}
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {
        *("stay1.onnx", "up1to0.onnx", "stay0.onnx"),
        onnx_stages.WEIGHTS,
        onnx_stages.DIGEST,
    }
    again = launch("launch.export_onnx", *arguments)
    assert again.returncode == 2 and "is not an empty folder" in again.stderr
