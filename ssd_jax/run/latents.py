"""Runs on latents: the autoencoder that made them is kept with the run, so that its samples become pictures."""

from dataclasses import replace

from ssd_jax.build import Experiment, build
from ssd_jax.config import Config
from ssd_jax.data.array_record import Manifest, read_manifest
from ssd_jax.data.sources import DataConfig
from ssd_jax.errors import InputError
from ssd_jax.files.paths import Path, exists, to_path
from ssd_jax.network.autoencoder import Autoencoder
from ssd_jax.run.autoencoder import TrainedAutoencoder, experiment_in, load_autoencoder, of_images, write_autoencoder
from ssd_jax.run.workdir import has_checkpoints

FOLDER = "autoencoder"  # of a workdir


def with_latents(
    config: Config, workdir: Path | None = None, *, from_python: bool = False
) -> tuple[Config, TrainedAutoencoder | None]:
    """The config with what is recorded of the latents that its data are, and what made them; None if they are images.

    Args:
        config: of a run that is to begin or to go on.
        workdir: its folder, if it has one; that of one that goes on has the autoencoder.
        from_python: whether the data are the caller's.

    Raises:
        InputError: if the data are latents and the config names no autoencoder, or the other way round; or if another
            one, or of other images, made them.
    """
    name, folder = config.encoding.autoencoder, config.data.folder
    stored = None if from_python else _stored(config.data)
    if name is None:
        if stored is not None and stored.latents is not None:
            raise InputError(
                f"data.folder {folder!r} holds latents of the autoencoder {stored.latents.autoencoder}, but none is named; "
                "set --config.encoding.autoencoder to its workdir"
            )
        return config, None
    if stored is None or stored.latents is None:
        raise InputError(
            f"encoding.autoencoder is {name!r}, but the data are images; make latents of them, python -m launch.prepare "
            f"--latents {name} --out FOLDER, and give data.source array_record with this data.folder"
        )
    latents = stored.latents
    trained = load_autoencoder(name if workdir is None or not has_checkpoints(workdir) else workdir / FOLDER)
    if latents.autoencoder != trained.digest:
        raise InputError(
            f"data.folder {folder!r} holds latents of the autoencoder {latents.autoencoder}, but encoding.autoencoder "
            f"{name!r} is {trained.digest}; prepare the data with it, or give the one that made them"
        )
    if config.process.shape != latents.shape[:-1]:
        raise InputError(
            f"process.shape is {config.process.shape}, but the latents in {folder!r} are {latents.shape[:-1]}; set "
            f'--config.process.shape="{latents.shape[:-1]}"'
        )
    recorded = replace(config.encoding, digest=latents.autoencoder, mean=latents.mean, deviation=latents.deviation)
    return replace(config, encoding=recorded, data=of_images(trained.autoencoder, config.data)), trained


def planned(config: Config) -> Experiment:
    """What the config of a run that is still to come stands for, with the autoencoder that it names.

    Raises:
        InputError: as `build` and `with_latents`.
    """
    config, trained = with_latents(config)
    return build(config, autoencoder=None if trained is None else trained.autoencoder)


def outlined(config: Config) -> Experiment:
    """What a config stands for in shapes alone, which is what costs depend on: its data, their latents too, and the weights
    of the autoencoder need not be there, but its config.json.

    Raises:
        InputError: as `build`; if `encoding.autoencoder` is none, or of images of other channels.
    """
    if config.encoding.autoencoder is None:
        return build(config)
    autoencoder = experiment_in(to_path(config.encoding.autoencoder)).abstract
    channels = autoencoder.config.latent_channels
    encoding = replace(config.encoding, mean=(0.0,) * channels, deviation=(1.0,) * channels)
    return build(replace(config, data=of_images(autoencoder, config.data), encoding=encoding), autoencoder=autoencoder)


def keep_autoencoder(workdir: Path, trained: TrainedAutoencoder) -> None:
    """Writes the autoencoder of a run to its workdir. Raises InputError if an earlier attempt left another one there."""
    folder = workdir / FOLDER
    if not exists(folder):
        write_autoencoder(trained, folder)
    elif (left := load_autoencoder(folder).digest) != trained.digest:
        raise InputError(f"{str(folder)!r} holds the autoencoder {left}, not {trained.digest}; choose another --workdir")


def kept_autoencoder(workdir: Path, config: Config) -> Autoencoder | None:
    """The autoencoder that the run in `workdir` keeps, None if it is of pixels. Raises InputError if it is another."""
    if config.encoding.autoencoder is None:
        return None
    trained = load_autoencoder(workdir / FOLDER)
    if trained.digest != config.encoding.digest:
        raise InputError(
            f"{str(workdir / FOLDER)!r} is the autoencoder {trained.digest}, but the run was trained on latents of "
            f"{config.encoding.digest}; restore that folder"
        )
    return trained.autoencoder


def _stored(data: DataConfig) -> Manifest | None:
    """What the folder of a config's data holds, if `launch.prepare` wrote it."""
    return read_manifest(to_path(data.folder)) if data.source == "array_record" and data.folder is not None else None
