import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd_jax.network.convolution import Axes, FactorisedConvolution, convolution

CLIP = Axes(3, factorised=True)
KINDS = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}


def factorised(*args, **kwargs) -> FactorisedConvolution:
    made = convolution(*args, axes=CLIP, **KINDS, **kwargs)
    assert isinstance(made, FactorisedConvolution)
    return made


@pytest.mark.parametrize("strides", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_a_factorised_convolution_is_one_of_a_product_of_kernels(strides):
    """Over three axes, its kernel the product of that over space and that over time."""
    x, layer = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 3)), factorised(3, 5, strides=strides)
    kernel, bias = jax.random.normal(jax.random.key(1), (3, 1, 5, 5)), jax.random.normal(jax.random.key(2), (5,))
    layer.time.kernel, layer.time.bias = nnx.Param(kernel), nnx.Param(bias)  # none over space, which time does not pad with
    whole = convolution(3, 5, axes=Axes(3), strides=strides, **KINDS)
    assert isinstance(whole, nnx.Conv)
    whole.kernel = nnx.Param(jnp.einsum("hwim,tmo->thwio", layer.space.kernel[...], kernel[:, 0]))
    whole.bias = nnx.Param(bias)
    np.testing.assert_allclose(layer(x), whole(x), rtol=1e-4, atol=1e-4)


def test_a_new_one_takes_every_frame_on_its_own():
    x, layer = jax.random.normal(jax.random.key(0), (2, 4, 6, 8, 3)), factorised(3, 5)
    np.testing.assert_array_equal(layer(x)[:, 2], layer.space(x[:, 2]))
    assert not factorised(3, 5, zero=True)(x).any()
