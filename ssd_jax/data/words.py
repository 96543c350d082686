"""Words as vectors, without a table or a model of language: signed hashing of words and what they are spelt of.

Every word and every run of GRAMS characters of it stands for one number of the vector, and a sign, that its hash tells
(Weinberger et al. 2009); so words that are spelt alike lie near each other, and sums of words between them.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from unicodedata import normalize

import numpy as np
from jaxtyping import Float

GRAMS = (3, 4)  # characters, the ends of a word being two of them


def hashed(text: str, size: int) -> Float[np.ndarray, "{size}"]:
    """The vector of a text, float32 [size] of norm 1: the sum of those of its words, whatever their order; 0 without words.

    Half of a word's variance is its own, half is shared out among its grams. The same on every machine.
    """
    vector = np.zeros(size)
    for word in re.findall(r"\w+", normalize("NFKC", text).casefold().replace("_", " ")):
        grams = list(_grams(f"<{word}>"))
        for token, weight in [(word, 1.0), *((gram, len(grams) ** -0.5) for gram in grams)]:
            number = int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "little")
            vector[(number >> 1) % size] += weight * (1 - 2 * (number & 1))
    norm = np.linalg.norm(vector)
    return (vector / norm if norm else vector).astype(np.float32)


def _grams(word: str) -> Iterator[str]:
    for count in GRAMS:
        for start in range(len(word) - count + 1):
            yield word[start : start + count]
