"""Other people's files: published checkpoints in."""

from ssd_jax.interop.published import import_checkpoint as import_checkpoint
from ssd_jax.interop.published import model_from_reference as model_from_reference
from ssd_jax.interop.published import settings_from_name as settings_from_name
