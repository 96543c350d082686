"""Training: the state, the compiled programs of a step, the loop.

A step computes the gradient of each of its stages in a program of that stage alone, adds them up, and updates once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from ssd_jax.config import Config, ModelConfig, TrainConfig
from ssd_jax.errors import InputError
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.flexi_unet import FlexiUNet
from ssd_jax.network.parameterisation import Parameterisation
from ssd_jax.process.process import make_process
from ssd_jax.process.stages import Stage, make_stages, pick_stage, split_batch, stage_probabilities
from ssd_jax.sharding import put_batch, replicated, split_along_batch
from ssd_jax.training.loss import stage_loss

Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a training step replaces.

    Attributes:
        parameters: pure dict of float32 arrays.
        ema: their moving average.
        adam: an optax ScaleByAdamState per parameter, each with its own count, so that parameters off a step's path
            keep their moments and their bias correction.
        step: steps taken, int32.
        skipped: steps whose update was not finite and was left out, int32.
    """

    parameters: Tree
    ema: Tree
    adam: Tree
    step: Any
    skipped: Any

    def as_dict(self) -> dict[str, Tree]:
        """The state as a dict, for checkpoints."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


ADAM = optax.scale_by_adam(b2=0.99)  # short memory of the squared gradient, as EDM2 (Karras et al. 2024)


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef[FlexiUNet], dict]:
    """The network's static part and the shapes of its parameters; computes nothing."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: FlexiUNet(config, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def init_state(config: Config, mesh: jax.sharding.Mesh) -> TrainState:
    """A fresh TrainState, born on every device of the mesh."""

    def init() -> TrainState:
        key = jax.random.key(config.train.seed, impl="rbg")  # compiles in a quarter of threefry's time
        model = FlexiUNet(config.model, rngs=nnx.Rngs(key))
        parameters = nnx.to_pure_dict(nnx.state(model))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(parameters, jax.tree.map(jnp.copy, parameters), jax.tree.map(ADAM.init, parameters), zero, zero)

    return jax.jit(init, out_shardings=replicated(mesh))()


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up, then constant or cosine decay to 0 at `steps`; counts the steps taken, the present one included."""
    warmup = max(config.warmup_steps, 1)  # optax takes 0 for never
    if not config.cosine_decay:
        return optax.warmup_constant_schedule(0.0, config.learning_rate, warmup)
    warmup = min(warmup, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)


@dataclass(frozen=True, eq=False)
class TrainStep:
    """The compiled programs of training: one gradient program per stage, one update per set of parameters that stages use.

    Attributes:
        stages: all stages of the process.
        probabilities: that an image belongs to each, [stages].
        batch_sizes: images that the program of each stage takes, over all devices.
        gradients: (parameters, total, batch, step) -> total + weighted gradient, loss.
        updates: (state, gradient) -> state; one for each stage in "single" stage sampling, one under None in "mixed".
        zeros: parameters -> zeros like them.
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
        if self.config.stage_sampling == "single":
            chosen = pick_stage(self.stages, self.probabilities, self.config.seed, step)
            parts = {chosen: batch}
        else:
            chosen = None
            ends = np.cumsum(self.batch_sizes)[:-1] // jax.process_count()
            split = {name: np.split(array, ends) for name, array in batch.items()}
            parts = {stage: {name: split[name][i] for name in batch} for i, stage in enumerate(self.stages)}
        gradient, losses = self.zeros(state.parameters), {}
        for stage, part in parts.items():
            gradient, losses[str(stage)] = self.gradients[stage](
                state.parameters, gradient, put_batch(part, self.mesh), state.step
            )
        return self.updates[chosen](state, gradient), losses


def stage_batch_sizes(config: Config, mesh: jax.sharding.Mesh) -> tuple[int, ...]:
    """Images per step that the program of each stage takes, over all devices.

    Raises:
        InputError: if train.batch_size does not fit the stages and the devices.
    """
    train, stages = config.train, make_stages(make_process(config.process))
    if train.stage_sampling == "mixed":
        sizes = split_batch(train.batch_size, stage_probabilities(stages, train.up_share), mesh.size)
        return tuple(sizes.tolist())
    if train.batch_size % mesh.size:
        raise InputError(f"train.batch_size is {train.batch_size}, but must be a multiple of the {mesh.size} device(s)")
    return (train.batch_size,) * len(stages)


