"""Weights that travel: averaged parameters in one file, model.safetensors, beside the config that they are bound to.

A folder of these two is a model as the Hugging Face Hub has them, which `load` reads like a run.
"""

import json
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from ssd_jax.build import AnyExperiment
from ssd_jax.errors import InputError, one_line
from ssd_jax.files.paths import Path, local_copy, write_atomically
from ssd_jax.run.digest import digests, named
from ssd_jax.run.quantization import Quantized, is_quantized, quantize
from ssd_jax.run.record import (
    Damaged,
    check_digests,
    check_experiment,
    check_finite,
    check_kinds,
    check_record,
    make_record,
    sha256_of,
)

SCALE = "_scale"  # ends the name of what int8 is multiplied with


def named_in_files(parameters: dict) -> dict[str, Any]:
    """Every parameter by the name that files have for it, e.g. "stem.kernel"."""
    return {name.replace("/", "."): leaf for name, leaf in named(parameters).items()}


def stored(parameters: dict, kind: str | None) -> dict[str, np.ndarray]:
    """Parameters by their names as a file holds them.

    Args:
        parameters: a pytree of float32 arrays.
        kind: what `quantization` makes of them; None for what they are.

    Raises:
        InputError: as `quantize`.
    """
    found = {}
    for name, leaf in named_in_files(parameters).items():
        array = np.asarray(jax.device_get(leaf))
        if kind is None or not is_quantized(array):
            found[name] = array
            continue
        quantized = quantize(array, kind)
        found[name] = quantized.numbers
        if quantized.scale is not None:
            found[name + SCALE] = quantized.scale
    return found


def restored(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float32 parameters by their names that `stored` arrays stand for, and the scales among them."""
    return {name: Quantized(array, arrays.get(name + SCALE)).restored() for name, array in arrays.items()}


def write_weights(file: Path, experiment: AnyExperiment, parameters: dict, step: int, quantize: str | None = None) -> None:
    """Writes averaged parameters to a file of safetensors, whole or not at all, with a record of what they are.

    Args:
        file: path.
        experiment: that they are of.
        parameters: pure dict of float32 arrays.
        step: training steps that they took.
        quantize: the `kind` of `stored`.

    Raises:
        InputError: as `stored`.
    """
    arrays = stored(parameters, quantize)
    record = make_record(experiment, digests(_tree(restored(arrays), experiment)), None, {})
    told = {"format": "flax", "library": "ssd_jax", "step": str(step), "quantized": str(quantize)}
    told["record"] = json.dumps(record)
    told["sha256"] = sha256_of(told)
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # safetensors writes what lies there
    contents = save(in_order, told)
    write_atomically(file, lambda opened: opened.write(contents))


def read_weights(file: Path, experiment: AnyExperiment) -> tuple[int, dict]:
    """The training step and the float32 parameters of a file that `write_weights` wrote, checked, on the host.

    Raises:
        OSError: if it cannot be opened.
        InputError: if it is damaged, another library's, or of another model than the experiment's.
    """
    try:
        path = local_copy(file)
        with safe_open(path, framework="np") as found:
            told = found.metadata() or {}
        if told.pop("sha256") != sha256_of(told):
            raise Damaged("its metadata are not what was written")
        step, record = int(told["step"]), json.loads(told["record"])
        check_record(record)
        check_experiment(record, experiment)
        check_kinds(record, experiment.abstract_parameters)
        parameters = _tree(restored(load_file(path)), experiment)
        values = digests(parameters)
        check_digests(record, values, None)
        check_finite(values)
    except Damaged as error:
        raise InputError(f"{str(file)!r} is damaged: {error}; make or download it again") from error
    except InputError as error:
        raise InputError(f"{str(file)!r} cannot be used: {error}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"{str(file)!r} is damaged, or holds no weights of ssd_jax ({reason}); make or download it again"
        ) from error
    return step, parameters


def _tree(arrays: dict[str, np.ndarray], experiment: AnyExperiment) -> dict:
    """The parameters of an experiment by name, as a pytree. Raises Damaged if one has another shape."""
    abstract = named_in_files(experiment.abstract_parameters)
    for name, like in abstract.items():
        if arrays[name].shape != like.shape:
            raise Damaged(f"{name} has shape {arrays[name].shape}, not {like.shape}")
    return jax.tree.unflatten(jax.tree.structure(experiment.abstract_parameters), [arrays[name] for name in abstract])
