"""Emoji as bodies: two red bars, right and left of the middle, in place of OpenMoji."""

import numpy as np
import pytest

from ssd_jax.data import DataConfig, Source, make_source
from ssd_jax.data.volumes import VolumeSource

SIDE = 16


@pytest.fixture(autouse=True)
def emoji(monkeypatch):
    image = np.zeros((1, SIDE, SIDE, 4), np.uint8)
    image[:, 4:12, [4, 5, 6, 9, 10, 11]] = (255, 0, 0, 255)
    monkeypatch.setattr("ssd_jax.data.volumes.load_openmoji", lambda shape, channels: image)


def test_volumes_are_every_emoji_as_every_body():
    source = make_source(DataConfig(source="volumes"), (8, SIDE, 20))
    assert isinstance(source, VolumeSource) and isinstance(source, Source) and len(source) == 2 and source.channels == 4
    assert source.class_names == ("revolved", "extruded") and [source[i]["label"] for i in range(2)] == [0, 1]
    for i in range(2):
        assert source[i]["image"].shape == (8, SIDE, 20, 4) and source[i]["image"].dtype == np.uint8
        np.testing.assert_array_equal(source[i]["image"], VolumeSource((8, SIDE, 20))[i]["image"])


def test_a_revolved_emoji_is_a_solid_of_revolution():
    """Bars make a ring, the same in every slice across its axis, with the volume that Pappus says."""
    opacity = VolumeSource((SIDE, SIDE, SIDE))[0]["image"][..., 3] / 255
    np.testing.assert_array_equal(opacity, opacity.swapaxes(0, 2))  # as seen from the side
    np.testing.assert_array_equal(opacity, opacity[::-1])
    np.testing.assert_array_equal(opacity[:, 4:12], np.broadcast_to(opacity[:, 4:5], (SIDE, 8, SIDE)))
    assert not opacity[:, :4].any() and not opacity[:, 12:].any()
    np.testing.assert_allclose(opacity.sum(), 8 * np.pi * (4**2 - 1**2), rtol=0.05)  # from 1 to 4 px off the axis


def test_an_extruded_emoji_is_a_slab():
    """As thick as it is, turned or not, and the emoji's colour wherever it can be seen."""
    volume = VolumeSource((3 * SIDE, SIDE, 3 * SIDE))[1]["image"]
    opacity = volume[..., 3] / 255
    thickness = opacity.sum() / (8 * 6)
    assert 0.2 * SIDE * 0.95 < thickness < 0.5 * SIDE * 1.05
    assert (volume[opacity > 0, :3] == (255, 0, 0)).all()