def compile_train_step(config: Config, mesh: jax.sharding.Mesh) -> TrainStep:
    """Compiles every program that training will need, several at a time, under a progress bar.

    Raises:
        InputError: if the batch size does not fit the stages and devices.
    """
    process, train = make_process(config.process), config.train
    graphdef, _ = abstract_model(config.model)
    stages = make_stages(process)
    probabilities = stage_probabilities(stages, train.up_share)
    batch_sizes = stage_batch_sizes(config, mesh)
    mixed = train.stage_sampling == "mixed"
    weights = dict(zip(stages, probabilities.tolist(), strict=True)) if mixed else dict.fromkeys(stages, 1.0)

    def loss(stage: Stage, parameters: Tree, batch: dict[str, jax.Array], step: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(train.seed), step), stages.index(stage))
        images = batch["image"].astype(jnp.float32) / 127.5 - 1
        denoiser = Denoiser(parameters, graphdef, Parameterisation())
        dropping: Any = {"label_dropout": config.model.label_dropout, "null_label": config.model.null_label}
        return stage_loss(denoiser, process, stage, images, batch.get("label"), key, train.loss_weighting, **dropping)

    def add_gradient(stage: Stage, parameters: Tree, total: Tree, batch: dict[str, jax.Array], step: jax.Array):
        value, gradient = jax.value_and_grad(partial(loss, stage))(parameters, batch, step)
        return jax.tree.map(lambda a, b: a + weights[stage] * b, total, gradient), value

    everywhere, along_batch = replicated(mesh), split_along_batch(mesh)
    state = jax.eval_shape(partial(init_state, config, mesh))
    batches = {stage: _abstract_batch(config, size) for stage, size in zip(stages, batch_sizes, strict=True)}
    used = {s: _used(partial(loss, s), state.parameters, batches[s], state.step) for s in stages}
    if mixed:
        used = {None: tuple(any(flags) for flags in zip(*used.values(), strict=True))}
    gradients = {
        stage: jax.jit(
            partial(add_gradient, stage),
            in_shardings=(everywhere, everywhere, along_batch, everywhere),
            out_shardings=everywhere,
            donate_argnums=1,
        ).lower(state.parameters, state.parameters, batches[stage], state.step)
        for stage in stages
    }
    distinct = {
        flags: jax.jit(
            partial(_update, train, flags), in_shardings=everywhere, out_shardings=everywhere, donate_argnums=0
        ).lower(state, state.parameters)
        for flags in set(used.values())
    }

    with ThreadPoolExecutor() as pool:
        jobs = {key: pool.submit(lowered.compile) for key, lowered in (gradients | distinct).items()}
        for _ in tqdm(as_completed(jobs.values()), "compiling", len(jobs), unit="program"):
            pass
    programs = {key: job.result() for key, job in jobs.items()}
    return TrainStep(
        train,
        mesh,
        stages,
        probabilities,
        batch_sizes,
        {stage: programs[stage] for stage in stages},
        {stage: programs[flags] for stage, flags in used.items()},
        jax.jit(partial(jax.tree.map, jnp.zeros_like), out_shardings=everywhere),
    )


def _abstract_batch(config: Config, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    side = config.process.image_size
    batch = {"image": jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8)}
    if config.model.num_classes:
        batch["label"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    return batch


def _used(loss: Callable, parameters: Tree, *arguments) -> tuple[bool, ...]:
    """Which parameters, in flattened order, a loss reads at all."""
    jaxpr = jax.make_jaxpr(loss)(parameters, *arguments).jaxpr
    read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
    return tuple(id(variable) in read for variable in jaxpr.invars[: len(jax.tree.leaves(parameters))])


def _update(config: TrainConfig, used: Sequence[bool], state: TrainState, gradient: Tree) -> TrainState:
    """Clips, takes an Adam step on the parameters that are used, averages; leaves all as it was if not finite."""
    finite = jnp.isfinite(optax.tree.norm(gradient))
    gradient, _ = optax.clip_by_global_norm(config.gradient_clip).update(gradient, optax.EmptyState())
    rate = jnp.asarray(learning_rate(config)(state.step + 1))
    parameters, structure = jax.tree.flatten(state.parameters)
    adam, ema = structure.flatten_up_to(state.adam), structure.flatten_up_to(state.ema)
    decay = jnp.minimum(config.ema_decay, (1 + state.step) / (10 + state.step))  # forget the random start
    for i, g in enumerate(structure.flatten_up_to(gradient)):
        if used[i]:
            update: tuple[Any, Any] = ADAM.update(g, adam[i])
            stepped, moments = parameters[i] - rate * update[0], update[1]
            parameters[i], adam[i] = jax.tree.map(partial(jnp.where, finite), (stepped, moments), (parameters[i], adam[i]))
        averaged = decay * ema[i] + (1 - decay) * parameters[i]
        ema[i] = jnp.where(finite, averaged, ema[i])
    rebuild = structure.unflatten
    return TrainState(
        rebuild(parameters), rebuild(ema), rebuild(adam), state.step + 1, state.skipped + (1 - finite.astype(jnp.int32))
    )
