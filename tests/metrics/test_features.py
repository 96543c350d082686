import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import dctn

from ssd_jax.metrics import frechet_distance, low_pass_pixels, moments, random_convolutions


def shapes(seed: int, kind: str) -> np.ndarray:
    """Grey shapes of one area somewhere on black: "disc", "square", or "noisy" square: uint8 [300, 32, 32, 3]."""
    random = np.random.default_rng(seed)
    centre_y, centre_x = random.uniform(11, 21, (2, 300, 1, 1))
    y, x = np.abs(np.arange(32)[:, None] - centre_y), np.abs(np.arange(32) - centre_x)
    inside = y**2 + x**2 < 64 if kind == "disc" else np.maximum(y, x) < np.sqrt(np.pi) * 4
    grey = random.integers(64, 193, inside.shape) if kind == "noisy" else 128
    return np.repeat((inside * grey)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [8, 10, 32])
def test_low_pass_features_are_the_lowest_coefficients(size):
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
    features = low_pass_pixels().function(jnp.asarray(images))["pool"]
    expected = np.asarray(dctn(images / 127.5 - 1, axes=(1, 2), norm="ortho"))[:, :10, :10].reshape(5, -1)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    if size == 10:  # all of them: distances are those of pixels
        pixels = np.linalg.norm((images[0] / 127.5 - images[1] / 127.5).ravel())
        np.testing.assert_allclose(np.linalg.norm(features[0] - features[1]), pixels, rtol=1e-5)


def test_random_convolutions_see_shape_and_texture():
    function = jax.jit(random_convolutions().function)
    squares, others, discs, noisy = (
        moments(np.asarray(function(jnp.asarray(shapes(seed, kind)))["pool"]))
        for seed, kind in enumerate(("square", "square", "disc", "noisy"))
    )
    same = frechet_distance(squares, others)
    assert frechet_distance(squares, discs) > 5 * same and frechet_distance(squares, noisy) > 5 * same


def test_random_convolutions_are_the_same_everywhere():
    image = (np.arange(16)[:, None, None] * np.arange(16)[:, None] * np.arange(1, 4)).astype(np.uint8)
    features = np.asarray(random_convolutions().function(jnp.asarray(image[None]))["pool"])
    assert features.shape == (1, 256)
    np.testing.assert_allclose(
        features[0, :6], [*(image / 127.5 - 1).mean((0, 1)), *(image / 127.5).std((0, 1))], rtol=1e-5
    )
    np.testing.assert_allclose(
        features[0, [6, 50, 100, 200, 255]], [0.0896196, 0.2573564, 0.1145891, 0.1178576, 0.0320579], rtol=1e-4
    )
    other = random_convolutions(1)
    assert other.name != random_convolutions().name
    assert np.abs(other.function(jnp.asarray(image[None]))["pool"] - features)[:, 6:].max() > 0.1


def test_random_convolutions_do_not_mix_images():
    images = np.random.default_rng(0).integers(0, 256, (3, 17, 17, 3), np.uint8)
    function = jax.jit(random_convolutions().function)
    together = function(jnp.asarray(images))["pool"]
    np.testing.assert_allclose(together[1:2], function(jnp.asarray(images[1:2]))["pool"], rtol=1e-4, atol=1e-5)
    moved = function(jnp.asarray(np.roll(images, 4, axis=1)))["pool"]
    assert np.abs(moved - together)[:, 3:6].max() < 1e-5  # deviations of the channels
