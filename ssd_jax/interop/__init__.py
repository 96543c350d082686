"""Other people's files and programs: published checkpoints in, weights and programs out."""

from ssd_jax.interop.bundle import write_bundle as write_bundle
from ssd_jax.interop.bundle import write_model as write_model
from ssd_jax.interop.guided_diffusion import ReferenceSettings as ReferenceSettings
from ssd_jax.interop.guided_diffusion import model_from_reference as model_from_reference
from ssd_jax.interop.published import import_checkpoint as import_checkpoint
from ssd_jax.interop.published import settings_from_name as settings_from_name
