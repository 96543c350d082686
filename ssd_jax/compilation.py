"""Options for XLA that programs carry themselves, so that whoever runs them need set nothing."""

import jax

# jaxlib 0.10 hands convolutions on CPUs to YNNPACK: a training step at full resolution then takes 1.5 times as long as with
# Eigen. Later ones are as fast by themselves. For `jax.jit(..., compiler_options=)`, of programs that call a network.
COMPILER_OPTIONS = (
    {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"} if jax.__version_info__ < (0, 11) else None
)
