import numpy as np

from ssd_jax.data import DataConfig, Source, make_source
from ssd_jax.data.signals import FAMILIES, RANGE, SignalSource


def signals(family: str, length: int = 256, count: int = 20) -> np.ndarray:
    """Signals of a family less their middle, float [count, length]."""
    source, first = SignalSource((length,)), tuple(FAMILIES).index(family)
    return np.stack([source[first + 4 * i]["image"][:, 0] for i in range(count)]) - 127.5


def test_signals_are_the_families_in_turn():
    source = make_source(DataConfig(source="signals"), (64,))
    assert (
        isinstance(source, SignalSource)
        and isinstance(source, Source)
        and source.class_names == tuple(FAMILIES)
        and source.channels == 1
    )
    for i in range(8):
        item = source[i]
        assert item is not None and item["image"].shape == (64, 1) and item["image"].dtype == np.uint8
        assert item["label"] == i % 4
        assert item["image"].min() == RANGE[0] or item["image"].max() == RANGE[1]
        np.testing.assert_array_equal(item["image"], SignalSource((64,))[i]["image"])
        np.testing.assert_allclose(SignalSource((128,))[i]["image"][::2], item["image"], atol=20)  # at twice the rate
    assert len({source[i]["image"].tobytes() for i in range(400)}) == 400
    assert SignalSource((1,))[3]["image"].shape == (1, 1)


def test_families_are_what_they_are_called():
    power = np.square(np.abs(np.fft.rfft(signals("sines"))))
    np.testing.assert_allclose(power[:, 1:9].sum(axis=1), power[:, 1:].sum(axis=1), rtol=1e-3)
    values = [len(np.unique(signal)) for signal in signals("steps")]
    assert min(values) >= 2 and max(values) <= 7
    for signal in signals("chirps", 1024):
        crossings = np.flatnonzero(np.diff(np.sign(signal)))
        assert np.sum(crossings < 512) < np.sum(crossings >= 512)
    assert np.median(np.abs(signals("pulses"))) < 1  # mostly nothing
