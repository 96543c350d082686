"""The emoji, rendered once."""

from pathlib import Path

import numpy as np
import pytest

from ssd_jax.data import openmoji

IMAGES = np.arange(6 * 8 * 8 * 3, dtype=np.uint8).reshape(6, 8, 8, 3)


@pytest.fixture
def cache(monkeypatch, tmp_path) -> tuple[Path, list]:
    """An empty cache folder, and what is rendered."""
    rendered: list = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openmoji, "_render", lambda *arguments: rendered.append(arguments) or IMAGES)
    return tmp_path / "ssd_jax", rendered


def test_emoji_are_rendered_once(cache):
    for _ in range(2):
        np.testing.assert_array_equal(openmoji.load_openmoji((8, 8)), IMAGES)
    assert len(cache[1]) == 1


@pytest.mark.parametrize("kept", [0, 60, 500])
def test_what_was_kept_and_is_damaged_is_rendered_anew(cache, kept):
    openmoji.load_openmoji((8, 8))
    (file,) = cache[0].iterdir()
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.warns(UserWarning, match="cannot be read .*: the emoji are rendered anew"):
        np.testing.assert_array_equal(openmoji.load_openmoji((8, 8)), IMAGES)
    np.testing.assert_array_equal(openmoji.load_openmoji((8, 8)), IMAGES)  # without a warning
    assert len(cache[1]) == 2


def test_a_cache_that_cannot_be_written_is_no_error(cache):
    cache[0].touch()
    with pytest.warns(UserWarning, match="emoji are not kept: .* cannot be written"):
        np.testing.assert_array_equal(openmoji.load_openmoji((8, 8)), IMAGES)
