"""Words as vectors: the same everywhere, near each other where they are spelt alike."""

import numpy as np

from ssd_jax.data.openmoji import openmoji_names, words_of
from ssd_jax.data.words import hashed


def near(one: str, other: str) -> float:
    return float(hashed(one, 128) @ hashed(other, 128))


def test_words_that_are_shared_or_spelt_alike_are_near():
    assert (
        near("red heart", "HEART, red!") > 1 - 1e-6 > near("red heart", "red apple") > near("red heart", "white dog") + 0.2
    )
    assert near("heart", "hearts") > 0.25 > abs(near("heart", "flag"))
    assert np.isclose(np.linalg.norm(hashed("red heart", 128)), 1) and not hashed(" ,!", 128).any()


def test_the_vector_of_a_word_is_for_ever():
    """Runs were trained on it."""
    np.testing.assert_allclose(hashed("red heart", 4), EXPECTED, atol=1e-6)


EXPECTED = [0.301054, 0.499256, -0.403906, -0.704961]


def test_names_of_emoji():
    names = openmoji_names()
    assert [words_of(name) for name in ("2764", "1F1E9-1F1EA", "1F468-200D-1F33E", "E000")] == [
        *("red heart", "Germany", "man farmer", "")
    ]
    assert sum(bool(words_of(name)) for name in names) > 1900
