"""Programs carry the options that they need: whoever runs them need set nothing."""

import jax
import jax.numpy as jnp
import pytest

from ssd_jax.compilation import COMPILER_OPTIONS, collectives, read_as


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


def test_bytes_of_collectives():
    program = """
  ROOT %all-reduce.2 = (f32[5,3]{1,0}, /*index=1*/bf16[7]{0}, pred[]) all-reduce(%bitcast, %b, %c), channel_id=1
  %gather = (u8[4]{0}, u8[16]{0}) all-gather-start(%p), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}
  %done = u8[16]{0} all-gather-done(%gather)
  %scatter = f32[3]{0} reduce-scatter(%p), channel_id=3, replica_groups={{0,1},{2,3}}, dimensions={0}
  %other = f32[3]{0} reduce-scatter(%p), channel_id=4, replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, dimensions={0}
  %sum = f32[100]{0} add(%all-reduce.2, %b), metadata={op_name="all-reduce(x)"}
"""
    assert sum(collectives(program).values()) == (5 * 3 * 4 + 7 * 2 + 1) + 16 + 2 * 3 * 4 + 4 * 3 * 4


def test_what_a_function_reads_its_arguments_as():
    @jax.checkpoint
    def inner(a, b):
        return a.astype(jnp.bfloat16) * b

    def function(tree, x):
        return inner(tree["a"], x) + tree["b"].astype(jnp.bfloat16) + tree["c"] + tree["c"].astype(jnp.bfloat16)

    tree = {name: jnp.ones(2) for name in "abcd"}
    bfloat16, float32 = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert read_as(function, tree, jnp.ones(2)) == ({bfloat16}, {bfloat16}, {bfloat16, float32}, set())
