"""The compiled programs of a training step.

A step computes the gradient of each of its stages in a program of that stage alone. Every device adds up those of its own
images; the update sums them over the devices, once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from tqdm import tqdm

from ssd_jax.compilation import COMPILER_OPTIONS
from ssd_jax.process.stages import Stage
from ssd_jax.sharding import put_batch, replicated, split_along_batch
from ssd_jax.training.config import TrainConfig
from ssd_jax.training.objective import Batch, Objective
from ssd_jax.training.stage_sampling import pick_stage, stage_batch_sizes, stage_probabilities
from ssd_jax.training.state import TrainState, Tree, abstract_state
from ssd_jax.training.update import updated


@dataclass(frozen=True, eq=False)
class TrainStep:
    """The compiled programs of training: one gradient program per stage, one update per set of parameters that stages use.

    Attributes:
        stages: all stages of the process.
        probabilities: that an image belongs to each, [stages].
        batch_sizes: images that the program of each stage takes, over all devices.
        gradients: (parameters, total, batch, step) -> total + weighted gradient, loss. Every device has its own total: the
            devices are the first axis.
        updates: (state, total) -> state; one for each stage in "single" stage sampling, one under None in "mixed".
        zeros: parameters -> a total of zeros.
    """

    config: TrainConfig
    mesh: jax.sharding.Mesh
    stages: tuple[Stage, ...]
    probabilities: np.ndarray
    batch_sizes: tuple[int, ...]
    gradients: dict[Stage, Callable]
    updates: dict[Stage | None, Callable]
    zeros: Callable

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
        count = jax.process_count()
        batch = batch | {"index": np.arange(len(batch["image"]), dtype=np.int32) * count + jax.process_index()}
        if self.config.stage_sampling == "single":
            chosen = pick_stage(self.stages, self.probabilities, self.config.seed, step)
            parts = {chosen: batch}
        else:
            chosen = None
            ends = np.cumsum(self.batch_sizes)[:-1] // count
            split = {name: np.split(array, ends) for name, array in batch.items()}
            parts = {stage: {name: split[name][i] for name in batch} for i, stage in enumerate(self.stages)}
        total, losses = self.zeros(state.parameters), {}
        for stage, part in parts.items():
            total, losses[str(stage)] = self.gradients[stage](
                state.parameters, total, put_batch(part, self.mesh), state.step
            )
        return self.updates[chosen](state, total), losses


def compile_train_step(objective: Objective, config: TrainConfig, mesh: jax.sharding.Mesh) -> TrainStep:
    """Compiles every program that training will need, several at a time, under a progress bar.

    Raises:
        InputError: if the batch size does not fit the stages and devices.
    """
    stages = objective.process.stages
    probabilities = stage_probabilities(stages, config.up_share)
    batch_sizes = stage_batch_sizes(stages, config, mesh.size)
    mixed = config.stage_sampling == "mixed"
    weights = probabilities.tolist() if mixed else [1.0] * len(stages)
    state = abstract_state(objective.denoiser.parameters)
    losses = {stage: partial(_loss, objective, config, stage) for stage in stages}
    batches = {stage: objective.abstract_batch(size) for stage, size in zip(stages, batch_sizes, strict=True)}
    used = {stage: _used(losses[stage], state.parameters, batches[stage], state.step) for stage in stages}
    if mixed:
        used = {None: tuple(any(flags) for flags in zip(*used.values(), strict=True))}
    zeros = jax.jit(partial(_zeros, mesh.size), out_shardings=split_along_batch(mesh))
    total = jax.eval_shape(zeros, state.parameters)
    gradients = {
        stage: _gradient_program(losses[stage], weight, mesh).lower(state.parameters, total, batches[stage], state.step)
        for stage, weight in zip(stages, weights, strict=True)
    }
    updates = {flags: _update_program(config, flags, mesh).lower(state, total) for flags in set(used.values())}
    programs = _compiled(gradients | updates)
    return TrainStep(
        config,
        mesh,
        stages,
        probabilities,
        batch_sizes,
        {stage: programs[stage] for stage in stages},
        {stage: programs[flags] for stage, flags in used.items()},
        zeros,
    )


def _zeros(num_devices: int, parameters: Tree) -> Tree:
    """A total of no gradients."""
    return jax.tree.map(lambda leaf: jnp.zeros((num_devices, *leaf.shape), leaf.dtype), parameters)


def _loss(
    objective: Objective, config: TrainConfig, stage: Stage, parameters: Tree, batch: Batch, step: jax.Array
) -> jax.Array:
    """The mean loss of a stage's images; all that is random about one depends on (seed, step, its number in the step)."""
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    return objective.loss(stage, config.loss_weighting, parameters, batch, key)


def _gradient_program(loss: Callable, weight: float, mesh: jax.sharding.Mesh) -> Any:
    """(parameters, total, batch, step) -> (total + weight * gradient, loss); `total` is donated.

    Devices say nothing to each other but their losses.
    """

    def add_gradient(parameters: Tree, total: Tree, batch: Batch, step: jax.Array):
        value, gradient = jax.value_and_grad(loss)(parameters, batch, step)
        total = jax.tree.map(lambda a, b: a + weight / mesh.size * b, total, gradient)
        return total, jax.lax.pmean(value, "data")

    everywhere, shared = PartitionSpec(), PartitionSpec("data")
    # Without check_vma=False, the gradient of replicated parameters would be summed over the devices at once.
    on_each_device = jax.shard_map(
        add_gradient,
        mesh=mesh,
        in_specs=(everywhere, shared, shared, everywhere),
        out_specs=(shared, everywhere),
        check_vma=False,
    )
    return jax.jit(on_each_device, donate_argnums=1, compiler_options=COMPILER_OPTIONS)


def _update_program(config: TrainConfig, used: Sequence[bool], mesh: jax.sharding.Mesh) -> Any:
    """(state, total) -> state, which is donated."""

    def update(state: TrainState, total: Tree) -> TrainState:
        return updated(config, used, state, jax.tree.map(lambda each: each.sum(axis=0), total))

    everywhere = replicated(mesh)
    shardings = {"in_shardings": (everywhere, split_along_batch(mesh)), "out_shardings": everywhere}
    return jax.jit(update, **shardings, donate_argnums=0)


def _compiled(lowered: dict[Any, Any]) -> dict[Any, Any]:
    """All of them compiled, several at a time."""
    with ThreadPoolExecutor() as pool:
        jobs = {key: pool.submit(each.compile) for key, each in lowered.items()}
        for _ in tqdm(as_completed(jobs.values()), "compiling", len(jobs), unit="program"):
            pass
    return {key: job.result() for key, job in jobs.items()}


def _used(loss: Callable, parameters: Tree, *arguments) -> tuple[bool, ...]:
    """Which parameters, in flattened order, a loss reads at all."""
    jaxpr = jax.make_jaxpr(loss)(parameters, *arguments).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    return tuple(id(variable) in read for variable in jaxpr.invars[: len(jax.tree.leaves(parameters))])
