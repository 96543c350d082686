"""Which hardware JAX tries: compilers of hardware that is not here may be installed for `launch.forecast`."""

import importlib.util
import pkgutil
from collections.abc import Collection
from pathlib import Path

import jax

from ssd_jax.compilation import COMPILERS, has_compiler

# Device files that only machines with such hardware have.
DEVICES = {"tpu": ("accel[0-9]*", "vfio/[0-9]*"), "cuda": ("nvidia[0-9]*", "nvidiactl", "nvmap", "dxg")}


def leave_out_absent() -> None:
    """Keeps JAX from trying backends without hardware: they take seconds, and print warnings or a traceback.

    Does nothing where JAX_PLATFORMS says what to try, or backends are installed that are not known here.
    """
    if jax.config.jax_platforms is None:
        jax.config.update("jax_platforms", platforms(_installed(), {name for name in DEVICES if has_device(name)}))


def has_device(platform: str) -> bool:
    """Whether this machine shows a device of "tpu" or "cuda"."""
    return any(any(Path("/dev").glob(pattern)) for pattern in DEVICES[platform])


def platforms(installed: Collection[str], present: Collection[str]) -> str | None:
    """What JAX_PLATFORMS had better be; None to leave it to JAX.

    Args:
        installed: backends besides "cpu".
        present: platforms of which there is hardware.
    """
    if not set(installed) <= set(COMPILERS) or set(installed) <= set(present):
        return None
    return ",".join([*sorted(set(installed) & set(present)), "cpu"])


def _installed() -> set[str]:
    """Backends of COMPILERS by their platform, others by the name of their plugin."""
    known = {platform for platform in COMPILERS if has_compiler(platform)}
    plugins = importlib.util.find_spec("jax_plugins")
    places = (plugins.submodule_search_locations if plugins else None) or []
    names = {each.name for each in pkgutil.iter_modules(places)}
    return known | {name for name in names if not name.startswith("xla_cuda")}
