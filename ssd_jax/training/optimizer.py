"""Adam with short memory, and its learning rate."""

import optax

from ssd_jax.training.config import TrainConfig

ADAM = optax.scale_by_adam(b2=0.99)  # short memory of the squared gradient, as EDM2 (Karras et al. 2024)


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up, then constant or cosine decay to 0 at `steps`; counts the steps taken, the present one included.

    A single step has no time to decay: it is taken at the peak.
    """
    warmup = max(config.warmup_steps, 1)  # optax takes 0 for never
    if not config.cosine_decay:
        return optax.warmup_constant_schedule(0.0, config.learning_rate, warmup)
    if config.steps == 1:
        return optax.constant_schedule(config.learning_rate)
    warmup = min(warmup, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)
