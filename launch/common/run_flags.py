"""The flags that say which weights of a run to take, which all commands that read a model share."""

import re

from absl import flags

import ssd_jax

EMA_WIDTH = flags.DEFINE_float(
    "ema_width", None, "Average of other weights than the run's: standard deviation in units of the training, e.g. 0.1."
)
STEP = flags.DEFINE_string("step", None, "Step of the run's checkpoint to take, or best; the latest if not given.")


def load(workdir: str) -> ssd_jax.Trained:
    """The run's model, of the checkpoint and with the average that the flags ask for."""
    step = STEP.value
    if step is not None and re.fullmatch("[0-9]{1,12}", step):
        step = int(step)
    return ssd_jax.load(workdir, ema_width=EMA_WIDTH.value, step=step)
