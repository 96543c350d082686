"""Which run may guide another (autoguidance): one of the same process, images and classes."""

import numpy as np

from ssd_jax.build import Experiment
from ssd_jax.errors import InputError, few
from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import ScaleSpaceProcess


def check_guide(own: Experiment, guide: Experiment) -> None:
    """Raises InputError, with what differs, unless `guide` predicts what `own` does; else their difference says nothing."""
    differing = [name for name, (one, other) in _compared(own, guide).items() if not _same(one, other)]
    if differing:
        raise InputError(
            f"the guide is a model of another task, which cannot guide this one: it differs in {few(differing)}; take a "
            "run of the same process, data and classes, smaller or less trained"
        )


def _compared(own: Experiment, guide: Experiment) -> dict[str, tuple]:
    one, other = (_described(each) for each in (own, guide))
    return {name: (value, other[name]) for name, value in one.items()}


def _described(experiment: Experiment) -> dict[str, object]:
    process, config, encoding = experiment.process, experiment.config, experiment.encoding
    classes = config.data.classes if config.model.num_classes else None
    return {
        "shape": (process.shape, encoding.channels, encoding.picture_shape),
        "encoding": (config.encoding.digest, config.encoding.mean, config.encoding.deviation),
        "noise schedule": process.log_snr,
        "levels": process.levels,
        "operator": _operators(process) or config.process.operator,
        "blur": process.dissipation,
        "labels": (config.num_classes, classes and tuple(classes), config.label_size, config.data.name_size),
    }


def _operators(process: ScaleSpaceProcess) -> list[np.ndarray]:
    """The matrices of separable operators; of others only the name is known."""
    of_levels = [each for each in process.operators if isinstance(each, SeparableOperator)]
    return [matrix for operator in of_levels for matrix in operator.matrices]


def _same(one: object, other: object) -> bool:
    """Of numbers, up to rounding: schedules are computed from measured data."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-6, atol=1e-6)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other
