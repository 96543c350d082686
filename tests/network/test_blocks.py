import importlib.util
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd_jax.network import blocks


def test_attention_is_that_of_jax():
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 9, 3, 8)) for i in range(3))
    expected = jax.nn.dot_product_attention(query, key, value)
    np.testing.assert_allclose(blocks.attend(query, key, value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "shape, larger", [((4, 6), (8, 12)), ((3, 5), (24, 40)), ((4, 6), (16, 6)), ((4,), (8,)), ((2, 3, 4), (2, 6, 8))]
)
def test_images_are_enlarged_as_by_jax(shape, larger):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    expected = jax.image.resize(x, (2, *larger, 3), "bilinear")
    np.testing.assert_allclose(blocks.enlarge(x, larger), expected, rtol=0, atol=1e-6)


def test_factorised_attention_is_over_the_pixels_of_a_frame_and_then_over_the_frames_of_a_pixel():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 8))

    def tokens(over):
        layer = blocks.Attention(8, 2, over, dtype=jnp.float32, rngs=nnx.Rngs(0))
        layer.norm, layer.out = (cast(Any, lambda h: h),) * 2
        return layer, layer(x) - x

    layer, space = tokens("space")
    _, time = tokens("time")
    heads = layer.query_key_value(x).reshape(2, 3, 4, 5, 2, 3, 4)
    query, key, value = jnp.moveaxis(heads, -2, 0)
    for found, of_frame, letters in ((space, "bthwkc,btuvkc->btkhwuv", "uv"), (time, "bthwkc,buhwkc->bhwktu", "u")):
        logits = jnp.einsum(of_frame, query, key) / 2
        axes = tuple(range(-len(letters), 0))
        weights = jnp.exp(logits) / jnp.exp(logits).sum(axes, keepdims=True)
        back = {"uv": "btkhwuv,btuvkc->bthwkc", "u": "bhwktu,buhwkc->bthwkc"}[letters]
        np.testing.assert_allclose(found, jnp.einsum(back, weights, value).reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "dtype, pixels, width, installed, expected",
    [
        (jnp.bfloat16, 16, 64, True, True),
        (jnp.bfloat16, 16, 64, False, False),
        (jnp.float32, 16, 64, True, False),
        (jnp.bfloat16, 16, 12, True, False),
        (jnp.bfloat16, 16, 136, True, False),
        (jnp.bfloat16, 1, 64, True, False),  # its gradient; a clip may come down to one frame
    ],
)
def test_what_cudnn_takes(monkeypatch, dtype, pixels, width, installed, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    assert blocks._cudnn_can(jax.ShapeDtypeStruct((2, pixels, 4, width), dtype)) == expected
