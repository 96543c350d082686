"""Forecasts: on CPUs, whose programs can be compared with those that run; with libtpu and CUDA in the nightly run."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from launch.forecast import compiler, machines
from launch.forecast import costs as costs_module
from launch.forecast.compiler import TOO_LARGE, Compiled
from launch.forecast.costs import Cost, grid_costs, sampling_costs, training_costs, with_one_level
from launch.forecast.machines import DESCRIPTIONS, Machine, find_machine
from launch.forecast.programs import Program, built_denoiser, held_by_grids, sampling_programs, training_programs
from launch.forecast.remedies import Remedy, remedies
from launch.forecast.tables import Forecast, as_text
from launch.forecast.traffic import traffic
from ssd_jax.build import build
from ssd_jax.compilation import operations
from ssd_jax.config import (
    AutoencoderConfig,
    AutoencoderRunConfig,
    Config,
    DataConfig,
    EncodingConfig,
    FlexiUNetConfig,
    ProcessConfig,
    ReconstructionConfig,
    SampleConfig,
    TrainConfig,
)
from ssd_jax.errors import InputError
from ssd_jax.run.workdir import claim_workdir
from ssd_jax.sharding import MeshConfig, make_mesh, replicated
from ssd_jax.training.step import compile_train_step
from tests.commands import ROOT, TINY, launch
from tests.conftest import tiny_config

PEAKS = {"bandwidth": 1e9, "interconnect": 1e9, "flops": {"default": 1e9, "bfloat16": 1e9}}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def cpus(**known) -> Machine:
    return Machine(f"cpu:{jax.device_count()}", "cpu", jax.devices(), **known)


AUTOENCODER = AutoencoderRunConfig(
    data=DataConfig(channels=1),
    reconstruction=ReconstructionConfig(shape=(16, 16), perceptual_weight=0),
    model=AutoencoderConfig(widths=(2, 4), latent_channels=2, num_groups=2, attention=False),
    train=TrainConfig(batch_size=24),
)
SMALLEST = with_one_level(replace(tiny_config(), model=replace(tiny_config().model, widths=(32,))))
MEMORIES = [pytest.param(tiny_config(), fsdp, marks=pytest.mark.nightly) for fsdp in (1, 4)]


@pytest.mark.parametrize("config, fsdp", [*MEMORIES, (SMALLEST, 4)])
def test_memory_is_that_of_the_programs_that_run(config, fsdp):
    config = replace(config, mesh=MeshConfig(fsdp=fsdp))
    costs = training_costs(config, cpus(), quick=False)
    step = compile_train_step(build(config).objective, config.train, make_mesh(config.mesh))
    assert {each.program.name for each in costs.programs} == set(step.programs)
    for each in costs.programs:
        memory = step.programs[each.program.name].memory_analysis()
        assert each.compiled is not None and each.compiled.temporaries == memory.temp_size_in_bytes
        assert each.compiled.arguments == memory.argument_size_in_bytes
        assert each.compiled.outputs == memory.output_size_in_bytes - memory.alias_size_in_bytes
        assert each.memory == each.program.held + each.compiled.memory
    for name in ("zeros", "update"):
        (moved,) = [each.compiled.traffic for each in costs.programs if each.program.name == name and each.compiled]
        assert moved == pytest.approx(step.programs[name].cost_analysis()["bytes accessed"], rel=0.01)


@pytest.mark.nightly  # compiles much
def test_what_lies_on_a_device_meanwhile():
    """Beside the arguments of stages: averages and moments, and where weights are gathered, the parts of them, too."""
    held = []
    for fsdp in (1, 8):
        config = replace(tiny_config(), mesh=MeshConfig(fsdp=fsdp), model=replace(tiny_config().model, widths=(64, 64)))
        costs = training_costs(config, cpus(), quick=True)
        held.append(costs.programs[0].program.held)
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(build(config).abstract_parameters))
    assert held[0] == pytest.approx(3 * size, rel=1e-2)  # the fourth, the parameters, are arguments
    assert held[1] == pytest.approx(4 * size / 8, rel=0.2)  # small arrays are on every device


@pytest.mark.parametrize("fsdp, held", [(1, 3), (8, 4 / 8)])  # one average, which draws where it is whole
def test_the_state_lies_beside_grids_of_samples(fsdp, held):
    config = replace(tiny_config(), mesh=MeshConfig(fsdp=fsdp), model=replace(tiny_config().model, widths=(64, 64)))
    experiment = built_denoiser(config)
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(experiment.abstract_parameters))
    found = held_by_grids(experiment, make_mesh(config.mesh))
    assert found == pytest.approx(held * size, rel=0.2 if fsdp > 1 else 0.01)


def test_operations_are_those_of_the_images(monkeypatch):
    chosen = []
    monkeypatch.setattr(costs_module, "compile_all", lambda programs, machine: chosen.append(programs) or {})
    config, machine = tiny_config(), cpus()
    costs, one = (training_costs(each, machine, quick=True) for each in (config, with_one_level(config)))
    assert [len(programs) for programs in chosen] == [1, 1]  # only the largest would be compiled
    stages = [each.program for each in costs.programs if each.program.images]
    assert costs.images == 22 and one.images == 24  # whole units of 8, as the allocation deals them out
    assert costs.flops_per_image < one.flops_per_image == stages[-1].flops / stages[-1].images
    steps = config.sample.num_steps
    samples, full = (sampling_costs(each, machine, 8, quick=True) for each in (config, with_one_level(config)))
    assert sum(each.program.runs for each in samples.programs) == steps
    assert samples.flops_per_image < full.flops_per_image == steps * full.programs[0].program.flops


def test_one_level_of_clips_is_of_the_same_network():
    """It halves fewer frames than sides in both, as the process of several levels says."""
    process = ProcessConfig(shape=(4, 8, 8), num_levels=2, factors=((1, 2, 2),))
    config = replace(tiny_config(), process=process, model=FlexiUNetConfig(widths=(4, 4, 4), attention_levels=(2,)))
    found = []
    for each in (config, with_one_level(config)):
        experiment = build(each)
        network = nnx.merge(experiment.graphdef, experiment.abstract_parameters)
        found.append((experiment.process.num_levels, network.shapes))
    assert found == [(2, ((4, 8, 8), (4, 4, 4), (4, 2, 2))), (1, ((4, 8, 8), (4, 4, 4), (4, 2, 2)))]


def test_latents_cost_what_it_takes_to_make_pictures_of_them(monkeypatch, tmp_path):
    """Of their autoencoder nothing need be there but its config."""
    monkeypatch.setattr(costs_module, "compile_all", lambda programs, machine: {})
    claim_workdir(tmp_path / "vae", AUTOENCODER)
    config, machine = replace(tiny_config(), encoding=EncodingConfig(str(tmp_path / "vae"))), cpus(**PEAKS)
    *stages, decode = (each.program for each in sampling_costs(config, machine, 16, quick=True).programs)
    experiment = built_denoiser(config)
    autoencoder: Any = experiment.encoding.autoencoder  # type: ignore[attr-defined]
    assert experiment.encoding.channels == 2 and experiment.encoding.picture_shape == (16, 16, 1)
    assert [each.name for each in stages] == ["stay1", "up1to0", "stay0"] and decode.name == "decode" and decode.runs == 1
    latents = jax.ShapeDtypeStruct((16 // jax.device_count(), 8, 8, 2), jnp.float32)
    program = jax.jit(type(autoencoder).decode)
    assert decode.flops == pytest.approx(operations(program.lower(autoencoder, latents)), rel=1e-3)
    held = (experiment.abstract_parameters, autoencoder)
    network, own = (4 * sum(leaf.size for leaf in jax.tree.leaves(each)) for each in held)
    assert {each.held for each in stages} == {own} and decode.held == network
    assert (stages[0].precision, decode.precision) == ("default", "highest")


def test_training_of_an_autoencoder_has_one_stage(monkeypatch):
    monkeypatch.setattr(costs_module, "compile_all", lambda programs, machine: {})
    costs = training_costs(AUTOENCODER, cpus(**PEAKS), quick=True)
    assert [each.program.images for each in costs.programs] == [3, 0, 0] and costs.images == 24
    assert costs.flops_per_image == costs.programs[0].program.flops / 3 > 0


def test_devices_that_draw_samples_say_nothing_to_each_other():
    config = tiny_config()
    model = replace(config.model, num_classes=3, label_dropout=0.1)
    config = replace(config, model=model, sample=replace(config.sample, guidance=2.0))
    for each in sampling_programs(built_denoiser(config), make_mesh(), 16):
        exchanged = compiler.collectives(each.lower().compile().as_text())
        assert sum(exchanged.values()) <= 16 * 4, exchanged  # labels at most


@pytest.mark.nightly  # compiles much
def test_what_was_compiled_is_kept(monkeypatch):
    first = training_costs(tiny_config(), cpus(), quick=True)
    monkeypatch.setattr(compiler, "_compile", None)
    assert training_costs(tiny_config(), cpus(), quick=True).largest.compiled == first.largest.compiled
    with pytest.raises(TypeError):
        training_costs(replace(tiny_config(), train=replace(tiny_config().train, batch_size=48)), cpus(), quick=True)


def test_bytes_that_a_program_moves():
    def compiled(function, *shapes):
        return str(jax.jit(function).lower(*(jax.ShapeDtypeStruct(each, "float32") for each in shapes)).compile().as_text())

    size = 4 * 2**10
    assert traffic(compiled(lambda a, b: a + b, (2**10,), (2**10,))) == 3 * size
    squares = compiled(lambda a: jax.lax.fori_loop(0, 50, lambda i, x: jnp.tanh(x @ a), a), (32, 32))
    assert 3 * size < traffic(squares) < 15 * size  # one turn of the loop: two arrays read and one written, twice
    program = """
