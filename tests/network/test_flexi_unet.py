from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd_jax.config import FlexiUNetConfig
from ssd_jax.errors import InputError
from ssd_jax.network.blocks import AttentiveResBlock, BlockSettings, ResBlock, drop, timestep_embedding
from ssd_jax.network.convolution import Axes
from ssd_jax.network.flexi_unet import FlexiUNet
from tests.networks import randomised

CONFIG = FlexiUNetConfig(widths=(8, 16, 16), num_res_blocks=2, attention_levels=(1,), num_heads=2, num_classes=3)


def make(config, shape=(16, 24), channels=3):
    return FlexiUNet(config, shapes=(shape,), in_channels=channels, out_channels=channels, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def model():
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(CONFIG)))
    return nnx.merge(graphdef, randomised(nnx.to_pure_dict(state)))


def call(model, in_level, out_level, x=None, label=(0, 1), **kwargs):
    graphdef, state = nnx.split(model)
    x = jax.random.normal(jax.random.key(0), (2, 16 >> in_level, 24 >> in_level, 3)) if x is None else x
    label = None if label is None else jnp.array(label)

    @jax.jit
    def run(state, x, t, label):
        return nnx.merge(graphdef, state)(x, t, label, in_level=in_level, out_level=out_level, **kwargs)

    return run(state, x, jnp.array([3, 700]), label)


@pytest.mark.parametrize(("in_level", "out_level"), [(0, 0), (1, 1), (2, 2), (1, 0), (2, 1), (2, 0)])
def test_every_path_has_the_shape_of_its_out_level(model, in_level, out_level):
    out = call(model, in_level, out_level)
    assert out.shape == (2, 16 >> out_level, 24 >> out_level, 3) and out.dtype == jnp.float32
    assert np.isfinite(out).all() and out.std() > 0.01


def test_up_step_into_level_0_is_the_full_path_of_the_resized_state(model):
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    resized = jax.image.resize(x, (2, 16, 24, 3), "bilinear")
    np.testing.assert_allclose(call(model, 1, 0, x), call(model, 0, 0, resized), atol=1e-5)


def test_time_label_and_every_pixel_matter(model):
    x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
    base = call(model, 0, 0, x)
    assert np.abs(base - call(model, 0, 0, x, label=(2, 1)))[0].max() > 1e-3
    np.testing.assert_array_equal(base[1], call(model, 0, 0, x, label=(2, 1))[1])
    same = jnp.concatenate([x[:1], x[:1]])
    first, second = call(model, 0, 0, same, label=(1, 1))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(base - call(model, 0, 0, x.at[0, 0, 0].add(1)))[0, 15, 23].max() > 0


def test_a_new_network_predicts_zero_whatever_its_depth():
    for num_res_blocks in (1, 2):
        config = FlexiUNetConfig(widths=(8, 8), num_res_blocks=num_res_blocks, attention_levels=(1,), num_heads=2)
        model = make(config)
        assert len(model.encoders[0]) == num_res_blocks
        np.testing.assert_array_equal(call(model, 0, 0, label=None), 0)


def test_a_new_block_is_its_skip_connection_and_a_used_one_is_scaled_and_shifted():
    x, embedding = jnp.ones((1, 4, 4, 8)).at[0, 0].set(3.0), jnp.ones((1, 6))
    block = ResBlock(8, 8, BlockSettings(Axes(), 6, 0.0, jnp.float32), nnx.Rngs(0))

    def run(block):
        return block(x, embedding, dropout_keys=None)

    np.testing.assert_array_equal(run(block), x)
    block.conv2 = cast(nnx.Conv, lambda h: h)  # what it would convolve
    scale_shift = block.scale_shift
    normed = block.norm2(block.conv1(nnx.silu(block.norm1(x))))
    block.scale_shift = cast(nnx.Linear, lambda e: jnp.concatenate([jnp.full((1, 8), 0.5), jnp.ones((1, 8))], -1))
    np.testing.assert_allclose(run(block) - x, nnx.silu(1.5 * normed + 1), atol=1e-5)
    assert scale_shift.out_features == 16


def test_dropout_is_an_image_s_own_and_only_in_training():
    config = FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, dropout=0.5)
    graphdef, state = nnx.split(make(config, (4, 4)))
    state = jax.tree.map(lambda p: p + 0.1, nnx.to_pure_dict(state))
    model = nnx.merge(graphdef, state)
    x, t = jnp.tile(jax.random.normal(jax.random.key(0), (1, 4, 4, 3)), (3, 1, 1, 1)), jnp.full(3, 5)
    keys = jax.random.split(jax.random.key(1), 3)
    call = partial(model, in_level=0, out_level=0)
    still, dropped = call(x, t), call(x, t, dropout_keys=keys)
    np.testing.assert_array_equal(still[0], still[1])
    assert all(np.abs(dropped[i] - other).max() > 0 for i, other in ((0, dropped[1]), (1, dropped[2]), (2, still[2])))
    alone = call(x[:1], t[:1], dropout_keys=keys[1:2])  # in a batch of its own, at another place
    np.testing.assert_allclose(alone[0], dropped[1], rtol=1e-5, atol=1e-6)


