from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd_jax.errors import InputError
from ssd_jax.network.flexi_dit import FlexiDiT, FlexiDiTConfig, from_patches, rotate, to_patches
from tests.networks import randomised

CONFIG = FlexiDiTConfig(patch_size=(2,), width=16, depth=2, num_heads=2, num_classes=3)
SHAPES = ((8, 16), (4, 8), (2, 4))


def make(config=CONFIG, shapes=SHAPES, random=True):
    model = FlexiDiT(config, shapes=shapes, in_channels=3, out_channels=3, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, randomised(nnx.to_pure_dict(state))) if random else model


def call(model, in_level, out_level, x=None, label=(0, 1), **kwargs):
    x = jax.random.normal(jax.random.key(0), (2, *model.shapes[in_level], 3)) if x is None else x
    graphdef, state = nnx.split(model)
    return run(graphdef, state, x, None if label is None else jnp.array(label), in_level, out_level, **kwargs)


@partial(jax.jit, static_argnums=(0, 4, 5))
def run(graphdef, state, x, label, in_level, out_level, t=(3, 700), **kwargs):
    network = nnx.merge(graphdef, state)
    return network(x, jnp.array(t), label, in_level=in_level, out_level=out_level, **kwargs)


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.mark.parametrize("path", [(0, 0), (1, 1), (2, 2), (1, 0), (2, 0)])
def test_every_path_has_the_shape_of_its_out_level(model, path):
    out = call(model, *path)
    assert out.shape == (2, *SHAPES[path[1]], 3) and out.dtype == jnp.float32
    assert np.isfinite(out).all() and out.std() > 0.01


@pytest.mark.parametrize(
    ("patch", "shapes"), [((1, 2), ((4, 8, 8), (4, 4, 4), (2, 2, 2))), ((4,), ((32,), (16,))), ((1, 2, 4), ((2, 4, 8),))]
)
def test_clips_and_signals(patch, shapes):
    model = make(replace(CONFIG, patch_size=patch), shapes)
    for level, shape in enumerate(shapes):
        assert jax.eval_shape(partial(call, model, level, level)).shape == (2, *shape, 3)
    assert call(model, len(shapes) - 1, 0).shape == (2, *shapes[0], 3)


def test_a_new_network_predicts_zero_and_a_new_block_changes_nothing():
    model = make(random=False)
    for path in ((0, 0), (2, 1)):
        np.testing.assert_array_equal(call(model, *path), 0)
    x = jax.random.normal(jax.random.key(0), (2, 32, 16))
    np.testing.assert_array_equal(model.blocks[0](x, jnp.ones((2, 16)), model._angles(0), None), x)


def test_time_label_and_every_pixel_matter(model):
    x = jax.random.normal(jax.random.key(0), (2, *SHAPES[0], 3))
    base = call(model, 0, 0, x)
    other = call(model, 0, 0, x, label=(2, 1))
    assert np.abs(base - other)[0].max() > 1e-3
    np.testing.assert_array_equal(base[1], other[1])
    first, second = call(model, 0, 0, jnp.concatenate([x[:1], x[:1]]), label=(1, 1))
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(base - call(model, 0, 0, x.at[0, 0, 0].add(1)))[0, 7, 15].max() > 0


def test_patches_are_blocks_of_pixels_in_order_and_come_back():
    x = jnp.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = to_patches(x, (2, 3))
    assert patches.shape == (2, 4, 18)
    np.testing.assert_array_equal(patches[1, 1], x[1, :2, 3:].ravel())
    np.testing.assert_array_equal(patches[1, 2], x[1, 2:, :3].ravel())
    np.testing.assert_array_equal(from_patches(patches, (2, 2), (2, 3)), x)


def test_attention_sees_distances_alone_and_levels_agree_on_them(model):
    """A rotation keeps lengths, and products of turned vectors depend on the difference of their places."""
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 2, 1, 8))
    angles, far = np.array([[0.3, 1.0], [1.1, 0.2]], np.float32), np.float32(0.7)

    def logit(angles):
        turned, other = rotate(query, angles), rotate(key, angles)
        return (turned[0, 0, 0] * other[0, 1, 0]).sum()

    np.testing.assert_allclose(logit(angles), logit(angles + far), rtol=1e-5)
    assert abs(logit(angles) - logit(angles * 2)) > 1e-3
    np.testing.assert_allclose(jnp.linalg.norm(rotate(query, angles), axis=-1), jnp.linalg.norm(query, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(rotate(query, angles)[..., 4:], query[..., 4:])  # no axis left for them
    fine, coarse = model._angles(0).reshape(2, 2, 4, 2, -1), model._angles(1).reshape(2, 4, -1)
    np.testing.assert_allclose(fine.mean(axis=(1, 3)), coarse, rtol=1e-6)  # a token is amid the four that it stands for


def test_dropout_is_of_an_image_of_its_own(model):
    dropped = make(replace(CONFIG, dropout=0.5))
    keys = jax.random.split(jax.random.key(1), 2)
    both = call(dropped, 0, 0, dropout_keys=keys)
    assert np.abs(both - call(dropped, 0, 0)).max() > 1e-3
    x = jax.random.normal(jax.random.key(0), (2, *SHAPES[0], 3))
    swapped = call(dropped, 0, 0, x.at[0].set(0), dropout_keys=keys.at[0].set(keys[1]))
    np.testing.assert_allclose(both[1:], swapped[1:], atol=1e-5)


def test_blocks_are_computed_again_where_asked():
    x = jnp.zeros((2, *SHAPES[0], 3))

    def checkpoints(remat, level):
        network = make(replace(CONFIG, remat=remat))
        state = x[:, : SHAPES[level][0], : SHAPES[level][1]]
        return str(jax.make_jaxpr(lambda x: call(network, level, level, x))(state)).count("remat")

    assert checkpoints("all", 0) == checkpoints("full_resolution", 0) == checkpoints("all", 1) == CONFIG.depth
    assert checkpoints("none", 0) == checkpoints("full_resolution", 1) == 0


@pytest.mark.parametrize(
    ("change", "shapes", "message"),
    [
        ({"patch_size": (4,)}, SHAPES, r"patch_size is \(4, 4\), but must divide .* such as \(2, 4\)"),
        ({"patch_size": ()}, SHAPES, "must hold sides"),
        ({"num_heads": 3}, SHAPES, "must divide model.width, 16"),
        ({"width": 4, "num_heads": 2}, SHAPES, "positions on 2 axes need at least 4"),
        ({"remat": "some"}, SHAPES, "model.remat"),
    ],
)
def test_bad_settings(change, shapes, message):
    with pytest.raises(InputError, match=message):
        make(replace(CONFIG, **change), shapes)


def test_bad_calls(model):
    for arguments, message in (
        ((0, 1), "path"),
        ((1, 1, jnp.zeros((2, 8, 16, 3))), r"at level 1 it must be \[batch, 4, 8"),
    ):
        with pytest.raises(InputError, match=message):
            call(model, *arguments)
    with pytest.raises(InputError, match="label is missing"):
        call(model, 0, 0, label=None)