%body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %twice = f32[8]{0} fusion(%p, %p), kind=kLoop, calls=%inner
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0:T(128)} parameter(0)
  %begun = (f32[8]{0:T(128)}, f32[8]{0:T(128)S(1)}, u32[]{:S(2)}) copy-start(%a)
  %near = f32[8]{0:T(128)S(1)} copy-done(%begun)
  %sum = f32[8]{0:T(128)} add(%near, %a)
  ROOT %loop = f32[8]{0} while(%sum), condition=%none, body=%body
}

%none (p: f32[8]) -> pred[] {
  %q = f32[8]{0} parameter(0)
  ROOT %no = pred[] constant(false)
}
"""
    assert traffic(program) == 32 + 64 + 64  # the copy to the chip reads, the sum reads and writes, the loop's body too


def cost(flops: float, machine: Machine, **compiled) -> Cost:
    figures = {"arguments": 0, "outputs": 0, "temporaries": 0, "traffic": 0.0, "seconds": None, "exchanged": {}} | compiled
    return Cost(Program("stay0", 1, 1, flops, 100, "default", lambda: None), Compiled(**figures), machine)


def test_times_at_the_peaks():
    machine = cpus(**PEAKS)
    assert cost(2e9, machine, traffic=1e9).roofline == pytest.approx(2)
    assert cost(2e9, machine, traffic=3e9).roofline == pytest.approx(3)
    assert cost(2e9, machine, exchanged={"all-reduce": 10**9, "all-gather": 10**9}).roofline == pytest.approx(5)
    assert cost(2e9, cpus()).roofline is None
    assert cost(2e9, machine, seconds=2.5).foreseen == 2.5
    assert cost(2e9, machine, seconds=1.5).foreseen is None  # less than the operations take at the peak


def test_what_fits():
    machine = cpus(**PEAKS, memory=1000)
    assert cost(1, machine, temporaries=900).fits is True
    assert cost(1, machine, temporaries=901).fits is False
    assert cost(1, machine, temporaries=1, fits=False).fits is False
    assert cost(1, cpus(), temporaries=901).fits is None


@pytest.mark.nightly  # compiles much
def test_what_the_last_lines_say():
    config, small = tiny_config(), cpus(**PEAKS, memory=1e5)
    training, sampling = training_costs(config, small, quick=True), sampling_costs(config, small, 8, quick=True)
    tried = [Remedy("--config.train.accumulate=2", training.largest)]
    grids = grid_costs(config, small, quick=True)
    text = as_text(Forecast(config, small, {"levels": training}, {"levels": sampling}, grids, tried))
    needed = (training.largest.memory or 0) / 2**30
    assert f"Training does not fit: stay0 takes {needed:.1f} GiB, {needed - 1e5 / 2**30:.1f} too much." in text
    assert "Its grid of samples does not fit: " in text and "A smaller --config.sample.num takes less." in text
    assert "Sampling does not fit: " in text and "Fewer --samples at a time take less." in text
    assert "TPUs" not in text  # of CPUs
    tpu, config = replace(small, platform="tpu"), replace(config, train=replace(config.train, batch_size=64))
    lines = as_text(Forecast(config, tpu, {"levels": training}, {"levels": sampling}, grids, tried)).splitlines()
    assert "Stages have 1, 2 images a device: " in lines[-3] and " --config.train.draws_multiple=64 gives " in lines[-3]
    assert f"  --config.train.accumulate=2: stay0 takes {needed:.1f} GiB, too much" in text


@pytest.mark.nightly  # compiles much
def test_each_remedy_is_compiled_and_goes_as_far_as_it_must():
    config = replace(tiny_config(), train=replace(tiny_config().train, batch_size=32))
    config = replace(config, process=replace(config.process, image_size=32, num_levels=1))  # memory goes with the images
    needed = training_costs(config, cpus(**PEAKS), quick=True).largest.memory
    assert needed is not None
    found = {each.settings: each.cost.fits for each in remedies(config, cpus(**PEAKS, memory=0.75 * needed))}
    assert found["--config.train.accumulate=2"] and found["--config.train.batch_size=16"]
    assert found["--config.mesh.data=1 --config.mesh.fsdp=-1"] is False  # the state is of no account here
    none = remedies(config, cpus(**PEAKS, memory=1))
    assert not any(each.cost.fits for each in none)
    assert none[-1].settings.count("--config.") == 4  # all together at last
    assert "--config.train.batch_size=8" in {each.settings for each in none}  # as far as the devices allow


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_descriptions_of_hardware_are_whole(kind):
    described = DESCRIPTIONS[kind]
    assert described["platform"] in ("tpu", "cuda") and set(described["flops"]) == {
        "bfloat16",
        "default",
        "high",
        "highest",
    }
    assert all(described[name] > 1e9 for name in ("memory", "bandwidth", "interconnect"))
    if described["platform"] == "cuda":
        text = machines.GPU.format(**described["description"], bandwidth=described["bandwidth"], memory=described["memory"])
        assert text.count("{") == text.count("}") == 3 and f'"{described["description"]["name"]}"' in text


@pytest.mark.parametrize(
    "message, gib",
    [
        (
            "E1000: CompileTimeHbmOom: memory required for HLO temporaries (32.00G) exceeds available HBM (15.75G).",
            32,
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G.", 20.5),
    ],
)
def test_how_compilers_say_that_a_program_is_too_large(message, gib):
    found = TOO_LARGE.search(message)
    assert found and float(found[1]) == gib and found[2] == "G"


def test_a_program_that_does_not_compile_is_one_line():
    def fail(options):
        raise RuntimeError("INTERNAL: no such\nthing")

    lowered = type("Lowered", (), {"compile": staticmethod(fail)})
    with pytest.raises(InputError, match="program stay0 does not compile for cpu:8: INTERNAL: no such thing"):
        compiler._compile("stay0", lowered, cpus())


@pytest.mark.parametrize(
    "hardware, message",
    [
        ("h1000:8", "hardware"),
        ("v5e", "v5e"),
        ("cpu:none", "--hardware is cpu:none, but must name a number of devices, as in cpu:8"),
    ],
)
def test_unknown_hardware(hardware, message):
    with pytest.raises(InputError, match=message) as error:
        find_machine(hardware)
    assert "\n" not in str(error.value)
    if hardware == "h1000:8":
        assert all(f"{kind}:" in str(error.value) for kind in DESCRIPTIONS)


@pytest.mark.parametrize(
    "hardware, module, package", [("v5e:2x2", "libtpu", "libtpu"), ("h100:8", "jax_cuda", "jax[cuda13]")]
)
def test_compilers_that_are_not_installed(monkeypatch, hardware, module, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith(module) else found(name))
    with pytest.raises(InputError) as error:
        find_machine(hardware)
    assert f"pip install '{package}'" in str(error.value)


@pytest.mark.nightly
def test_the_command(tmp_path):
    quick = ["launch.forecast", "--config=openmoji32", *TINY, "--hardware=cpu:4", "--quick"]
    again = launch(*quick, "--json", "--samples=10", devices=4)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["sampling"]["levels"]["images"] == 12 and found["machine"]["devices"] == 4
    assert set(found["training"]) == {"levels", "one level"} and found["remedies"] == []
    names = [each["name"] for each in found["training"]["levels"]["programs"]]
    assert names == ["stay1", "up1to0", "stay0", "zeros", "update"]


@pytest.mark.nightly
def test_the_command_prints_tables():
    text = launch("launch.forecast", "--config=openmoji32", *TINY, "--hardware=cpu:4", "--quick", devices=4)
    assert text.returncode == 0, text.stderr
    assert re.search(r"(?m)^stay1 +[1-9]", text.stdout) and "Training: whether it fits is not known." in text.stdout


# What takes the compilers of other hardware, gigabytes: .ci/nightly installs them.
HALF = Config(
    process=ProcessConfig(image_size=32, num_levels=2, num_timesteps=20),
    model=FlexiUNetConfig(widths=(32, 64), attention_levels=(0, 1), num_classes=3, label_dropout=0.1, dtype="bfloat16"),
    train=TrainConfig(batch_size=16),
    sample=SampleConfig(num=16, num_steps=4, guidance=2.0),
)
INSTRUCTION = re.compile(r"(?m)^ *(?:ROOT )?%?(?P<name>[\w.-]+) = \(?(?P<dtype>\w+)\[.*$")
CONVOLUTION = re.compile(r' convolution\((.*?)\)|custom-call\((.*?)\).*custom_call_target="__cudnn\$conv')


def machine(hardware: str) -> Machine:
    try:
        return find_machine(hardware)
    except InputError as error:
        if "is not installed" not in str(error):
            raise
        pytest.skip(str(error))


def convolutions(program: str) -> list[tuple[str, ...]]:
    """The dtypes of what each convolution of the network takes; products of matrices, which TPUs show as such, left out."""
    dtypes = {found["name"]: found["dtype"] for found in INSTRUCTION.finditer(program)}
    found = []
    for line in program.splitlines():
        if "/conv_general_dilated" in line and (operands := CONVOLUTION.search(line)):
            names = (operands[1] or operands[2]).split(",")
            found.append(tuple(dtypes[name.split()[-1].lstrip("%")] for name in names))
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("hardware", ["v5e:2x2", "h100:1", "a100:8"])
def test_no_convolution_of_bfloat16_has_float32_operands(hardware):
    there, experiment = machine(hardware), built_denoiser(HALF)
    mesh = make_mesh(devices=there.devices)
    programs = [*training_programs(experiment, mesh), *sampling_programs(experiment, mesh, 16)]
    for each in programs:
        if each.images:
            text = each.lower().compile(there.compiler_options).as_text()
            found = convolutions(text)
            assert len(found) >= 10 and {dtype for dtypes in found for dtype in dtypes} == {"bf16"}, each.name
            assert ("fmha" in text) == (there.platform == "cuda")  # attention that never holds the logits


@pytest.mark.nightly
@pytest.mark.parametrize("hardware", ["v4:2x2x1", "v5e:4x4", "v5p:2x2x2", "v6e:2x4", "a100_40gb:1", "h200:4", "b200:16"])
def test_hardware_that_is_not_here(hardware):
    there = machine(hardware)
    shape = [int(n) for n in hardware.partition(":")[2].split("x")]
    assert len(there.devices) == math.prod(shape)
    config = replace(tiny_config(), train=replace(tiny_config().train, batch_size=48))
    largest = training_costs(config, there, quick=True).largest
    assert largest.fits and largest.compiled and largest.compiled.traffic and largest.roofline


@pytest.mark.nightly
def test_what_is_too_large_for_a_tpu_is_said():
    there = machine("v5e:2x2")
    mesh = make_mesh(devices=there.devices)
    x = jax.ShapeDtypeStruct((2**17, 2**17), "bfloat16", sharding=replicated(mesh))
    compiled = compiler._compile("stay0", jax.jit(lambda x: (x @ x).sum()).lower(x), there)
    assert not compiled.fits and compiled.temporaries >= 32 * 2**30


@pytest.mark.nightly
def test_other_commands_do_not_try_hardware_that_is_not_here(tmp_path):
    """With compilers for it installed: no warning, no traceback."""
    if not any(map(importlib.util.find_spec, ("libtpu", "jax_cuda13_plugin"))):
        pytest.skip("neither libtpu nor jax[cuda13] is installed")
    (tmp_path / "shows.py").write_text(
        "import jax\nfrom launch.common.command import run\nrun(lambda: print(jax.devices()[0].platform))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    result = subprocess.run(
        [sys.executable, "-m", "shows"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == ("cpu\n", "")
