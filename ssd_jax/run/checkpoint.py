"""Checkpoints of a run: a folder per step below workdir/checkpoints, written by Orbax and whole or absent.

Each holds "ema" (the averaged parameters, all that sampling needs), "state" (everything else of the TrainState) and "data"
(where the data iterator stands); an imported one holds "ema" alone. Beside them lie config.json and, of what was trained
here, statistics.json: those of its data.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from ssd_jax.config import Config, as_dict, config_from_json, config_json
from ssd_jax.errors import InputError
from ssd_jax.files.paths import write_atomically
from ssd_jax.network.parameterisation import DataStatistics

STATISTICS = "statistics.json"
KEEP = 2  # checkpoints on disk: the latest and, should it be damaged, the one before


def open_checkpoints(workdir: Path, *, writable: bool) -> ocp.training.Checkpointer:
    """The checkpoints of a run, to use in a `with` block; if `writable`, removes what an interrupted save left behind."""
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="data")
    context = ocp.Context()
    context.checkpointables.registry = registry
    keep_latest: Any = ocp.training.preservation_policies.LatestN(KEEP)
    return ocp.training.Checkpointer(
        str((workdir / "checkpoints").resolve()),
        context=context,
        preservation_policy=keep_latest,
        cleanup_tmp_directories=writable,
    )


def save(checkpoints: ocp.training.Checkpointer, step: int, state: dict[str, Any], data: dict) -> None:
    """Starts saving in the background; the arrays may be donated at once.

    Args:
        step: number of the checkpoint.
        state: {"ema": ..., other names: ...}, pytrees of arrays.
        data: JSON of the data iterator.
    """
    rest = {name: value for name, value in state.items() if name != "ema"}
    checkpoints.save_checkpointables_async(step, {"ema": state["ema"], "state": rest, "data": data}, force=True)


def restore(checkpoints: ocp.training.Checkpointer, abstract: dict[str, Any]) -> tuple[dict[str, Any], dict]:
    """The latest checkpoint's state and data, as `save` got them.

    Args:
        abstract: ShapeDtypeStructs of the state, with the shardings to restore to.

    Raises:
        InputError: if the checkpoint is damaged or of another model.
    """
    folder = Path(checkpoints.directory) / str(checkpoints.latest.step) if checkpoints.latest else None
    if folder and not (folder / "state").exists():
        raise InputError(
            f"checkpoint {folder} holds averaged parameters only, as imported ones do: it can be sampled, but training "
            "cannot go on from it; choose another --workdir"
        )
    rest = {name: value for name, value in abstract.items() if name != "ema"}
    loaded = _load(checkpoints, {"ema": abstract["ema"], "state": rest, "data": None})
    return {"ema": loaded["ema"], **loaded["state"]}, loaded["data"]


def restore_ema(workdir: Path, abstract: dict) -> tuple[int, dict]:
    """Step and averaged parameters of a run's latest checkpoint; reads nothing else.

    Raises:
        InputError: if there is no checkpoint, or it is damaged or of another model.
    """
    if not (workdir / "checkpoints").is_dir():
        raise InputError(f"{str(workdir)!r} holds no checkpoint; train one with python -m launch.train --workdir {workdir}")
    with open_checkpoints(workdir, writable=False) as checkpoints:
        if checkpoints.latest is None:
            raise InputError(f"{str(workdir)!r} holds no finished checkpoint yet")
        return checkpoints.latest.step, _load(checkpoints, {"ema": abstract})["ema"]


def _load(checkpoints: ocp.training.Checkpointer, abstract: dict[str, Any]) -> dict[str, Any]:
    latest = checkpoints.latest
    assert latest is not None
    try:
        return checkpoints.load_checkpointables(latest.step, abstract)
    except Exception as error:  # Orbax raises many kinds for files missing, truncated or of other shapes
        folder = Path(checkpoints.directory) / str(latest.step)
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"checkpoint {folder} is damaged or of another model ({reason}); remove it to use the one before, or choose "
            "another --workdir"
        ) from error


def claim_workdir(workdir: Path, config: Config, statistics: DataStatistics | None = None) -> None:
    """Writes config.json and statistics.json, if a run already in `workdir` has the same network, process and denoiser.

    Raises:
        InputError: naming the first field that differs.
    """
    if (workdir / "config.json").exists():
        before, now = as_dict(load_config(workdir)), as_dict(config)
        fields = [
            (section, name) for section in ("model", "process", "denoiser") for name in now[section] | before[section]
        ]
        for section, name in [*fields, ("data", "channels")]:
            old, new = (sections[section].get(name) for sections in (before, now))
            if old != new:
                raise InputError(
                    f"{str(workdir)!r} holds a run with {section}.{name} = {old}, but this config says "
                    f"{new}; choose another --workdir or set --config.{section}.{name}"
                )
    elif (workdir / "checkpoints").exists():
        raise InputError(f"{str(workdir)!r} holds checkpoints but no config.json; choose another --workdir")
    if statistics is not None:
        text = json.dumps(dataclasses.asdict(statistics)) + "\n"
        write_atomically(workdir / STATISTICS, lambda file: file.write(text.encode()))
    write_atomically(workdir / "config.json", lambda file: file.write(config_json(config).encode()))


def load_config(workdir: Path) -> Config:
    """The config of the run in `workdir`. Raises InputError if there is none or it cannot be read."""
    try:
        return config_from_json((workdir / "config.json").read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"{str(workdir)!r} is no run: it has no config.json; make one with python -m launch.train --workdir {workdir}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{workdir / 'config.json'} cannot be read: {error}") from error


def load_channels(workdir: Path) -> int | None:
    """Those of the images of the run in `workdir`; None if there is no run yet. Raises InputError if it cannot be read."""
    return load_config(workdir).data.channels if (workdir / "config.json").exists() else None


def load_statistics(workdir: Path) -> DataStatistics | None:
    """Those of the data that the run in `workdir` is trained on; None if it keeps none. Raises InputError if damaged."""
    file = workdir / STATISTICS
    try:
        return DataStatistics(tuple(json.loads(file.read_text())["variances"])) if file.exists() else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} cannot be read: {error}; restore it, or train anew") from error
