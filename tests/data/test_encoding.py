import numpy as np
import pytest

from ssd_jax.data.encoding import Encoding, PixelEncoding


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_come_back_as_they_were(channels):
    encoding = PixelEncoding((16, 16), channels)
    pixels = np.resize(np.arange(256, dtype=np.uint8), (channels, 16, 16, channels))
    x0 = encoding.encode(pixels)
    assert isinstance(encoding, Encoding) and x0.shape == pixels.shape and encoding.bound == 1
    assert float(x0.min()) == -1 and float(x0.max()) == 1
    np.testing.assert_array_equal(encoding.decode(x0), pixels)
    np.testing.assert_array_equal(encoding.decode(3 * x0)[pixels < 80], 0)  # clipped
