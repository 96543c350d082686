import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from ssd_jax.errors import InputError
from ssd_jax.network.autoencoder import Autoencoder, AutoencoderConfig, Moments, abstract_autoencoder, init_autoencoder

CONFIG = AutoencoderConfig(widths=(4, 8), latent_channels=2, num_groups=2)


def test_shapes_and_what_does_not_fit():
    abstract = abstract_autoencoder(CONFIG, 1)
    born = jax.eval_shape(lambda key: init_autoencoder(CONFIG, 1, key), jax.random.key(0))
    assert jax.tree.map(jnp.shape, born) == jax.tree.map(jnp.shape, abstract.parameters)
    moments = jax.eval_shape(Autoencoder.encode, abstract, jnp.zeros((3, 6, 8, 1)))
    assert moments.mean.shape == moments.log_variance.shape == (3, 3, 4, 2)
    assert jax.eval_shape(Autoencoder.decode, abstract, moments.mean).shape == (3, 6, 8, 1)
    for wrong in ((3, 6, 8, 3), (3, 6, 9, 1)):
        with pytest.raises(InputError, match="takes 1 channels and sides that are multiples of 2"):
            jax.eval_shape(Autoencoder.encode, abstract, jnp.zeros(wrong))
    with pytest.raises(InputError, match="latents have 3 channels, but the autoencoder's have 2"):
        jax.eval_shape(Autoencoder.decode, abstract, jnp.zeros((3, 3, 4, 3)))


def test_divergence_and_draws_are_those_of_the_gaussian():
    """E log q(z) - log p(z) over many draws of z."""
    moments = Moments(jnp.full((10_000, 2, 2, 2), 0.7), jnp.full((10_000, 2, 2, 2), -1.3))
    z = moments.draw(jax.random.normal(jax.random.key(0), (10_000, 2, 2, 2)))
    ratio = norm.logpdf(z, 0.7, np.exp(-0.65)) - norm.logpdf(z)
    np.testing.assert_allclose(moments.divergence().mean(), ratio.sum((1, 2, 3)).mean(), rtol=0.01)
    assert not Moments(jnp.zeros((2, 3, 3, 1)), jnp.zeros((2, 3, 3, 1))).divergence().any()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"widths": ()}, "model.widths is"),
        ({"widths": (8, 12), "num_groups": 8}, "model.num_groups is 8, but must divide every width"),
        ({"latent_channels": 0}, "model.latent_channels is 0"),
        ({"dtype": "float16"}, "model.dtype is 'float16'"),
    ],
)
def test_configs_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message):
        AutoencoderConfig(**settings)