def test_dropout_keeps_the_mean():
    x, keys = jnp.ones((2, 64, 64, 8)), jax.random.split(jax.random.key(0), 2)
    dropped = drop(x, 0.25, keys)
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_allclose(dropped.mean(axis=(1, 2, 3)), 1, atol=5 * (0.25 / 0.75 / 2**15) ** 0.5)
    assert drop(x, 0.25, None) is x and drop(x, 0.0, keys) is x


def test_dropout_differs_from_block_to_block(monkeypatch):
    given = []

    def block(self, x, embedding, *, dropout_keys):
        given.append(np.asarray(jax.random.key_data(dropout_keys)))
        return x[..., :8]

    monkeypatch.setattr(AttentiveResBlock, "__call__", block)
    model = make(FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, dropout=0.5), (4, 4))
    keys = jax.random.split(jax.random.key(0), 2)
    model(jnp.zeros((2, 4, 4, 3)), jnp.zeros(2), in_level=0, out_level=0, dropout_keys=keys)
    assert len(given) > 2 and len(np.unique(np.concatenate(given), axis=0)) == 2 * len(given)


def test_bfloat16_computes_small_and_answers_in_float32():
    config = FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, dtype="bfloat16")
    model = make(config, (4, 4))
    stem = cast(nnx.Conv, model.stem)
    assert stem.kernel[...].dtype == jnp.float32
    assert stem(jnp.zeros((1, 4, 4, 3))).dtype == jnp.bfloat16
    assert model(jnp.zeros((1, 4, 4, 3)), jnp.zeros(1), in_level=0, out_level=0).dtype == jnp.float32


def test_timestep_embedding():
    e = timestep_embedding(jnp.array([0, 7]), 8)
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(e[0], [1] * 4 + [0] * 4)
    np.testing.assert_allclose(e[1], [*np.cos(7 * frequencies), *np.sin(7 * frequencies)], rtol=1e-5)


def test_bad_calls(model):
    x, t, label = jnp.zeros((1, 16, 24, 3)), jnp.zeros(1), jnp.zeros(1, int)
    with pytest.raises(InputError, match=r"path \(0, 1\) does not exist"):
        model(x, t, label, in_level=0, out_level=1)
    with pytest.raises(InputError, match=r"path \(3, 3\).*3 levels"):
        model(x, t, label, in_level=3, out_level=3)
    for wrong in ((1, 18, 24, 3), (1, 16, 24, 1)):
        with pytest.raises(InputError, match=r"at level 0 it must be \[batch, 16, 24, 3\]"):
            model(jnp.zeros(wrong), t, label, in_level=0, out_level=0)
    with pytest.raises(InputError, match=r"label is missing, but the network takes int32 \[1\]"):
        model(x, t, in_level=0, out_level=0)


def test_channels_are_arguments():
    config = FlexiUNetConfig(widths=(8, 8), attention_levels=(), num_heads=1)
    for channels in (1, 4):
        out = make(config, (8, 12), channels)(jnp.zeros((2, 8, 12, channels)), jnp.zeros(2), in_level=0, out_level=0)
        assert out.shape == (2, 8, 12, channels)


def test_shapes_that_the_network_cannot_take():
    config = FlexiUNetConfig(widths=(8, 8, 8), attention_levels=(), num_heads=1)
    for shapes, message in (
        (
            ((18, 16),),
            r"process.shape is \(18, 16\), but 3 levels \(entries of model.widths\) need positive multiples of 4",
        ),
        (((16, 16), (8, 8), (4, 4), (2, 2)), "process.num_levels is 4, but the network has 3 levels"),
        (((16, 16), (4, 4)), r"levels of the process have shapes \(\(16, 16\), \(4, 4\)\)"),
        (((16, 16, 16, 16),), "takes one, two or three axes"),
    ):
        with pytest.raises(InputError, match=message):
            FlexiUNet(config, shapes=shapes, in_channels=3, out_channels=3, rngs=nnx.Rngs(0))

    for clips, shape, message in (
        ({"factorised": True}, (16, 16), r"model.factorised takes three axes, \(frames, h, w\)"),
        ({"factors": ((2, 2),)}, (4, 8, 8), "model.factors is .*give each level 3 number"),
        ({"factors": ((1, 2, 2),)}, (3, 8, 6), r"multiples of \(1, 4, 4\), axis by axis"),
    ):
        with pytest.raises(InputError, match=message):
            make(replace(config, **clips), shape)


