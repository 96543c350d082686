"""The programs that training and sampling of a config run on a mesh: how often, on what, and how to trace them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.build import AnyExperiment, Experiment, build_autoencoder
from ssd_jax.compilation import operations
from ssd_jax.config import AnyConfig, Config
from ssd_jax.data.encoding import LatentEncoding, decoded
from ssd_jax.network.autoencoder import AutoencoderConfig
from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.network.protocol import label_struct
from ssd_jax.process.stages import Stage
from ssd_jax.run.latents import outlined
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.noise import NoiseSource, seeded
from ssd_jax.sampling.parts import State
from ssd_jax.sharding import placed, replicated, shardings, split_along_batch
from ssd_jax.training.state import abstract_state
from ssd_jax.training.step import step_programs


@dataclass(frozen=True, eq=False)
class Program:
    """One compiled program.

    Attributes:
        name: of its stage, or what it does.
        images: that a device has in a run; 0 for programs that take none.
        runs: in a training step on average, or for a batch of samples (a stay stage runs once a network call here).
        flops: operations of a run on a device, counted on the lowered program.
        held: bytes of what else lies on a device meanwhile.
        precision: of its products, a key of `Machine.flops`.
        lower: traces it to a `jax.stages.Lowered`.
    """

    name: str
    images: int
    runs: float
    flops: float
    held: int
    precision: str
    lower: Callable[[], Any]


def built(config: AnyConfig) -> AnyExperiment:
    """What the config stands for; statistics of the data, which say nothing of costs, are 1."""
    return built_denoiser(config) if isinstance(config, Config) else build_autoencoder(config)


def built_denoiser(config: Config) -> Experiment:
    """`built` of the config of a denoiser."""
    experiment = outlined(config)
    return replace(experiment, statistics=DataStatistics((1.0,) * experiment.process.num_timesteps))


def training_programs(experiment: AnyExperiment, mesh: jax.sharding.Mesh) -> list[Program]:
    """Those of a training step, stages first, noisiest first. Raises InputError if the batch does not fit the devices."""
    config, objective = experiment.config.train, experiment.objective
    step = step_programs(objective, config, mesh)
    state = abstract_state(objective.parameters)
    held = bytes_on_device(state, shardings(state, mesh)) + bytes_of_encoding(experiment, mesh)
    precision = precision_of(experiment.config.model)
    shared = 0 if "gather" in step.lower else bytes_on_device(state.parameters, replicated(mesh))
    programs = []
    for stage, size, rate in zip(step.allocation.stages, step.allocation.batch_sizes, step.allocation.rates, strict=True):
        images = size // config.accumulate // mesh.size
        flops = images * objective.flops(stage)
        runs = rate * config.accumulate
        programs.append(Program(str(stage), images, runs, flops, held - shared, precision, step.lower[str(stage)]))
    own = {"gather": bytes_on_device(state.parameters, shardings(state.parameters, mesh)), "zeros": 0, "update": held}
    others = [name for name in own if name in step.lower]
    return programs + [Program(n, 0, 1.0, 0.0, held - own[n], precision, step.lower[n]) for n in others]


def sampling_programs(experiment: Experiment, mesh: jax.sharding.Mesh, num: int) -> list[Program]:
    """Those of drawing `num` images as `config.sample` says, noisiest first, and what makes pictures of latents."""
    process, channels = experiment.process, experiment.encoding.channels
    split, whole = split_along_batch(mesh), replicated(mesh)
    parameters = placed(experiment.abstract_parameters, whole)
    trained = Trained(experiment, experiment.denoiser(parameters), 0)
    denoise, plan, model = trained.guided(), trained.plan(), experiment.config.model
    noise: NoiseSource = placed(jax.eval_shape(partial(seeded, indices=np.arange(num)), abstract_key()), split)
    label = placed(label_struct(model, num), split)
    held, precision = bytes_of_encoding(experiment, mesh), precision_of(experiment.config.model)
    programs = []
    for part in plan.stages:
        if not part.calls:
            continue
        shape = (num, *process.level_shapes[part.stage.in_level], channels)
        x: Any = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=split)
        lower = part.program(denoise, State(x, (x,) * plan.carried), noise, label).lower
        flops = call_flops(denoise, part.stage, x.shape[1:], label_struct(model, 1))
        images = num // mesh.size
        programs.append(Program(str(part.stage), images, part.calls, images * flops, held, precision, lower))
    return programs + _decoding_programs(experiment, mesh, num)


def _decoding_programs(experiment: Experiment, mesh: jax.sharding.Mesh, num: int) -> list[Program]:
    """What makes pictures of `num` latents; nothing makes them of pixels."""
    encoding = experiment.encoding
    if not isinstance(encoding, LatentEncoding):
        return []
    one, autoencoder = (1, *encoding.shape, encoding.channels), encoding.autoencoder
    flops = operations(decoded.lower(autoencoder, jax.ShapeDtypeStruct(one, jnp.float32)))
    latents = jax.ShapeDtypeStruct((num, *one[1:]), jnp.float32, sharding=split_along_batch(mesh))
    lower = partial(decoded.lower, placed(autoencoder, replicated(mesh)), latents)
    held, images = bytes_on_device(experiment.abstract_parameters, replicated(mesh)), num // mesh.size
    return [Program("decode", images, 1.0, images * flops, held, precision_of(autoencoder.config), lower)]


def precision_of(model: Any) -> str:
    """Of the products of a network, a key of `Machine.flops`; those of autoencoders of float32 are exact."""
    if getattr(model, "dtype", "float32") == "bfloat16":
        return "bfloat16"
    return "highest" if isinstance(model, AutoencoderConfig) else getattr(model, "precision", "default")


def bytes_of_encoding(experiment: AnyExperiment, mesh: jax.sharding.Mesh) -> int:
    """Of the autoencoder that a run on latents keeps on every device."""
    encoding = experiment.encoding
    if not isinstance(encoding, LatentEncoding):
        return 0
    return bytes_on_device(encoding.autoencoder.parameters, replicated(mesh))


def held_by_grids(experiment: Experiment, mesh: jax.sharding.Mesh) -> int:
    """Bytes of the state on a device while samples are drawn from its average, which they take whole."""
    state = abstract_state(experiment.objective.parameters)
    held, where = bytes_on_device(state, shardings(state, mesh)), shardings(state.parameters, mesh)
    divided = any(not each.is_fully_replicated for each in jax.tree.leaves(where))
    return held if divided else held - bytes_on_device(state.parameters, where)


def call_flops(denoise: Any, stage: Stage, shape: tuple[int, ...], label: jax.ShapeDtypeStruct | None) -> float:
    """Operations of one network call for one image, guidance included."""
    parameters = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), denoise)
    x, t = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    call = jax.jit(lambda denoise, x, t, label: denoise(x, t, label, stage=stage))
    return operations(call.lower(parameters, x, t, label))


def abstract_key() -> jax.ShapeDtypeStruct:
    """Shape and type of a random key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def bytes_on_device(tree: Any, where: Any) -> int:
    """Bytes of one device's part of a tree of arrays, given their sharding or a tree of shardings."""
    leaves = jax.tree.leaves(placed(tree, where))
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
