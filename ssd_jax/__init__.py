"""Scale Space Diffusion in JAX: noisy states are processed as the small images they are."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssd_jax.public import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """A public name. The library is loaded when the first is used, so that ssd-jax lists its commands at once."""
    if not name.startswith("_") and hasattr(public := import_module("ssd_jax.public"), name):
        return getattr(public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *vars(import_module("ssd_jax.public"))]
