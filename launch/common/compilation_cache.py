"""Compiled programs are kept in the user's cache folder, so that the next command need not compile the same stages."""

import importlib.util
import logging

import jax

from ssd_jax.files.paths import cache_folder

logger = logging.getLogger("ssd_jax")


def keep_compiled_programs() -> None:
    """Has JAX keep programs in `cache_folder()`/compiled, unless JAX_COMPILATION_CACHE_DIR names another folder.

    With the package `zstandard` JAX would write them without a checksum, and run what a flipped bit made of them: then they
    are not kept. Its default, zlib, notices: the program is compiled anew, with a warning.
    """
    if jax.config.jax_compilation_cache_dir or importlib.util.find_spec("zstandard"):
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("compiled programs are not kept: %s cannot be made: %s", folder, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
