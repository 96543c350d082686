"""Parity with the published PyTorch model and process (tests/golden/), and the way of a checkpoint into a run."""

import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ssd_jax
from ssd_jax.config import DataConfig, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.interop.guided_diffusion import ReferenceSettings, config_from_reference, model_from_reference
from ssd_jax.interop.published import import_checkpoint, settings_from_name
from ssd_jax.process.config import make_process
from ssd_jax.process.operators import SeparableOperator, along_axes
from ssd_jax.process.reverse import up_step
from ssd_jax.training.loss import LOSS_WEIGHTINGS
from tests.commands import launch
from tests.interop.published_shapes import published_shapes
from tests.torch_writer import torch_save

DATA = Path(__file__).parents[1] / "golden"
PLAIN, CONDITIONAL = "flexi_unet_32px_3l", "flexi_unet_32px_2l_class"
PUBLISHED = ProcessConfig(image_size=32, num_levels=3, operator="bilinear", snr_policy="published")
TINY = ProcessConfig(image_size=16, num_levels=2, num_timesteps=20, operator="bilinear", snr_policy="published")
RELEASED_NAME = "ssd_16res_celeba_2levels_ema_0.9999_1000000.pt"


@cache
def reference(name: str) -> dict[str, np.ndarray]:
    """A file of tests/golden/, images as NHWC."""
    with np.load(DATA / f"{name}.npz") as file:
        return {k: v.transpose(0, 2, 3, 1) if v.ndim == 4 and "param/" not in k else v for k, v in file.items()}


def state_dict(name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix("param/"): array for key, array in reference(name).items() if key.startswith("param/")}


@cache
def imported(name: str, num_levels: int):
    return nnx.split(model_from_reference(state_dict(name), image_size=32, num_levels=num_levels))


@pytest.mark.parametrize(
    ("name", "in_level", "out_level"),
    [(PLAIN, *path) for path in ((0, 0), (1, 1), (2, 2), (1, 0), (2, 1))]
    + [(CONDITIONAL, *path) for path in ((0, 0), (1, 1), (1, 0))],
)
@pytest.mark.smoke
def test_network_is_the_published_one(name, in_level, out_level):
    path = f"stay{32 >> in_level}" if in_level == out_level else f"up{32 >> in_level}to{32 >> out_level}"
    x, t, out = (jnp.asarray(reference(name)[f"{path}/{key}"]) for key in ("x", "t", "out"))
    label = jnp.asarray(reference(name)[f"{path}/y"]) if name == CONDITIONAL else None
    graphdef, state = imported(name, num_levels=2 if name == CONDITIONAL else 3)

    @jax.jit
    def predict(state, x, t, label):
        return nnx.merge(graphdef, state)(x, t, label, in_level=in_level, out_level=out_level)

    np.testing.assert_allclose(predict(state, x, t, label), out, rtol=0, atol=2e-5)


