"""Options for XLA that programs carry themselves, so that whoever runs them need set nothing."""

import jax

# jaxlib 0.10 hands convolutions on CPUs to YNNPACK: a training step at full resolution then takes 1.5 times as long as with
# Eigen. Later ones are as fast by themselves. What else YNNPACK gets by default stays with it, so that a program is the one
# that the flag --xla_cpu_experimental_ynn_fusion_type=-individual_convolution makes. For `jax.jit(..., compiler_options=)`.
_STAYS_WITH_YNNPACK = ("DOT", "REDUCE", "INDIVIDUAL_DOT")
COMPILER_OPTIONS = (
    {"xla_cpu_experimental_ynn_fusion_type": ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in _STAYS_WITH_YNNPACK)}
    if jax.__version_info__ < (0, 11)
    else None
)
