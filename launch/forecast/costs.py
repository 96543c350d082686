"""What a config costs on a machine: memory, operations and, from published peaks, time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ssd_jax.config import AnyConfig, Config, FlexiUNetConfig
from ssd_jax.sharding import make_mesh

from .compiler import Compiled, compile_all
from .machines import Machine
from .programs import Program, built, built_denoiser, held_by_grids, sampling_programs, training_programs

EXCHANGES = {"all-reduce": 2}  # times that an array passes a link: once to be summed, once to be handed out; others 1


@dataclass(frozen=True, eq=False)
class Cost:
    """Of one program on a device.

    Attributes:
        program: what it is.
        compiled: what its compiler says; None if it was not compiled.
        machine: for which.
    """

    program: Program
    compiled: Compiled | None
    machine: Machine

    @property
    def memory(self) -> int | None:
        """Bytes of a device in all, with what else lies there."""
        return None if self.compiled is None else self.compiled.memory + self.program.held

    @property
    def fits(self) -> bool | None:
        """Whether that is no more than the device has; None if that is not known."""
        if self.memory is None or self.compiled is None or self.machine.memory is None:
            return None
        return self.compiled.fits and self.memory <= self.machine.memory

    @property
    def roofline(self) -> float | None:
        """Seconds of a run at published peaks: of operations or traffic, whichever takes longer, then of collectives."""
        if self.machine.bandwidth is None or self.machine.interconnect is None:
            return None
        seconds = self.program.flops / self.machine.flops[self.program.precision]
        if self.compiled is None:
            return seconds
        exchanged = sum(EXCHANGES.get(kind, 1) * size for kind, size in self.compiled.exchanged.items())
        return max(seconds, (self.compiled.traffic or 0) / self.machine.bandwidth) + exchanged / self.machine.interconnect

    @property
    def foreseen(self) -> float | None:
        """Seconds as the compiler has them, unless they are less than the operations alone take at the peak."""
        if self.compiled is None or self.compiled.seconds is None or not self.machine.flops:
            return None
        least = self.program.flops / self.machine.flops[self.program.precision]
        return self.compiled.seconds if self.compiled.seconds >= least else None


@dataclass(frozen=True, eq=False)
class Costs:
    """Of all programs of a training step, or of a batch of samples.

    Attributes:
        programs: the programs.
        images: draws of a step on average, or images of a batch, on all devices.
        devices: how many there are.
    """

    programs: tuple[Cost, ...]
    images: float
    devices: int

    @cached_property
    def largest(self) -> Cost:
        """The program that takes most memory, of those that were compiled."""
        return max((each for each in self.programs if each.memory is not None), key=lambda each: each.memory or 0)

    @property
    def flops_per_image(self) -> float:
        """Operations for an image on average."""
        return sum(each.program.runs * each.program.flops for each in self.programs) * self.devices / self.images

    def seconds(self, kind: str) -> float | None:
        """Of a step or a batch, `kind` "roofline" or "foreseen"; None if a program's are not known."""
        of_programs = [(each.program.runs, getattr(each, kind)) for each in self.programs]
        return None if any(each is None for _, each in of_programs) else sum(runs * each for runs, each in of_programs)


def training_costs(config: AnyConfig, machine: Machine, quick: bool) -> Costs:
    """Of a training step; of its largest program only what takes compiling, if `quick`.

    Raises:
        InputError: if the config does not fit the mesh, or a program does not compile.
    """
    experiment, mesh = built(config), make_mesh(config.mesh, machine.devices)
    programs = training_programs(experiment, mesh)
    images = sum(each.runs * each.images for each in programs) * mesh.size
    return Costs(_costs(programs, machine, quick), images, mesh.size)


def sampling_costs(config: Config, machine: Machine, num: int, quick: bool) -> Costs:
    """Of drawing `num` images, all of them in one batch."""
    experiment, mesh = built_denoiser(config), make_mesh(devices=machine.devices)
    return Costs(_costs(sampling_programs(experiment, mesh, num), machine, quick), num, mesh.size)


def grid_costs(config: Config, machine: Machine, quick: bool) -> Costs:
    """Of drawing the grid of samples that a training run shows, whose state lies on the devices meanwhile."""
    costs = sampling_costs(config, machine, next_multiple(config.sample.num, len(machine.devices)), quick)
    held = held_by_grids(built_denoiser(config), make_mesh(config.mesh, machine.devices))
    programs = (replace(each, program=replace(each.program, held=each.program.held + held)) for each in costs.programs)
    return replace(costs, programs=tuple(programs))


def next_multiple(num: int, of: int) -> int:
    """The least multiple that is not below `num`."""
    return -(-num // of) * of


def with_one_level(config: Config) -> Config:
    """The same network at full resolution throughout: it halves the same axes, though the process no longer does."""
    process, model = config.process, config.model
    thresholds = {"thresholds": ()} if process.thresholds else {}
    if isinstance(model, FlexiUNetConfig) and not model.factors:
        model = replace(model, factors=process.factors)
    return replace(config, process=replace(process, num_levels=1, **thresholds), model=model)


def _costs(programs: Sequence[Program], machine: Machine, quick: bool) -> tuple[Cost, ...]:
    chosen = [max(programs, key=lambda each: each.flops)] if quick else programs
    compiled = compile_all(chosen, machine)
    return tuple(Cost(each, compiled.get(each.name), machine) for each in programs)