@pytest.mark.parametrize("t", [0, 1, 250, 554, 555, 889, 909, 999])
def test_process_is_the_published_one(t):
    process, s = make_process(PUBLISHED), max(t - 1, 0)
    files = {key.removeprefix(f"t{t:03d}/"): array for key, array in reference("process_32px_3l").items()}
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    np.testing.assert_allclose(process.alpha, files["alpha"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(process.sigma, files["sigma"], rtol=0, atol=1e-9)
    in_level, out_level = int(process.levels[t]), int(process.levels[s])
    x0 = jnp.asarray(files["x0"])
    x = process.add_noise(process.degrade(x0, in_level), jnp.full(3, t), jnp.asarray(files["noise"]))
    close(x, files["x_t"])
    close(process.degrade(x0, out_level), files["target"])
    close(LOSS_WEIGHTINGS["min_snr"](jnp.exp(process.log_snr[t]), 1.0), files["loss_weight"])
    if t == 0:
        return  # the published code takes s = t and returns x_t; ours is (7)
    coefficients = jnp.asarray(process.reverse_coefficients(s, t, 1.0), jnp.float32)
    z = jnp.asarray(files["x0_hat"])
    if in_level == out_level:
        close(coefficients[0] * x + coefficients[1] * z, files["posterior_mean"])
        return
    operator = process.transition_operator(s, t)
    assert isinstance(operator, SeparableOperator)
    bases = operator.left, operator.right
    close(up_step(x, z, jnp.zeros_like(z), coefficients, *bases), files["posterior_mean"])
    xi = along_axes(jnp.asarray(files["xi"]), [v.T for v in operator.right])  # the published square root is symmetric
    noise = up_step(jnp.zeros_like(x), jnp.zeros_like(z), xi, coefficients, *bases)
    close(noise, files["posterior_noise"])


def tiny_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = published_shapes(attention=(0, 1))
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("name", "classes"), [(PLAIN, 0), (CONDITIONAL, 1000)])
def test_the_layout_above_is_the_published_one(name, classes):
    widths = (32, 64, 64) if name == PLAIN else (32, 64)
    layout = published_shapes(
        widths, attention=range(1, len(widths)), adapters=[32 >> i for i in range(len(widths))], classes=classes
    )
    assert layout == {key: array.shape for key, array in state_dict(name).items()}


def test_every_tensor_has_its_place_in_a_deep_network():
    """Two ResBlocks a level, attention at full resolution too, a process of two of the network's four levels."""
    shapes = published_shapes((32, 64, 96, 128), num_res_blocks=2, attention=(0, 2), adapters=(64, 32), classes=5)
    numbers = {name: i for i, name in enumerate(shapes, start=1)}
    tensors = {name: np.full(shape, numbers[name], np.float16) for name, shape in shapes.items()}
    model = model_from_reference(tensors, image_size=64, num_levels=2, settings=ReferenceSettings((64, 16, 4), num_heads=8))
    assert model.config.num_heads == 8 and model.config.attention_levels == (0, 2)
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(nnx.to_pure_dict(nnx.state(model))))
    parameters = {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}
    places = [leaf.flat[0] for leaf in parameters.values()]
    never_run = [name for name in shapes if name.startswith("output_blocks.11.")]
    assert sorted(filter(None, places)) == sorted(number for name, number in numbers.items() if name not in never_run)
    assert places.count(0) == 2 * (2 + 2)  # adapters of levels 2 and 3, which the process never enters
    for ours, theirs in {
        "encoders.1.1.residual.conv1.kernel": "input_blocks.5.0.in_layers.2.weight",
        "descends.2.bias": "input_blocks.9.0.op.bias",
        "middle.1.residual.norm2.scale": "middle_block.2.out_layers.0.weight",
        "decoders.3.0.residual.skip.kernel": "output_blocks.0.0.skip_connection.weight",
        "ascend_blocks.2.residual.conv2.kernel": "output_blocks.2.0.out_layers.3.weight",
        "ascend_convs.2.kernel": "output_blocks.2.1.conv.weight",
        "ascend_convs.1.kernel": "output_blocks.5.2.conv.weight",
        "decoders.0.1.attention.out.bias": "output_blocks.10.1.proj_out.bias",
        "adapters_out.1.kernel": "adapters_out.32.weight",
        "embed_label.embedding": "label_emb.weight",
    }.items():
        assert (parameters[ours] == numbers[theirs]).all(), theirs


def with_attention(tensors):
    return tensors | {f"input_blocks.1.1.qkv.{kind}": np.zeros(96) for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {"conv1.weight": np.zeros((8, 3, 3, 3))}, "missing: input_blocks.1.0.*given: conv1.weight"),
        (lambda tensors: {k: v for k, v in tensors.items() if k != "out.2.bias"}, "1000 classes: missing: out.2.bias"),
        (lambda tensors: {k: v for k, v in tensors.items() if "skip" not in k}, "missing: .*skip_connection.* and 2 more"),
        (lambda tensors: tensors | {"extra": np.zeros(2)}, "unknown: extra"),
        (lambda tensors: tensors | {"out.2.bias": np.zeros(6)}, r"of another shape: out.2.bias \(6,\) instead of \(3,\)"),
        (with_attention, r"attention_resolutions is \(16, 8\).*attention at \(32, 16\)"),
    ],
)
def test_other_tensors_are_one_clear_error(change, message):
    with pytest.raises(InputError, match=message) as error:
        model_from_reference(change(state_dict(CONDITIONAL)), image_size=32, num_levels=2)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 64}, r"attention at \(32\) if image_size is 64"),
        ({"image_size": 64, "settings": ReferenceSettings((32,))}, "missing: adapters_out.32.*unknown: adapters_out.16"),
        ({"image_size": 31}, "image_size is 31.*multiple of 2"),
        ({"num_levels": 3}, "num_levels 3, but the network has 2 levels"),
        ({"settings": ReferenceSettings(num_heads=5)}, "num_heads is 5.*divide the width 64"),
    ],
)
def test_other_settings_are_one_clear_error(arguments, message):
    with pytest.raises(InputError, match=message):
        model_from_reference(state_dict(CONDITIONAL), **{"image_size": 32, "num_levels": 2} | arguments)


def test_settings_of_released_names():
    released = settings_from_name("checkpoints/ssd_256res_celeba_6levels_ema_0.9999_1000000.pt")
    assert released == {"image_size": 256, "num_levels": 6, "step": 1_000_000}
    assert settings_from_name("ssd_64res_imagenet_2levels.pt") == {"image_size": 64, "num_levels": 2}
    assert settings_from_name("model.pt") == {}


