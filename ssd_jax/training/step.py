"""The compiled programs of a training step.

A step gathers the weights, each of its stages adds the gradient of its draws in a program of its own, every device that of
its own draws, and the update sums them over the devices, once: however many stages there are, a step exchanges the weights
and the gradient once (and where the state is not divided, the gradient alone).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Bool

from ssd_jax.compilation import COMPILER_OPTIONS, read_as, several_at_a_time
from ssd_jax.process.stages import Stage
from ssd_jax.sharding import AXES, DIVIDED, WHOLE, put_batch, replicated, shardings, specs, split_along_batch
from ssd_jax.training.config import TrainConfig
from ssd_jax.training.objective import Batch, Loss, Objective
from ssd_jax.training.stage_sampling import Allocation, allocate
from ssd_jax.training.state import TrainState, Tree, abstract_state
from ssd_jax.training.update import updated


@dataclass(frozen=True, eq=False)
class TrainStep:
    """The compiled programs of training.

    Attributes:
        config: of training.
        mesh: the devices.
        allocation: the draws of every stage.
        gather: parameters -> weights: on every device, in the dtype that the network converts them to; None where they are.
        zeros: () -> a total of no gradients. Every device has its own total: the devices are the first axis.
        gradients: of every stage, (weights, total, draws of a round, step, seed) -> total + weighted gradient, loss.
        update: (state, total, used) -> state.
        used: which parameters, in flattened order, every stage reads.
        seed: `config.seed` on the devices: runs of other seeds share the compiled programs.
    """

    config: TrainConfig
    mesh: jax.sharding.Mesh
    allocation: Allocation
    gather: Callable | None
    zeros: Callable
    gradients: dict[Stage, Callable]
    update: Callable
    used: dict[Stage, Bool[np.ndarray, "parameters"]]
    seed: jax.Array

    def __call__(
        self, state: TrainState, step: int, batch: dict[str, np.ndarray]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update. `state` is donated.

        Args:
            state: the state before; gone afterwards.
            step: its step, known to the host, so that it need not ask the device.
            batch: this process's images (and labels), host arrays.

        Returns:
            The new state and the loss of each stage that took part, by name, still on the device.
        """
        weights = self.gather(state.parameters) if self.gather else state.parameters
        total, losses, first = self.zeros(), {}, 0
        sizes = dict(zip(self.allocation.stages, self.allocation.batch_sizes, strict=True))
        used = np.zeros(len(jax.tree.leaves(state.parameters)), bool)
        for stage in self.allocation.taking_part(step):
            rounds, count = [], sizes[stage] // self.config.accumulate
            for _ in range(self.config.accumulate):
                part = put_batch(draws(batch, first, count), split_along_batch(self.mesh))
                total, loss = self.gradients[stage](weights, total, part, state.step, self.seed)
                first, rounds = first + count, [*rounds, loss]
            losses[str(stage)] = sum(rounds[1:], rounds[0]) / len(rounds) if len(rounds) > 1 else rounds[0]
            used |= self.used[stage]
        used = put_batch({"used": used}, replicated(self.mesh))["used"]
        del weights  # where they are copies, the update need not hold them
        return self.update(state, total, used), losses

    @property
    def programs(self) -> dict[str, Any]:
        """All of them by name; those of stages by theirs."""
        others = {"gather": self.gather, "zeros": self.zeros, "update": self.update}
        return {name: each for name, each in others.items() if each} | {str(s): each for s, each in self.gradients.items()}


