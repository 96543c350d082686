"""The `process` section of a config, and the process that it describes."""

from ssd_jax.config import ProcessConfig as ProcessConfig
from ssd_jax.process.process import make_process as make_process
