"""A forecast as text and as JSON."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ssd_jax.config import AnyConfig, Config, as_dict
from ssd_jax.files.json_file import json_text

from ..common import report
from ..common.command import provenance
from .costs import Cost, Costs
from .machines import Machine
from .remedies import Remedy

GIB, MIB = 2**30, 2**20
TPU_IMAGES = 8  # their compiler keeps 8 images side by side, or pads


@dataclass(frozen=True, eq=False)
class Forecast:
    """All that was found out.

    Attributes:
        config, machine: of what, and on what.
        training, sampling: of the config's levels and, if it has several, of one level; an autoencoder draws nothing.
        grids: of samples shown while training; None of an autoencoder.
        remedies: that were tried; none if it fits.
    """

    config: AnyConfig
    machine: Machine
    training: dict[str, Costs]
    sampling: dict[str, Costs]
    grids: Costs | None
    remedies: list[Remedy]


def as_json(forecast: Forecast) -> str:
    """All numbers, in bytes and seconds."""

    def costs(each: Costs) -> dict[str, Any]:
        seconds = {kind: each.seconds(kind) for kind in ("roofline", "foreseen")}
        programs = [_program(cost) for cost in each.programs]
        return {"images": each.images, "flops_per_image": each.flops_per_image, "seconds": seconds, "programs": programs}

    machine = {f.name: getattr(forecast.machine, f.name) for f in dataclasses.fields(Machine) if f.name != "devices"}
    return json_text(
        {
            "machine": machine | {"devices": len(forecast.machine.devices)},
            "made_by": provenance(),
            "config": as_dict(forecast.config),
            "training": {name: costs(each) for name, each in forecast.training.items()},
            "sampling": {name: costs(each) for name, each in forecast.sampling.items()},
            "grids": None if forecast.grids is None else costs(forecast.grids),
            "remedies": [{"settings": each.settings, **_program(each.cost)} for each in forecast.remedies],
        },
        indent=2,
    )


def _program(cost: Cost) -> dict[str, Any]:
    program = {f.name: getattr(cost.program, f.name) for f in dataclasses.fields(cost.program) if f.name != "lower"}
    compiled = dataclasses.asdict(cost.compiled) if cost.compiled else None
    seconds = {"roofline": cost.roofline, "foreseen": cost.foreseen}
    return {**program, "compiled": compiled, "memory": cost.memory, "fits": cost.fits, "seconds": seconds}


def as_text(forecast: Forecast) -> str:
    """Tables of programs, then what there is in all, beside one level."""
    config, machine = forecast.config, forecast.machine
    levels, num = config.process.num_levels if isinstance(config, Config) else 1, len(machine.devices)
    parts = [_machine(machine)]
    for title, costs in (("A training step", forecast.training), ("A batch of samples", forecast.sampling)):
        for name, each in costs.items():
            of = f"{levels} levels" if name == "levels" and levels > 1 else "one level"
            parts.append(
                f"{title} of {each.images:g} images, {of}:\n\n{report.plain([_row(cost) for cost in each.programs])}"
            )
    rows = [_training(f, config, num) for f in forecast.training.values()]
    parts.append(f"Training of {config.train.steps} steps:\n\n{_beside(rows)}")
    if isinstance(config, Config):
        rows = [_sampling(f, num) for f in forecast.sampling.values()]
        parts.append(f"Sampling by {config.sample.num_steps} calls of {config.sample.solver}:\n\n{_beside(rows)}")
    parts.append(_verdict(forecast))
    return "\n\n".join(parts)


def _machine(machine: Machine) -> str:
    text = f"{machine.name}: {len(machine.devices)} device(s)"
    if machine.memory is None or machine.bandwidth is None or machine.interconnect is None:
        return f"{text} of this machine, whose peaks are not known"
    share = ", JAX's share of it" if machine.platform == "cuda" else ""
    return (
        f"{text}, each with {machine.memory / GIB:.1f} GiB of memory{share}; at their peak "
        f"{machine.flops['bfloat16'] / 1e12:.0f} TFLOP/s in bfloat16, {machine.bandwidth / 1e9:.0f} GB/s of memory, "
        f"{machine.interconnect / 1e9:.0f} GB/s each way to others. Times are at these peaks, "
        "unverified, and never reached."
    )


def _row(cost: Cost) -> report.Row:
    """A program, per device."""
    program, compiled = cost.program, cost.compiled if cost.compiled and cost.compiled.fits else None
    return {
        "program": program.name,
        "images": program.images or None,
        "runs": program.runs,
        "GFLOPs": program.flops / 1e9 if program.flops else None,
        "arguments MiB": compiled and compiled.arguments / MIB,
        "temporaries MiB": compiled and compiled.temporaries / MIB,
        "in all MiB": compiled and _times(1 / MIB, cost.memory),
        "GB moved": compiled and _times(1e-9, compiled.traffic),
        "exchanged MB": compiled and sum(compiled.exchanged.values()) / 1e6,
        "fits": {True: "yes", False: "no", None: None}[cost.fits],
        "ms": _times(1e3, cost.roofline),
        "compiler's ms": _times(1e3, cost.foreseen),
    }


def _training(costs: Costs, config: AnyConfig, devices: int) -> report.Row:
    seconds = costs.seconds("roofline")
    hours = _times(config.train.steps / 3600, seconds)
    return {
        "MiB of the largest program, a device": (costs.largest.memory or 0) / MIB,
        "of which temporaries": costs.largest.compiled.temporaries / MIB if costs.largest.compiled else None,
        "GFLOPs an image": costs.flops_per_image / 1e9,
        "ms a step, at least": _times(1e3, seconds),
        "ms a step by the compiler": _times(1e3, costs.seconds("foreseen")),
        "images/s, at most": costs.images / seconds if seconds else None,
        "hours, at least": hours,
        "device-hours, at least": _times(devices, hours),
    }


def _sampling(costs: Costs, devices: int) -> report.Row:
    seconds = costs.seconds("roofline")
    return {
        "MiB of the largest program, a device": (costs.largest.memory or 0) / MIB,
        "GFLOPs an image": costs.flops_per_image / 1e9,
        "ms a batch, at least": _times(1e3, seconds),
        "ms a batch by the compiler": _times(1e3, costs.seconds("foreseen")),
        "device-ms an image, at least": _times(1e3 * devices / costs.images, seconds),
    }


def _beside(columns: list[report.Row]) -> str:
    """What was found of the levels, of one level, and their ratio."""
    rows = []
    for name, value in columns[0].items():
        row = {"": name, "levels": value}
        if len(columns) > 1:
            other = columns[1][name]
            row |= {"one level": other, "ratio": value / other if value is not None and other else None}
        rows.append(row)
    return report.plain(rows)


def _verdict(forecast: Forecast) -> str:
    lines = [_fit("Training", forecast.training["levels"].largest)]
    if forecast.grids is not None and forecast.grids.largest.fits is False:
        lines.append(f"{_fit('Its grid of samples', forecast.grids.largest)} A smaller --config.sample.num takes less.")
    if forecast.sampling:
        lines.append(_fit("Sampling", forecast.sampling["levels"].largest))
        lines[-1] += " Fewer --samples at a time take less." if forecast.sampling["levels"].largest.fits is False else ""
    lines += _uneven(forecast)
    if forecast.remedies:
        lines.append("Compiled for training, too:")
    for each in forecast.remedies:
        fits = "which fits" if each.cost.fits else "too much"
        lines.append(f"  {each.settings}: {each.cost.program.name} takes {(each.cost.memory or 0) / GIB:.1f} GiB, {fits}")
    return "\n".join(lines)


def _uneven(forecast: Forecast) -> list[str]:
    """A line if a TPU has to train on numbers of images that it lays out badly, and need not."""
    images = {each.program.images for each in forecast.training["levels"].programs}
    train = forecast.config.train
    multiple = TPU_IMAGES * len(forecast.machine.devices) * train.accumulate
    if forecast.machine.platform != "tpu" or not any(n % TPU_IMAGES for n in images) or train.batch_size % multiple:
        return []
    return [
        f"Stages have {', '.join(map(str, sorted(images - {0})))} images a device: TPUs take several times the memory and "
        f"traffic for numbers that {TPU_IMAGES} does not divide. --config.train.draws_multiple={multiple} gives all of "
        "them such numbers; stages with fewer take turns."
    ]


def _fit(what: str, largest: Cost) -> str:
    """Whether the largest program of training or sampling fits, and by how much it does not."""
    there, memory = largest.machine.memory, largest.memory or 0
    if largest.fits is None or there is None:
        return f"{what}: whether it fits is not known."
    if largest.fits:
        return f"{what} fits: {largest.program.name} takes {memory / there:.0%} of a device's memory."
    asks = "takes" if largest.compiled and largest.compiled.fits else "is refused by the compiler, and takes at least"
    gib = f"{memory / GIB:.1f} GiB, {(memory - there) / GIB:.1f} too much"
    return f"{what} does not fit: {largest.program.name} {asks} {gib}."


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