def draws(batch: dict[str, np.ndarray], first: int, count: int) -> dict[str, np.ndarray]:
    """This process's part of draws first .. first + count of a step: images (and labels), and the number of each draw.

    Draws take the images of the step in turn, and begin anew where there are more draws than images.
    """
    processes, process, images = jax.process_count(), jax.process_index(), len(batch["image"])
    numbers = np.arange(first // processes, (first + count) // processes, dtype=np.int32)
    return {name: array[numbers % images] for name, array in batch.items()} | {"number": numbers * processes + process}


@dataclass(frozen=True, eq=False)
class StepPrograms:
    """The programs of a training step, yet to be compiled.

    Attributes:
        allocation, used: as in `TrainStep`.
        lower: of every program by its name in `TrainStep.programs`, what traces it to a `jax.stages.Lowered`.
    """

    allocation: Allocation
    used: dict[Stage, Bool[np.ndarray, "parameters"]]
    lower: dict[str, Callable[[], Any]]


def step_programs(objective: Objective, config: TrainConfig, mesh: jax.sharding.Mesh) -> StepPrograms:
    """Every program that training will need. The devices of the mesh need not be there (`jax.experimental.topologies`).

    Raises:
        InputError: if the batch size does not fit the devices.
    """
    allocation = allocate(objective.stages, config, mesh.size, objective.flops, objective.log_snr)
    stages, state = allocation.stages, abstract_state(objective.parameters)
    of_stages = objective.losses(dict(zip(stages, allocation.shares, strict=True)))
    losses = {stage: partial(_of_step, loss) for stage, loss in of_stages.items()}
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    sizes = [size // config.accumulate for size in allocation.batch_sizes]
    batches = {stage: objective.abstract_draws(size) for stage, size in zip(stages, sizes, strict=True)}
    reads = {stage: read_as(losses[stage], state.parameters, batches[stage], state.step, seed) for stage in stages}
    divided = mesh.shape["fsdp"] > 1
    weights = _weights(state.parameters, list(reads.values())) if divided else state.parameters
    zeros = jax.jit(partial(_zeros, mesh.size, state.parameters), out_shardings=split_along_batch(mesh))
    total, used = jax.eval_shape(zeros), jax.ShapeDtypeStruct((len(jax.tree.leaves(weights)),), bool)

    def lower_gradient(stage: Stage, weight: float) -> Any:
        program = _gradient_program(losses[stage], weight / config.accumulate, mesh)
        return program.lower(weights, total, batches[stage], state.step, seed)

    lower = {str(s): partial(lower_gradient, s, weight) for s, weight in zip(stages, allocation.weights, strict=True)}
    lower |= {"zeros": zeros.lower, "update": partial(_update_program(config, state, mesh).lower, state, total, used)}
    if divided:
        lower["gather"] = partial(_gather_program(state.parameters, weights, mesh).lower, state.parameters)
    read = {stage: np.array([bool(kinds) for kinds in reads[stage]]) for stage in stages}
    return StepPrograms(allocation, read, lower)


def compile_train_step(objective: Objective, config: TrainConfig, mesh: jax.sharding.Mesh) -> TrainStep:
    """Compiles every program that training will need, several at a time, under a progress bar.

    Raises:
        InputError: if the batch size does not fit the devices.
    """
    step = step_programs(objective, config, mesh)
    lowered = {name: lower() for name, lower in step.lower.items()}
    programs = several_at_a_time({name: each.compile for name, each in lowered.items()}, "compiling")
    gradients = {stage: programs[str(stage)] for stage in step.allocation.stages}
    others = programs.get("gather"), programs["zeros"], gradients, programs["update"]
    seed = put_batch({"seed": np.array(config.seed, np.uint32)}, replicated(mesh))["seed"]
    return TrainStep(config, mesh, step.allocation, *others, step.used, seed)


def _zeros(num_devices: int, parameters: Tree) -> Tree:
    """A total of no gradients."""
    return jax.tree.map(lambda leaf: jnp.zeros((num_devices, *leaf.shape), leaf.dtype), parameters)


def _weights(parameters: Tree, reads: Sequence[Sequence[frozenset]]) -> Tree:
    """Shapes and types of what is gathered of the parameters, given as which dtypes every stage reads them.

    What all stages convert to one dtype before they compute is gathered in that dtype: the same numbers in fewer bytes.
    """
    leaves, structure = jax.tree.flatten(parameters)
    kinds = [frozenset().union(*each) for each in zip(*reads, strict=True)]
    dtypes = [next(iter(kind)) if len(kind) == 1 else leaf.dtype for kind, leaf in zip(kinds, leaves, strict=True)]
    return structure.unflatten(jax.ShapeDtypeStruct(leaf.shape, to) for leaf, to in zip(leaves, dtypes, strict=True))


def _gather_program(parameters: Tree, weights: Tree, mesh: jax.sharding.Mesh) -> Any:
    """parameters -> weights."""
    placement = specs(parameters, mesh)

    def gather(parameters: Tree) -> Tree:
        return jax.tree.map(lambda part, to, where: _whole(part.astype(to.dtype), where), parameters, weights, placement)

    program = jax.shard_map(gather, mesh=mesh, in_specs=(placement,), out_specs=WHOLE, check_vma=False)
    return jax.jit(program, in_shardings=(shardings(parameters, mesh),), out_shardings=replicated(mesh))


def _whole(part: jax.Array, where: PartitionSpec) -> jax.Array:
    """An array of which every device along "fsdp" holds a part, on each of them."""
    return jax.lax.all_gather(part, "fsdp", axis=where.index("fsdp"), tiled=True) if "fsdp" in where else part


def _sum(part: jax.Array, where: PartitionSpec, mesh: jax.sharding.Mesh) -> jax.Array:
    """The sum of the arrays of all devices, of which every one gets what `where` says."""
    axes = {axis for axis in AXES if mesh.shape[axis] > 1}
    if "fsdp" in where:
        part = jax.lax.psum_scatter(part, "fsdp", scatter_dimension=where.index("fsdp"), tiled=True)
        axes -= {"fsdp"}
    return jax.lax.psum(part, tuple(sorted(axes)))


def _of_step(loss: Loss, parameters: Tree, batch: Batch, step: jax.Array, seed: jax.Array) -> jax.Array:
    """The loss of a step's draws; all that is random about one depends on (seed, step, its number in the step)."""
    return loss(parameters, batch, jax.random.fold_in(jax.random.key(seed), step))


def _gradient_program(loss: Callable, weight: float, mesh: jax.sharding.Mesh) -> Any:
    """(weights, total, draws, step, seed) -> (total + weight * gradient, loss); `total` is donated.

    Devices say nothing to each other but their losses.
    """

    def add_gradient(weights: Tree, total: Tree, draws: Batch, step: jax.Array, seed: jax.Array):
        value, gradient = jax.value_and_grad(loss)(weights, draws, step, seed)
        total = jax.tree.map(lambda a, b: a + weight / mesh.size * b.astype(a.dtype), total, gradient)
        return total, jax.lax.pmean(value, AXES)

    # Without check_vma=False, the gradient of replicated weights would be summed over the devices at once.
    on_each_device = jax.shard_map(
        add_gradient,
        mesh=mesh,
        in_specs=(WHOLE, DIVIDED, DIVIDED, WHOLE, WHOLE),
        out_specs=(DIVIDED, WHOLE),
        check_vma=False,
    )
    return jax.jit(on_each_device, donate_argnums=1, compiler_options=COMPILER_OPTIONS)


def _update_program(config: TrainConfig, state: TrainState, mesh: jax.sharding.Mesh) -> Any:
    """(state, total, used) -> state, which is donated."""
    placement = specs(state.parameters, mesh)

    def summed(total: Tree) -> Tree:
        return jax.tree.map(lambda part, where: _sum(part[0], where, mesh), total, placement)

    def update(state: TrainState, total: Tree, used: jax.Array) -> TrainState:
        gradient = jax.shard_map(summed, mesh=mesh, in_specs=DIVIDED, out_specs=placement, check_vma=False)(total)
        return updated(config, used, state, gradient)

    where = shardings(state, mesh)
    inputs = (where, split_along_batch(mesh), replicated(mesh))
    return jax.jit(update, in_shardings=inputs, out_shardings=where, donate_argnums=0)
