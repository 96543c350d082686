import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.data.encoding import PixelEncoding
from ssd_jax.network.autoencoder import AutoencoderConfig, abstract_autoencoder
from ssd_jax.training.reconstruction import Reconstruction, ReconstructionConfig, seen

CONFIG = AutoencoderConfig(widths=(2,), latent_channels=1, num_groups=1, attention=False)


def test_the_loss_is_the_weighted_sum_of_its_terms_and_noise_is_a_pictures_own():
    weights = ReconstructionConfig(shape=(16, 16), perceptual_weight=3.0, divergence_weight=0.5)
    objective = Reconstruction(weights, PixelEncoding((16, 16), 1), abstract_autoencoder(CONFIG, 1))
    parameters = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), objective.parameters)
    images, key = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8), jax.random.key(0)
    both = {"image": jnp.asarray(images), "number": jnp.arange(2, dtype=jnp.int32)}

    @jax.jit
    def computed(batch):
        loss = objective.loss(parameters, batch, key)
        return loss, objective.terms(parameters, batch, key), objective.terms(parameters, batch, key, training=False)

    loss, terms, still = computed(both)
    np.testing.assert_allclose(loss, terms["pixels"] + 3 * terms["perceptual"] + 0.5 * terms["divergence"], rtol=1e-5)
    assert terms["pixels"] != still["pixels"] and terms["divergence"] == still["divergence"]
    _, turned, _ = computed({name: each[::-1] for name, each in both.items()})
    np.testing.assert_allclose(turned["pixels"], terms["pixels"], rtol=1e-5)
    _, others, _ = computed(both | {"number": both["number"] + 2})
    assert others["pixels"] != terms["pixels"]


def test_pictures_are_seen_in_colour_and_on_white():
    clear = np.full((1, 2, 2, 4), -1.0, np.float32)
    np.testing.assert_array_equal(seen(jnp.asarray(clear)), np.ones((1, 2, 2, 3)))
    opaque = np.concatenate([np.random.default_rng(0).uniform(-1, 1, (1, 2, 2, 3)), np.ones((1, 2, 2, 1))], axis=-1)
    np.testing.assert_allclose(seen(jnp.asarray(opaque)), opaque[..., :3], atol=1e-6)
    assert seen(jnp.zeros((1, 2, 2, 1))).shape == (1, 2, 2, 3)
