"""ADM's own U-Net as level 0 of a FlexiUNet: parity with PyTorch (tests/golden/adm.npz), then more levels."""

import shlex
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ssd_jax
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.interop.guided_diffusion import ReferenceSettings, model_from_reference
from ssd_jax.interop.published import import_checkpoint, read_checkpoint, read_origin
from tests.commands import launch
from tests.interop.make_adm import GOLDEN, SIZE, weights
from tests.interop.published_shapes import published_shapes
from tests.torch_writer import torch_save

SHAPES = {
    "baseline": published_shapes(adapters=()),
    "adm": published_shapes(
        (32, 32, 64), num_res_blocks=2, attention=(1, 2), adapters=(), classes=5, outputs=6, residual_resampling=True
    ),
}
SETTINGS = {
    "baseline": ReferenceSettings((8,)),
    "adm": ReferenceSettings((8, 4), head_width=16, new_attention_order=True),
}
ONE_LEVEL = ProcessConfig(image_size=SIZE, num_levels=1)


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("variant", SHAPES)
def test_the_network_is_guided_diffusion_s(variant):
    x, t, out = (golden()[f"{variant}/{name}"] for name in ("x", "t", "out"))
    label = golden().get(f"{variant}/y")
    model = model_from_reference(weights(SHAPES[variant]), image_size=SIZE, num_levels=1, settings=SETTINGS[variant])
    assert model.config.stem_skip and model.config.resampling == ("residual" if variant == "adm" else "convolution")
    predict = nnx.jit(lambda model, x, t, label: model(x, t, label, in_level=0, out_level=0))
    predicted = predict(
        model, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(t), None if label is None else jnp.asarray(label)
    )
    means = out[:, :3].transpose(0, 2, 3, 1)  # then the variances, if they are predicted
    np.testing.assert_allclose(predicted, means, rtol=0, atol=2e-5 * np.abs(means).max())


def test_a_flexi_unet_of_one_level_is_not_taken_for_adm():
    """Both have the same names then; but it never trains its last block, whose last convolution is born zero."""
    tensors = weights(SHAPES["baseline"])
    tensors["output_blocks.3.0.out_layers.3.weight"][:] = 0
    model = model_from_reference(tensors, image_size=SIZE, num_levels=1, settings=SETTINGS["baseline"])
    assert not model.config.stem_skip


@pytest.mark.parametrize(
    ("changed", "num_levels", "message"),
    [
        ({}, 2, "num_levels is 2, but these are tensors of ADM.*init_from"),
        ({"output_blocks.3.0.out_layers.3.bias": None}, 1, "missing: output_blocks.3.0.out_layers.3.bias"),
        ({"output_blocks.1.2.conv.weight": None}, 1, "missing: output_blocks.1.2.conv.weight"),
        ({"time_embed.0.weight": np.zeros((256, 64))}, 1, "of another shape: time_embed.0.weight"),
        ({"input_blocks.1.0.emb_layers.1.weight": np.zeros((32, 128))}, 1, "of another shape: .*emb_layers"),
    ],
)
def test_other_tensors_are_one_clear_error(changed, num_levels, message):
    tensors = weights(SHAPES["baseline"]) | changed
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(InputError, match=message):
        model_from_reference(tensors, image_size=SIZE, num_levels=num_levels, settings=SETTINGS["baseline"])


def test_what_adm_predicts_is_its_run_s(tmp_path):
    path = torch_save(weights(SHAPES["baseline"]), tmp_path / "model.pt")
    assert read_checkpoint(path, ONE_LEVEL, SETTINGS["baseline"]).config.denoiser.parameterisation == "eps"
    told = read_checkpoint(path, ONE_LEVEL, replace(SETTINGS["baseline"], parameterisation="x0"))
    assert told.config.denoiser.parameterisation == "x0"
    with pytest.raises(InputError, match="eps"):  # more noise beside the signal than a network can tell apart
        read_checkpoint(path, replace(ONE_LEVEL, noise_schedule="cosine"), SETTINGS["baseline"])


def test_a_file_of_adm_starts_no_run_by_itself(tmp_path):
    """Nothing in it tells the order of attention, which is a flag of the import."""
    path = torch_save(weights(SHAPES["baseline"]), tmp_path / "model.pt")
    config = read_checkpoint(path, ONE_LEVEL, SETTINGS["baseline"]).config
    with pytest.raises(InputError, match="is of ADM.*launch.import_reference"):
        read_origin(path, config)


@pytest.mark.parametrize("name", ["model.pt", "ssd_16res_celeba_2levels.pt"])
def test_a_run_of_more_levels_may_start_from_a_file_of_fewer(name, tmp_path):
    """By its name, or by its adapters."""
    path = torch_save(weights(published_shapes((32, 64, 96), attention=(1,), adapters=(16, 8))), tmp_path / name)
    two = ProcessConfig(image_size=SIZE, num_levels=2)
    config = read_checkpoint(path, two, SETTINGS["baseline"]).config
    process = replace(two, num_levels=3, resolution_schedule="threshold", thresholds=(0.3, 0.6), blur=2.0)
    origin = read_origin(path, replace(config, process=process))
    assert origin.process.num_levels == 2 and origin.config.denoiser == config.denoiser
    assert not origin.network.parameters["adapters_in"][2]["kernel"].any()  # born new by `run.origin`


@pytest.mark.nightly
def test_a_checkpoint_becomes_a_run_and_then_one_of_several_levels(tmp_path):
    path = torch_save(weights(SHAPES["baseline"]), tmp_path / "model.pt")
    flags = [f"--checkpoint={path}", f"--image_size={SIZE}", "--num_levels=1", "--attention_resolutions=8"]
    result = launch("launch.import_reference", *flags, f"--workdir={tmp_path}/adm")
    assert result.returncode == 0 and "prediction eps" in result.stdout, result.stderr
    trained = ssd_jax.load(tmp_path / "adm")
    drawn = trained.sample(jax.random.key(0), 2, num_steps=4)
    assert drawn.shape == (2, SIZE, SIZE, 3) and np.isfinite(drawn).all()
    common = ["--config=openmoji32", f"--config.process.image_size={SIZE}", "--config.process.num_levels=2"]
    common += ["--config.model.num_classes=0", "--config.model.label_dropout=0", "--config.sample.guidance=1"]
    common += ["--config.process.blur=0", "--config.train.steps=2", "--config.train.batch_size=8"]
    model = shlex.split(result.stdout.splitlines()[-1])
    common += [each for each in model if each.startswith("--config.")]
    result = launch("launch.train", *common, f"--workdir={tmp_path}/two", f"--init_from={tmp_path}/adm")
    assert result.returncode == 0 and "new: adapters_out/1/" in result.stderr, result.stderr
    assert "not used" not in result.stderr and "something else" not in result.stderr, result.stderr
    assert import_checkpoint(path, tmp_path / "again", ONE_LEVEL, SETTINGS["baseline"]).config.model == trained.config.model
