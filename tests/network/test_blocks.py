import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.network import blocks


def test_attention_is_that_of_jax():
    query, key, value = (jax.random.normal(jax.random.key(i), (2, 9, 3, 8)) for i in range(3))
    expected = jax.nn.dot_product_attention(query, key, value)
    np.testing.assert_allclose(blocks.attend(query, key, value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape, larger", [((4, 6), (8, 12)), ((3, 5), (24, 40)), ((4, 6), (16, 6))])
def test_images_are_enlarged_as_by_jax(shape, larger):
    x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
    expected = jax.image.resize(x, (2, *larger, 3), "bilinear")
    np.testing.assert_allclose(blocks.enlarge(x, larger), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "dtype, width, installed, expected",
    [
        (jnp.bfloat16, 64, True, True),
        (jnp.bfloat16, 64, False, False),
        (jnp.float32, 64, True, False),
        (jnp.bfloat16, 12, True, False),
        (jnp.bfloat16, 136, True, False),
    ],
)
def test_what_cudnn_takes(monkeypatch, dtype, width, installed, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: installed or None)
    assert blocks._cudnn_can(jax.ShapeDtypeStruct((2, 16, 4, width), dtype)) == expected