@pytest.mark.nightly
def test_a_checkpoint_becomes_a_run(tmp_path):
    weights = tiny_weights()
    path = torch_save({"model": weights, "step": 7}, tmp_path / RELEASED_NAME)
    result = launch("launch.import_reference", f"--checkpoint={path}", f"--workdir={tmp_path}/run")
    assert result.returncode == 0 and "step 7: widths (32, 64)" in result.stdout, result.stderr
    assert sorted(os.listdir(tmp_path)) == sorted([RELEASED_NAME, "run"])
    trained = ssd_jax.load(tmp_path / "run")
    assert trained.step == 7 and trained.config.process.snr_policy == "published"
    assert trained.config.model == config_from_reference(weights, image_size=16, num_levels=2)
    np.testing.assert_array_equal(trained.network.parameters["embed_1"]["kernel"], weights["time_embed.0.weight"].T)
    drawn = trained.sample(jax.random.key(0), 2, num_steps=4)
    assert drawn.shape == (2, 16, 16, 3) and np.isfinite(drawn).all() and np.ptp(drawn) > 0.1
    again = launch("launch.import_reference", f"--checkpoint={path}", f"--workdir={tmp_path}/run")
    assert again.returncode == 2 and "is not an empty folder" in again.stderr
    tuned = ["--config=openmoji32", f"--workdir={tmp_path}/tuned", f"--init_from={path}", "--config.train.steps=2"]
    model = ["widths=(32,64)", "attention_levels=(0, 1)", "num_res_blocks=1"]
    tuned += [f"--config.model.{each}" for each in model]
    tuned += ["--config.process.image_size=16", "--config.process.num_levels=2", "--config.train.batch_size=8"]
    result = launch("launch.train", *tuned)
    assert result.returncode == 0 and "new: embed_label/embedding" in result.stderr, result.stderr
    settings = replace(trained.config.train, steps=9, batch_size=24)
    with pytest.raises(InputError, match="averaged parameters only"):
        ssd_jax.train(replace(trained.config, data=DataConfig(), train=settings), tmp_path / "run")


def test_a_bare_state_dict_takes_its_step_from_the_name(tmp_path):
    (tmp_path / "run").mkdir()
    trained = import_checkpoint(torch_save(tiny_weights(), tmp_path / RELEASED_NAME), tmp_path / "run", TINY)
    assert trained.step == 1_000_000 and trained.config.process == TINY


@pytest.mark.parametrize(
    ("contents", "process", "message"),
    [
        ({"model": {"stem": np.zeros(3)}, "step": 1}, TINY, "not those of a published Flexi-UNet"),
        ({"model": tiny_weights(), "step": "last"}, TINY, "step is 'last'"),
        ({"weights": tiny_weights()}, TINY, "no tensors: weights"),
        ({"model": tiny_weights(), "step": 1}, PUBLISHED, "num_levels 3, but the network has 2 levels"),
    ],
    ids=["architecture", "step", "contents", "process"],
)
def test_an_import_that_fails_leaves_nothing(contents, process, message, tmp_path):
    path = torch_save(contents, tmp_path / "model.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint(path, tmp_path / "run", process)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_place_that_cannot_be_written_is_refused_before_the_file_is_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="run' cannot be written to: .*file' is no folder"):
        import_checkpoint(tmp_path / "none.pt", tmp_path / "file" / "run", ProcessConfig(shape=(16, 16), num_levels=2))


def test_a_write_that_fails_leaves_nothing(monkeypatch, tmp_path):
    path = torch_save(tiny_weights(), tmp_path / "model.pt")

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("ssd_jax.run.checkpoint.open_checkpoints", fail)
    with pytest.raises(OSError, match="no space left"):
        import_checkpoint(path, tmp_path / "run", TINY)
    assert os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=nowhere.pt"], "--image_size is missing"),
        (["--checkpoint=ssd_64res_celeba_4levels.pt"], "cannot be read: No such file"),
        (["--checkpoint=a.pt", "--image_size=8", "--num_levels=2", "--attention_resolutions=4,x"], "'4,x'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path):
    result = launch("launch.import_reference", *arguments, f"--workdir={tmp_path}/run")
    assert result.returncode == 2 and result.stderr.startswith("error: ") and message in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"label_emb.weight": np.zeros(())}, "are not those of a published Flexi-UNet"),
        ({f"input_blocks.{i}.x": np.zeros(1) for i in range(300)}, "are not those of a published Flexi-UNet"),
        ({f"input_blocks.{'9' * 5000}.0.op.": np.zeros(1)}, "are not those of a published Flexi-UNet"),
        ({"stem\n\x1b[31m" + "x" * 1000: np.zeros(1)}, "unknown: stem"),
        (
            {"input_blocks.0.0.bias": np.full(32, np.nan, np.float32)},
            "1 of 178 arrays hold numbers that are not finite, the first stem/bias;",
        ),
        ({"step": [[]] * 3}, r"step is \[\[\], \[\], \[\]\] and"),
        ({"step": 2**40}, "step is 1099511627776 and"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_checkpoints_are_refused_in_one_line(contents, message, tmp_path):
    step = {"step": contents.pop("step")} if "step" in contents else {}
    path = torch_save({"model": state_dict(PLAIN) | contents, **step}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=message) as refused:
        import_checkpoint(path, tmp_path / "run", PUBLISHED)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 700 and not (tmp_path / "run").exists()
