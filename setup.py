"""Where packages lie: launch/ and configs/ become ssd_jax.launch and ssd_jax.configs. All else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = {"ssd_jax": "ssd_jax", "ssd_jax.launch": "launch", "ssd_jax.configs": "configs"}

setup(
    package_dir=FOLDERS,
    packages=[*FOLDERS, *(f"{name}.{inner}" for name, folder in FOLDERS.items() for inner in find_packages(folder))],
)
