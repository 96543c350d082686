"""Latents of an autoencoder that nobody trained, prepared in a folder."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from ssd_jax.config import Config
from ssd_jax.data.arrays import ArraySource
from ssd_jax.data.encoding import EncodingConfig
from ssd_jax.data.preparation import prepare
from ssd_jax.data.sources import DataConfig
from ssd_jax.files.channels import WHITE
from ssd_jax.network.autoencoder import Autoencoder, AutoencoderConfig, abstract_autoencoder
from ssd_jax.run.autoencoder import load_autoencoder, of_weights, write_autoencoder
from tests.conftest import tiny_config

CONFIG = AutoencoderConfig(widths=(2, 2), latent_channels=2, num_groups=1, attention=False)


def autoencoder_in(folder: Path, seed: int) -> Path:
    """The folder of weights of an autoencoder that nobody trained."""
    rng, abstract = np.random.default_rng(seed), abstract_autoencoder(CONFIG, 3)
    drawn = jax.tree.map(lambda leaf: 0.4 * rng.normal(size=leaf.shape).astype(np.float32), abstract.parameters)
    write_autoencoder(of_weights(Autoencoder(drawn, CONFIG, 3)), folder)
    return folder


def latents_in(folder: Path) -> Path:
    """An autoencoder in "vae", another in "other", images of 16 px and their latents of 8 px in "latents"."""
    autoencoder_in(folder / "other", 1)
    trained = load_autoencoder(autoencoder_in(folder / "vae", 0))
    source = ArraySource(pictures())
    prepare(source, folder / "latents", shape=(16, 16), crop="area", background=WHITE, latents=trained.to_latents((16, 16)))
    prepare(source, folder / "images", shape=(16, 16), crop="area", background=WHITE)
    return folder


def pictures() -> np.ndarray:
    """uint8 [40, 16, 16, 3]."""
    return np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)


def config_of(folder: Path, data: str = "latents", autoencoder: str | None = "vae", **train) -> Config:
    """The config of a run on what lies in the folder."""
    named = EncodingConfig(None if autoencoder is None else str(folder / autoencoder))
    return replace(tiny_config(**train), data=DataConfig(source="array_record", folder=str(folder / data)), encoding=named)
