"""Bundles: a folder with all that drawing takes where there is no ssd_jax. One program for each stage, as StableHLO.

config.json, statistics.json   what the model is
model.safetensors              its averaged weights (`run.weights`): so far a folder that `load` reads
README.md                      a model card
STAGE.stablehlo                a part of the plan: (weights, keys, labels, x, earlier, tables) -> (x, earlier)
plan.safetensors               the tables of its parts, STAGE.0, STAGE.1 ..
manifest.json                  the stages in their order, versions, and the SHA-256 of all files that are read, its own too
standalone.py                  reads it and draws; a copy of `interop.standalone`, which needs jax and flatbuffers
"""

import hashlib
import pathlib
import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import save

from ssd_jax.data.encoding import LatentEncoding
from ssd_jax.errors import InputError, checked_arguments, few, one_line
from ssd_jax.files.json_file import json_text, write_json
from ssd_jax.files.paths import Path, check_new, new_folder, to_path
from ssd_jax.interop import standalone
from ssd_jax.interop.model_card import model_card
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.protocol import label_struct
from ssd_jax.run.autoencoder import of_weights
from ssd_jax.run.labels import keep_labels
from ssd_jax.run.latents import keep_autoencoder
from ssd_jax.run.suitability import check_draws_pixels, check_labels_are_classes, check_prior_is_noise
from ssd_jax.run.trained import Trained
from ssd_jax.run.weights import named_in_files, write_weights
from ssd_jax.run.workdir import WEIGHTS, claim_workdir
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.noise import NoiseSource
from ssd_jax.sampling.parts import MatrixFreeUpPlan, Part, State
from ssd_jax.sampling.plan import Plan

PLATFORMS = ("cpu", "cuda", "tpu")
PLAN, MANIFEST = "plan.safetensors", "manifest.json"
DRAWN = ("denoise", "x", "earlier", "noise", "label")  # what a part's program takes that is no table of the plan


@checked_arguments
def write_bundle(
    trained: Trained, denoise: Denoise, plan: Plan, folder: str | Path, quantize: str | None = None
) -> dict[str, int]:
    """Writes a bundle, whole or not at all.

    Args:
        trained: the model.
        denoise: one of `trained.guided`, or any function of its `network`: the weights of that are read from the file, all
            else that it holds becomes part of the programs.
        plan: of the model's process, from T - 1.
        folder: must be empty or new.
        quantize: what weights are stored as, see `run.quantization`; computed with is float32 or what the network says.

    Returns:
        Bytes of its files by name.

    Raises:
        InputError: if the folder is taken, plan or denoiser are another's, the process does not end in noise, samples are
            latents, or a program cannot be exported.
    """
    folder = to_path(folder)
    check_new(folder)
    process = trained.process
    check_prior_is_noise(trained.experiment, "a bundle")
    check_draws_pixels(trained.experiment, "a bundle")
    check_labels_are_classes(trained.experiment, "a bundle")
    if plan.process is not process or plan.timesteps[0] != process.num_timesteps - 1:
        raise InputError("the plan is of another process, or does not begin at T - 1; make it by trained.plan()")
    if not any(_is_of(trained, each) for each in jax.tree.leaves(denoise, is_leaf=partial(_is_of, trained))):
        raise InputError(
            "denoise does not hold the network of trained, whose weights a bundle has; make it by trained.guided()"
        )
    functions = [str(part.stage) for part in plan.stages if isinstance(part, MatrixFreeUpPlan)]
    if functions:
        raise InputError(
            f"the operator of {few(functions)} is only a function, which programs of any batch size cannot hold; write "
            "it as a SeparableOperator if it is one, or draw with ssd_jax, whose folder of weights `write_model` writes"
        )
    exported, tables = {}, {}
    for part in plan.stages:
        exported[str(part.stage)], own = _export(part, denoise, trained, plan.carried)
        tables |= {f"{part.stage}.{i}": table for i, table in enumerate(own)}
    with new_folder(folder) as made:
        write_model(trained, made, quantize)
        for name, program in exported.items():
            (made / f"{name}.stablehlo").write_bytes(program.serialize())
        (made / PLAN).write_bytes(save(tables))
        shutil.copy(standalone.__file__, made / "standalone.py")
        read = [WEIGHTS, PLAN, *(f"{name}.stablehlo" for name in exported)]
        config = trained.config
        manifest = {
            "format": standalone.FORMAT,
            "jax": jax.__version__,
            "calling_convention": max(each.calling_convention_version for each in exported.values()),
            "platforms": PLATFORMS,
            "stages": list(exported),
            "start": [*process.level_shape(process.used_levels[-1]), trained.encoding.channels],
            "timesteps": process.num_timesteps,
            "carried": plan.carried,
            "classes": config.data.classes or [str(i) for i in range(config.model.num_classes)],
        }
        digested = {name: (made / name).read_bytes() for name in read} | {MANIFEST: json_text(manifest).encode()}
        sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in digested.items()}
        write_json(made / MANIFEST, manifest | {"sha256": sha256})
        return {path.name: path.stat().st_size for path in sorted(made.iterdir())}


