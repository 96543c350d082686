"""What would make a training step fit that does not: settings to change, each compiled before it is named."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ssd_jax.config import AnyConfig
from ssd_jax.errors import InputError

from .costs import Cost, training_costs
from .machines import Machine

Changes = dict[str, Any]  # of a config: values by "section.field"
logger = logging.getLogger("ssd_jax")
REMATS = ("none", "full_resolution", "all")


@dataclass(frozen=True, eq=False)
class Remedy:
    """Settings, and the largest program of a training step with them.

    Attributes:
        settings: as the command line has them.
        cost: of that program.
    """

    settings: str
    cost: Cost


def remedies(config: AnyConfig, machine: Machine) -> list[Remedy]:
    """Every setting alone, as far as it must go; where none is enough, the batch's too, all others together."""
    found: list[Remedy] = []
    together: Changes = {}
    for values in _settings(config, len(machine.devices)):
        tried = list(_until_one_fits(config, values, machine))
        if tried:
            changes, remedy = tried[-1]
            found.append(remedy)
            together |= {} if "train.batch_size" in changes else changes
    if len(together) > 1 and not any(remedy.cost.fits for remedy in found):
        found += [remedy for _, remedy in _until_one_fits(config, [together], machine)]
    return found


def _settings(config: AnyConfig, devices: int) -> Iterator[list[Changes]]:
    """For each setting the values to try, cheapest first."""
    accumulate, batch = config.train.accumulate, config.train.batch_size
    doubled = [2**i for i in range(1, 11)]
    if devices > 1 and config.mesh.shape(devices)[1] == 1:
        yield [{"mesh.data": 1, "mesh.fsdp": -1}]
    remat = getattr(config.model, "remat", REMATS[-1])
    yield [{"model.remat": each} for each in REMATS[REMATS.index(remat) + 1 :]]
    yield [{"train.accumulate": accumulate * n} for n in doubled if batch % (accumulate * n * devices) == 0]
    yield [{"train.batch_size": batch // n} for n in doubled if batch % (n * accumulate * devices) == 0]


def _until_one_fits(config: AnyConfig, values: list[Changes], machine: Machine) -> Iterator[tuple[Changes, Remedy]]:
    for changes in values:
        settings = " ".join(f"--config.{name}={value}" for name, value in changes.items())
        try:
            cost = training_costs(_changed(config, changes), machine, quick=True).largest
        except InputError as error:  # what was found before is worth more than this
            logger.warning("with %s: %s", settings, error)
            return
        yield changes, Remedy(settings, cost)
        if cost.fits:
            return


def _changed(config: AnyConfig, changes: Changes) -> AnyConfig:
    for name, value in changes.items():
        section, field = name.split(".")
        config = replace(config, **{section: replace(getattr(config, section), **{field: value})})
    return config
