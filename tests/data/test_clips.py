"""Moving emoji: three flat squares in place of OpenMoji."""

import numpy as np
import pytest

from ssd_jax.data import DataConfig, Source, make_iterator, make_source
from ssd_jax.data.clips import MOTIONS, ClipSource
from ssd_jax.errors import InputError
from ssd_jax.files.channels import with_channels

SHAPE = (6, 12, 16)


@pytest.fixture(autouse=True)
def emoji(monkeypatch):
    """A red, a green and a blue square of half the side, in the middle of nothing."""

    def load(shape: tuple[int, ...], channels: int) -> np.ndarray:
        side, images = shape[0], np.zeros((3, *shape, channels), np.uint8)
        inner = slice(side // 4, side - side // 4)
        for image, colour in zip(images, np.eye(3, dtype=np.uint8) * 255, strict=True):
            image[inner, inner] = [*colour, 255]
        return images

    monkeypatch.setattr("ssd_jax.data.clips.load_openmoji", load)


def opacity(clip: np.ndarray) -> np.ndarray:
    return clip[..., 3] / 255


def test_clips_are_every_emoji_in_every_motion():
    source = make_source(DataConfig(source="clips", channels=4), SHAPE)
    assert isinstance(source, Source) and len(source) == 12 and source.class_names == tuple(MOTIONS)
    for index in range(12):
        item = source[index]
        assert item is not None and item["image"].shape == (*SHAPE, 4) and item["image"].dtype == np.uint8
        assert item["label"] == index % 4 == np.asarray(source.labels)[index]
        first = item["image"][0].reshape(-1, 4)
        assert first[first[:, 3].argmax(), :3].argmax() == index // 4  # red, green, blue
        np.testing.assert_array_equal(item["image"], ClipSource(SHAPE, channels=4)[index]["image"])
    with pytest.raises(IndexError):
        source[12]


def test_motions_are_what_they_are_called():
    """By the area that is covered, by where its middle is, and by how far it spreads along the axes."""
    source = ClipSource((8, 24, 24), channels=4)
    across = np.arange(24) - 11.5
    for start in (0, 4, 8):
        turning, zooming, sliding, morphing = (source[start + i]["image"] for i in range(4))
        areas = [opacity(clip).sum(axis=(1, 2)) for clip in (turning, zooming, sliding, morphing)]
        for same in (areas[0], areas[2], areas[3]):
            np.testing.assert_allclose(same, same[0], rtol=0.06)
        growth = np.log(areas[1])
        assert abs(growth[-1] - growth[0]) > np.log(2) and abs(np.corrcoef(growth, np.arange(8))[0, 1]) > 0.99
        x, y = ((opacity(sliding) * axis).sum(axis=(1, 2)) / areas[2] for axis in (across, across[:, None]))
        way = np.hypot(np.diff(x), np.diff(y))
        np.testing.assert_allclose(way, way[0], rtol=0.1)
        assert 24 * 0.4 - 0.5 < way.sum() < 24 * 0.8 + 0.5 and abs(x.mean()) < 0.1 > abs(y.mean())
        colours = morphing[:, 12, 12, :3].astype(int)
        assert colours[0].argmax() == start // 4
        assert (np.diff(colours, axis=0) * np.sign(colours[-1] - colours[0]) >= 0).all()
        spread = (opacity(turning) * across**2).sum(axis=(1, 2)) / areas[0]
        np.testing.assert_allclose(spread, spread[0], rtol=0.05)  # a square's is the same in any direction,
        assert (turning[0] != turning[4]).any()  # but not its corners


def test_clips_of_other_channels_are_shown_on_the_background():
    background = (10, 200, 90)
    seen = [ClipSource(SHAPE, channels=channels, background=background)[2]["image"] for channels in (1, 3, 4)]
    for channels, clip in zip((1, 3), seen, strict=False):
        assert np.abs(clip - with_channels(seen[2], channels, background).astype(int)).max() <= 1
        assert clip.shape == (*SHAPE, channels)


def test_a_clip_is_mirrored_along_its_width():
    source = ClipSource(SHAPE)
    batch = next(make_iterator(source, batch_size=48, seed=0, flip=True))
    plain, mirrored = ({source[i]["image"][..., ::step, :].tobytes() for i in range(12)} for step in (1, -1))
    found = [image.tobytes() for image in batch["image"]]
    assert all(each in plain | mirrored for each in found)
    assert any(each in mirrored - plain for each in found) and any(each in plain - mirrored for each in found)


@pytest.mark.parametrize(
    ("source", "shape", "axes"),
    [
        ("openmoji", (8, 16, 16), "(h, w)"),
        ("folder", (16,), "(h, w)"),
        ("clips", (16, 16), "(frames, h, w)"),
        ("volumes", (16,), "(depth, h, w)"),
        ("signals", (16, 16), "(length)"),
    ],
)
def test_sources_take_shapes_of_their_axes_alone(source, shape, axes):
    with pytest.raises(InputError) as error:
        make_source(DataConfig(source=source, folder="anywhere"), shape)
    assert f"process.shape is {shape}, but data.source {source} has the axes {axes}" in str(error.value)


def test_what_cannot_be_drawn_otherwise_is_refused():
    for source, channels, asked in (("volumes", 3, 4), ("signals", 3, 1)):
        with pytest.raises(InputError, match=f"data.channels is 3, but {source} are of .*--config.data.channels={asked}"):
            make_source(DataConfig(source=source, channels=channels), (8, 8, 8) if source == "volumes" else (8,))
    with pytest.raises(InputError, match="data.flip mirrors left to right, but process.shape is"):
        make_source(DataConfig(source="signals", flip=True), (64,))
    with pytest.raises(InputError, match="what data.source clips gives is drawn at its size"):
        DataConfig(source="clips", crop="adm")