def write_model(trained: Trained, folder: pathlib.Path, quantize: str | None = None) -> None:
    """Writes what `load` reads, and a model card. Arguments and errors as of `write_bundle`."""
    experiment = trained.experiment
    claim_workdir(folder, experiment.config, experiment.statistics)
    keep_labels(folder, experiment.labels)
    if isinstance(experiment.encoding, LatentEncoding):
        keep_autoencoder(folder, of_weights(experiment.encoding.autoencoder))
    (folder / "README.md").write_text(model_card(trained, quantize), encoding="utf-8")
    write_weights(folder / WEIGHTS, experiment, trained.network.parameters, trained.step, quantize)


def _export(part: Part, denoise: Denoise, trained: Trained, carried: int) -> tuple[export.Exported, list[np.ndarray]]:
    """The program of a part, of any number of images, and the tables of the plan that it takes."""
    process, parameters = trained.process, trained.network.parameters
    (batch,) = export.symbolic_shape("batch")
    shape = (batch, *process.level_shape(part.stage.in_level), trained.encoding.channels)
    x, keys = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((batch, 2), jnp.uint32)
    label = label_struct(trained.config.model, batch)
    program = part.program(denoise, State(x, (x,) * carried), NoiseSource(keys, None), label)
    tables, structure = jax.tree.flatten({name: each for name, each in program.arguments.items() if name not in DRAWN})
    tables = [np.array(table, jax.dtypes.canonicalize_dtype(table.dtype), order="C") for table in tables]

    def run(weights, keys, label, x, earlier, tables):
        noise = NoiseSource(jax.random.wrap_key_data(keys)[:, None], jnp.ones((keys.shape[0], 1)))
        drawn = {"denoise": _with_weights(denoise, trained, weights), "noise": noise, "label": label}
        drawn |= {"x": x, "earlier": earlier} | structure.unflatten(tables)
        return program.function.__wrapped__(**drawn, **program.static, chunk=None)

    weights = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in named_in_files(parameters).items()}
    try:
        program_of_all = export.export(jax.jit(run), platforms=PLATFORMS)
        return program_of_all(weights, keys, label, x, (x,) * carried, tables), tables
    except Exception as error:  # of functions of a user's, and of JAX
        raise InputError(
            f"the program of {part.stage} cannot be exported: {one_line(error)}; functions of your own must be traceable "
            "for a batch of any size"
        ) from error


def _with_weights(denoise: Denoise, trained: Trained, weights: dict[str, Any]) -> Any:
    """`denoise` with other parameters in place of those of the trained network."""
    own = trained.network.parameters
    parameters = jax.tree.structure(own).unflatten([weights[name] for name in named_in_files(own)])

    def changed(each: Any) -> Any:
        return replace(each, parameters=parameters) if _is_of(trained, each) else each

    return jax.tree.map(changed, denoise, is_leaf=partial(_is_of, trained))


def _is_of(trained: Trained, each: Any) -> bool:
    """Whether something is the network of the trained model."""
    return isinstance(each, Denoiser) and each.parameters is trained.network.parameters
