import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.metrics import memorisation


def normal(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5))


def test_new_images_are_no_copies():
    for held_out in (None, normal(2, 3000)):
        found = memorisation(normal(0, 3000), normal(1, 3000), held_out)
        assert abs(found.nearer_probability - 0.5) < 0.03 and abs(found.near_share - 0.05) < 0.015
        assert abs(found.median / found.reference_median - 1) < 0.05


def test_copies_are_found():
    training = normal(1, 500)
    generated = np.concatenate([training[100:200] + 1e-3, normal(0, 100)])
    found = memorisation(generated, training)
    np.testing.assert_array_equal(found.nearest[:100], np.arange(100, 200))
    np.testing.assert_allclose(found.distances[:100], 1e-3 * np.sqrt(5), rtol=1e-6)
    assert 0.5 <= found.near_share < 0.6 and abs(found.nearer_probability - 0.75) < 0.05
    assert found.median == np.median(found.distances)
    far = memorisation(normal(0, 100) + 50, training)
    assert far.near_share == far.nearer_probability == 0


def test_held_out_images_show_copies_that_duplicates_hide():
    training = np.repeat(normal(1, 300), 2, axis=0)
    assert memorisation(training[:50], training).nearer_probability == 0.5  # ties with the duplicates
    assert memorisation(training[:50], training, normal(2, 300)).nearer_probability == 1


def test_one_training_image_has_no_neighbours():
    with pytest.raises(InputError, match="give two or more"):
        memorisation(normal(0, 3), normal(1, 1))
