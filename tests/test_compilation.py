"""Programs carry the options that they need: whoever runs them need set nothing."""

import jax
import jax.numpy as jnp
import pytest

from ssd_jax.compilation import COMPILER_OPTIONS


@pytest.mark.smoke
def test_convolutions_are_eigens():
    """Without the options jaxlib 0.10 fuses convolutions into YNNPACK calls; later ones need no options."""

    def convolve(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    shapes = (jax.ShapeDtypeStruct((16, 64, 64, 32), jnp.float32), jax.ShapeDtypeStruct((3, 3, 32, 32), jnp.float32))
    text = jax.jit(convolve, compiler_options=COMPILER_OPTIONS).lower(*shapes).compile().as_text()
    needed = jax.__version_info__ < (0, 11)
    assert text is not None and needed == (COMPILER_OPTIONS is not None)
    assert not needed or ("convolution(" in text and "ynn_fusion" not in text)
