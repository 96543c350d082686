"""What a sampling plan costs: floating-point operations and activation memory of every path through the network.

Operations are counted on the lowered program, which takes no compilation (0.2 % below the compiled one's).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssd_jax.compilation import COMPILER_OPTIONS, operations
from ssd_jax.network import abstract_network
from ssd_jax.network.protocol import NetworkConfig, Shapes, label_struct
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.sampling.plan import Plan


@dataclass(frozen=True)
class PathCost:
    """One call of the network for one image.

    Attributes:
        in_level, out_level: the path.
        flops: floating-point operations.
        memory: bytes of intermediate results of the compiled program on this machine, None if not asked for.
    """

    in_level: int
    out_level: int
    flops: float
    memory: int | None = None


@dataclass(frozen=True)
class PlanCost:
    """All calls of a plan for one image.

    Attributes:
        stages: the cost of a call of each stage of the plan.
        flops: of the whole plan.
        relative_flops: the same over that of as many calls at full resolution.
    """

    stages: tuple[PathCost, ...]
    flops: float
    relative_flops: float


@cache
def path_cost(
    config: NetworkConfig, shapes: Shapes, channels: int, in_level: int, out_level: int, *, memory: bool = False
) -> PathCost:
    """Counts one path through a network for one image.

    Args:
        config: of the network.
        shapes: of the levels of the process.
        channels: of its images.
        in_level, out_level: the path.
        memory: compiles it (seconds to minutes).
    """
    graphdef, parameters = abstract_network(config, shapes, channels)

    def call(parameters, x, t, label):
        return nnx.merge(graphdef, parameters)(x, t, label, in_level=in_level, out_level=out_level)

    x = jax.ShapeDtypeStruct((1, *shapes[in_level], channels), jnp.float32)
    label = label_struct(config, 1)
    program = jax.jit(call, compiler_options=COMPILER_OPTIONS)
    lowered = program.lower(parameters, x, jax.ShapeDtypeStruct((1,), jnp.float32), label)
    statistics = lowered.compile().memory_analysis() if memory else None
    return PathCost(in_level, out_level, operations(lowered), statistics.temp_size_in_bytes if statistics else None)


def call_cost(config: NetworkConfig, channels: int, process: ScaleSpaceProcess) -> Callable[[int], float]:
    """What the network call at t costs, in calls at full size."""
    cost_of = partial(path_cost, config, process.level_shapes, channels)
    costs = np.empty(process.num_timesteps)
    for stage in process.stages:
        costs[stage.t_min : stage.t_max + 1] = cost_of(stage.in_level, stage.out_level).flops / cost_of(0, 0).flops
    return lambda t: float(costs[t])


def plan_cost(plan: Plan, config: NetworkConfig, *, channels: int = 3, memory: bool = False) -> PlanCost:
    """Counts a whole plan for one image, against the same number of calls of path (0, 0)."""
    stages = [part.stage for part in plan.stages]
    paths = dict.fromkeys([(0, 0), *((stage.in_level, stage.out_level) for stage in stages)])
    costs = {path: path_cost(config, plan.process.level_shapes, channels, *path, memory=memory) for path in paths}
    of_stages = tuple(costs[stage.in_level, stage.out_level] for stage in stages)
    flops = sum(len(part.timesteps) * cost.flops for part, cost in zip(plan.stages, of_stages, strict=True))
    return PlanCost(of_stages, flops, flops / (plan.calls * costs[0, 0].flops))
