"""What operators make of latents, where it is known: the latents are the pixels, but for their scale."""

import jax.numpy as jnp
import numpy as np

from ssd_jax.analysis.latents import shrunk_latents
from ssd_jax.data.encoding import LatentEncoding
from ssd_jax.network.autoencoder import Autoencoder, AutoencoderConfig
from ssd_jax.process.config import ProcessConfig, operators_of

CONFIG = ProcessConfig(shape=(8, 16), num_levels=3)
SCALE = 3.0
NAMES = ("box", "haar", "bilinear")


class Pixels(LatentEncoding):
    """Pixels in [-1, 1], scaled."""

    def encode(self, arrays):
        return SCALE * (jnp.asarray(arrays, jnp.float32) / 127.5 - 1)

    def decode(self, x0):
        return np.rint((np.clip(np.asarray(x0) / SCALE, -1, 1) + 1) * 127.5).astype(np.uint8)


def test_means_of_pixels_are_those_of_smaller_pictures():
    encoding = Pixels((8, 16), Autoencoder({}, AutoencoderConfig(widths=(4,), num_groups=4), 1), (0.0,), (1.0,))
    operators = {name: operators_of(ProcessConfig(shape=(8, 16), num_levels=3, operator=name)) for name in NAMES}
    x0 = SCALE * np.random.default_rng(0).uniform(-1, 1, (64, 8, 16, 1)).astype(np.float32)
    found = shrunk_latents(encoding, operators, x0)
    shapes = CONFIG.level_shapes[1:]
    assert [(each.shape, each.operator) for each in found] == [(each, name) for each in shapes for name in (None, *NAMES)]
    rows = {(each.operator, each.shape): each for each in found}
    for shape in shapes:
        assert rows[None, shape].of_latents == 0 and rows[None, shape].of_pictures < 1e-3
        for name in ("box", "haar"):  # which is a multiple of it
            assert rows[name, shape].of_latents < 0.02 > rows[name, shape].of_pictures  # as uint8 is rounded
        other = rows["bilinear", shape]  # of noise it keeps another part
        assert 0.1 < other.of_latents < 1 and 0.1 < other.of_pictures < 1
