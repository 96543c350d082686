"""What lies in a workdir beside checkpoints: config.json, and statistics.json of the data that the run is trained on.

A folder with model.safetensors instead of checkpoints is a finished model: it can be drawn from, but not trained.
"""

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ssd_jax.config import AnyConfig, Config, any_from_json, config_json
from ssd_jax.data.sources import DataConfig
from ssd_jax.errors import InputError
from ssd_jax.files.json_file import read_json, write_json
from ssd_jax.files.lease import Lease, lease
from ssd_jax.files.paths import Path, exists, in_bucket, is_folder, opened, write_atomically
from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.processes import first_does
from ssd_jax.run.record import differences

logger = logging.getLogger(__name__)

LEASE = "lock.json"
CONFIG = "config.json"
STATISTICS = "statistics.json"
WEIGHTS = "model.safetensors"
COMMITTED = "commit_success.txt"  # what Orbax writes last into a checkpoint in a bucket, where nothing can be renamed


@contextmanager
def workdir_lease(workdir: Path) -> Iterator[Lease | None]:
    """Keeps other runs out of `workdir` within the block. Of a job of several processes the first holds the lease.

    Raises:
        InputError: if another run is there.
    """
    with ExitStack() as stack:
        held: list[Lease] = []
        first_does(lambda: held.append(stack.enter_context(lease(workdir / LEASE))))
        yield held[0] if held else None


def claim_workdir(workdir: Path, config: AnyConfig, statistics: DataStatistics | None = None) -> None:
    """Writes config.json and statistics.json; where there are checkpoints, only if they are of the same model and process.

    Raises:
        InputError: naming the first field that differs; or if there are weights alone.
    """
    if exists(workdir / WEIGHTS):
        raise InputError(
            f"{str(workdir)!r} holds weights alone, from which training cannot go on; choose another --workdir and start "
            f"there from these: --init_from {workdir}"
        )
    if has_checkpoints(workdir):
        if not exists(workdir / CONFIG):
            raise InputError(f"{str(workdir)!r} holds checkpoints but no config.json; choose another --workdir")
        for name, before, now in differences(load_any_config(workdir), config):
            raise InputError(
                f"{str(workdir)!r} holds a run with {name} = {before}, but this config says {now}; choose another "
                f"--workdir or set --config.{name}"
            )
    if statistics is not None:
        write_json(workdir / STATISTICS, dataclasses.asdict(statistics))
    write_atomically(workdir / CONFIG, lambda file: file.write(config_json(config).encode()))


def has_checkpoints(workdir: Path) -> bool:
    """Whether training has saved anything in `workdir`; before, its config may still change."""
    folder = workdir / "checkpoints"
    steps = [path for path in folder.iterdir() if path.name.isdecimal() and is_folder(path)] if is_folder(folder) else []
    return any(exists(path / COMMITTED) if in_bucket(path) else any(path.iterdir()) for path in steps)


def load_config(workdir: Path) -> Config:
    """The config of the run in `workdir`. Raises InputError if there is none, it cannot be read, or is an autoencoder's."""
    config = load_any_config(workdir)
    if not isinstance(config, Config):
        raise InputError(f"{str(workdir)!r} is a run of an autoencoder, but must be one of a denoiser")
    return config


def load_any_config(workdir: Path) -> AnyConfig:
    """The config of the run in `workdir`, which may be an autoencoder's. Raises InputError as `load_config`."""
    file = workdir / CONFIG
    try:
        with opened(file) as found:
            text = found.read().decode()
    except FileNotFoundError as error:
        raise InputError(
            f"{str(workdir)!r} is no run: it has no config.json; make one with python -m launch.train --workdir {workdir}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    try:
        return any_from_json(text)
    except InputError as error:
        raise InputError(f"{file} cannot be read: {error}") from error


def load_statistics(workdir: Path) -> DataStatistics | None:
    """Those of the data that the run in `workdir` is trained on; None if it keeps none. Raises InputError if damaged."""
    file = workdir / STATISTICS
    try:
        variances = read_json(file)["variances"]
        return DataStatistics(tuple(float(value) for value in variances))
    except FileNotFoundError:
        return None
    except (InputError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}; restore it, or train anew") from error


def load_data(workdir: Path, data: DataConfig) -> DataConfig:
    """`data` with the channels and the names of classes that the run in `workdir` began with, once it has saved anything.

    Those that `data` says itself stay. Warns of a run that keeps no names. Raises InputError if it cannot be read.
    """
    if not has_checkpoints(workdir):
        return data
    run = load_any_config(workdir)
    if run.num_classes and run.data.classes is None:
        logger.warning("%s keeps no names of classes, so that they cannot be compared with the data's; it will", workdir)
    channels = run.data.channels if data.channels is None else data.channels
    return dataclasses.replace(data, channels=channels, classes=run.data.classes if data.classes is None else data.classes)