@pytest.mark.parametrize(
    "shapes, factorised",
    [
        (((16,), (8,)), False),
        pytest.param(((4, 4, 8), (2, 2, 4)), False, marks=pytest.mark.nightly),
        (((3, 8, 8), (3, 4, 4)), True),
    ],
)
def test_signals_volumes_and_clips_are_the_same_network(shapes, factorised):
    """Every path has the shape of its out level, and every pixel tells of every other; further levels shrink alike."""
    config = FlexiUNetConfig(widths=(8, 8, 8), attention_levels=(1,), num_heads=1, factorised=factorised)
    kinds = {"in_channels": 2, "out_channels": 2}
    graphdef, state = nnx.split(nnx.eval_shape(lambda: FlexiUNet(config, shapes=shapes, rngs=nnx.Rngs(0), **kinds)))
    model = nnx.merge(graphdef, randomised(nnx.to_pure_dict(state)))
    assert model.shapes[2] == ((3, 2, 2) if factorised else tuple(n // 4 for n in shapes[0]))
    for in_level, out_level in ((1, 1), (1, 0)):
        x = jax.random.normal(jax.random.key(0), (2, *shapes[in_level], 2))
        call = jax.jit(partial(model, in_level=in_level, out_level=out_level))
        out, first = call(x, jnp.zeros(2)), (0,) * (x.ndim - 2)
        assert out.shape == (2, *shapes[out_level], 2) and out.std() > 0.01
        moved = np.abs(out - call(x.at[(0, *first)].add(1), jnp.zeros(2)))
        assert moved[0].min(axis=-1).all() and moved[1].max() == 0


@pytest.mark.nightly
def test_resampling_within_residual_blocks_and_the_stem_s_skip():
    """As ADM's U-Net, on every path and over any axes; tests.interop.test_adm holds level 0 against its own."""
    config = FlexiUNetConfig(widths=(8, 16, 16), attention_levels=(1,), head_width=4, resampling="residual", stem_skip=True)
    assert config.heads(0) == 2 and config.heads(1) == 4
    shapes = ((3, 8, 8), (3, 4, 4))
    kinds = {"shapes": shapes, "in_channels": 2, "out_channels": 2}
    graphdef, state = nnx.split(nnx.eval_shape(lambda: FlexiUNet(config, rngs=nnx.Rngs(0), **kinds)))
    parameters = randomised(nnx.to_pure_dict(state))

    def total(parameters, x, out_level):
        model = nnx.merge(graphdef, parameters)
        return jnp.square(model(x, jnp.zeros(1), in_level=1, out_level=out_level)).sum()

    for out_level, unused in ((1, {"last"}), (0, set())):
        x = jax.random.normal(jax.random.key(0), (1, *shapes[1], 2))
        gradient = jax.jit(partial(jax.grad(total), out_level=out_level))(parameters, x)
        still = {
            name
            for name in ("last", "descends", "ascend_convs")
            if not np.any(jax.flatten_util.ravel_pytree(gradient[name])[0])
        }
        assert still == unused, out_level


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("remat", "resampling"), [("full_resolution", "convolution"), ("full_resolution", "residual"), ("all", "convolution")]
)
def test_blocks_computed_again_give_the_same_gradient_in_less_memory(remat, resampling):
    def compiled(remat):
        config = FlexiUNetConfig(
            widths=(8, 8),
            attention_levels=(),
            num_heads=1,
            num_res_blocks=2,
            dropout=0.1,
            resampling=resampling,
            remat=remat,
        )
        graphdef, state = nnx.split(make(config, (32, 32)))
        parameters = randomised(nnx.to_pure_dict(state))
        keys = jax.random.split(jax.random.key(0), 4)

        def loss(parameters, x):
            network = nnx.merge(graphdef, parameters)
            return jnp.square(network(x, jnp.ones(4), in_level=0, out_level=0, dropout_keys=keys)).sum()

        return jax.jit(jax.grad(loss)).lower(parameters, x).compile(), parameters

    x = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    (kept, parameters), (again, _) = compiled("none"), compiled(remat)
    gradients = [jax.flatten_util.ravel_pytree(each(parameters, x))[0] for each in (kept, again)]
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-5 * float(jnp.abs(gradients[0]).max()))
    before, after = (cast(Any, each.memory_analysis()).temp_size_in_bytes for each in (kept, again))
    assert after < 0.8 * before, (before, after)


def test_precision_is_that_of_every_product_of_the_network():
    config = FlexiUNetConfig(widths=(8,), attention_levels=(0,), num_heads=1, precision="highest")
    graphdef, state = nnx.split(make(config, (4, 4)))
    parameters = nnx.to_pure_dict(state)

    def run(parameters):
        return nnx.merge(graphdef, parameters)(jnp.zeros((1, 4, 4, 3)), jnp.zeros(1), in_level=0, out_level=0)

    text = jax.jit(run).lower(parameters).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) > 10 and all("HIGHEST" in line for line in products)
