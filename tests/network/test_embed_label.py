"""Labels that are vectors, in both networks."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssd_jax.errors import InputError
from ssd_jax.network import make_network
from ssd_jax.network.embed_label import VectorEmbedding
from ssd_jax.network.flexi_dit import FlexiDiTConfig
from ssd_jax.network.flexi_unet import FlexiUNetConfig
from ssd_jax.network.protocol import null_labels
from tests.networks import randomised

CONFIGS = [
    FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, label_size=5, label_dropout=0.1),
    FlexiDiTConfig(patch_size=(2,), width=8, depth=1, num_heads=1, label_size=5, label_dropout=0.1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_vectors_matter_each_to_its_image_and_null_to_none(config):
    graphdef, state = nnx.split(make_network(config, ((4, 4),), 1, nnx.Rngs(0)))
    x, vectors = jax.random.normal(jax.random.key(1), (2, 4, 4, 1)), jax.random.normal(jax.random.key(2), (2, 5))
    null = null_labels(config, 2)
    assert null is not None and np.isnan(null).all()

    @jax.jit
    def call(state, label):
        return nnx.merge(graphdef, state)(x, jnp.array([3, 5]), label, in_level=0, out_level=0)

    state = randomised(state)
    base, other = (call(state, label) for label in (vectors, vectors.at[0].add(1)))
    assert np.abs(base - other)[0].max() > 1e-3
    np.testing.assert_array_equal(base[1], other[1])
    unknown = call(state, null)
    assert np.isfinite(unknown).all() and np.abs(unknown - call(state, 0 * vectors)).max() > 1e-3
    for wrong, message in [
        (None, r"label is missing, but the network takes float32 \[2, 5\]"),
        (vectors[:, :4], r"label is float32 \[2, 4\], but the network takes float32 \[2, 5\]"),
        (jnp.array([0, 1]), r"label is int32 \[2\], but the network takes float32 \[2, 5\]"),
    ]:
        with pytest.raises(InputError, match=message):
            call(state, wrong)


def test_null_has_a_vector_of_its_own_and_gradients_are_finite():
    module = VectorEmbedding(3, 4, True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(module)
    label = jnp.array([[1.0, -2, 0.5], [math.nan] * 3])
    assert module.linear.bias is not None and module.null is not None
    np.testing.assert_allclose(module(label)[0], label[0] @ module.linear.kernel[...] + module.linear.bias[...], rtol=1e-5)
    np.testing.assert_array_equal(module(label)[1], module.null[...])
    gradient = jax.grad(lambda state: nnx.merge(graphdef, state)(label).sum())(state)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(gradient["linear"]["kernel"][...], np.outer(label[0], np.ones(4)))
    np.testing.assert_array_equal(gradient["null"][...], np.ones(4))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_label_is_a_class_or_a_vector(config):
    with pytest.raises(
        InputError, match="num_classes is 3 and model.label_size 5, but a label is either a class or a vector"
    ):
        replace(config, num_classes=3)
    with pytest.raises(InputError, match="model.label_size is -1"):
        replace(config, label_size=-1)
