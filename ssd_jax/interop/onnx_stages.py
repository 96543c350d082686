"""A model in ONNX: a graph for each stage of its process, and one file that holds the weights of all of them.

    stay2.onnx, up2to1.onnx, ..     named as stages are; x, t and, of a network with classes, label -> z:
        x       float32 [batch, h, w, channels], states at stage.in_level, batches of any size
        t       int32 [batch], their timesteps, t_min .. t_max of the stage
        label   int32 [batch]
        z       float32 [batch, height, width, channels], the prediction at stage.out_level, neither guided nor clipped
    weights.bin                     ONNX's external data: an array stands there once, whichever graphs read it
    digest.json                     the digest of the parameters that were exported, as `Trained.digest`

All operators are ONNX's own. Converting asks for jax2onnx (`launch/onnx_environment.sh`), running only for onnxruntime.
"""

import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.build import build
from ssd_jax.errors import InputError, one_line
from ssd_jax.files.json_file import write_json
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.directions import MatrixFreeDirections
from ssd_jax.network.protocol import null_label
from ssd_jax.process.stages import Stage
from ssd_jax.run.quantization import Quantized, is_quantized, quantize, rounded
from ssd_jax.run.suitability import check_draws_pixels, check_labels_are_classes
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.denoise import Denoise, as_pytree

OPSET = 21
WEIGHTS, DIGEST = "weights.bin", "digest.json"
PLAIN = {"dtype": "float32", "precision": "highest", "remat": "none"}  # of a network's settings
ALIGNMENT = 64  # bytes; what is smaller stays in the graphs
NEEDED = (
    "jax2onnx is not installed; it asks for another orbax-checkpoint than ssd_jax and gets an environment of its own: "
    "bash launch/onnx_environment.sh FOLDER, then the same command with FOLDER/bin/python"
)


def exportable(trained: Trained) -> Denoiser:
    """The network as graphs compute it: in float32, whatever it was trained in.

    Raises:
        InputError: if a stage cannot be said in ONNX, or samples are latents.
    """
    check_draws_pixels(trained.experiment, "ONNX")
    check_labels_are_classes(trained.experiment, "ONNX")
    if any(isinstance(each, MatrixFreeDirections) for each in trained.network.parameterisation.directions.values()):
        raise InputError(
            f"denoiser.parameterisation is {trained.config.denoiser.parameterisation!r}, which ONNX cannot have where "
            f"process.operator, here {trained.config.process.operator!r}, is only a function; train with 'x0', or with "
            "an operator of one matrix per axis"
        )
    model: Any = trained.config.model
    plain = {name: value for name, value in PLAIN.items() if hasattr(model, name)}
    config = replace(trained.config, model=replace(model, **plain))
    return build(config, trained.experiment.statistics).denoiser(trained.network.parameters)


def export_stages(trained: Trained, folder: pathlib.Path, quantize: str | None = None) -> Denoiser:
    """Writes the graphs of all stages and their weights.

    Args:
        trained: the model.
        folder: is made.
        quantize: what `folder` holds kernels as, of `run.quantization.QUANTIZED`, or None; computed with is float32 always.

    Returns:
        The same model in JAX, its weights as rounded as the graphs'.

    Raises:
        InputError: for another kind, without jax2onnx, and for what cannot be said in ONNX.
    """
    network = exportable(trained)
    parameters: dict = network.parameters
    network = replace(network, parameters=rounded(parameters, quantize))
    quantized = dict(_quantized(parameters, quantize))
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[bytes, tuple[int, int]] = {}
    with open(folder / WEIGHTS, "wb") as weights:
        for stage in trained.process.stages:
            shape = (*trained.process.level_shape(stage.in_level), trained.encoding.channels)
            model = _graph(network, stage, shape, bool(trained.config.model.num_classes))
            _move_weights(model, quantized, weights, places)
            (folder / f"{stage}.onnx").write_bytes(model.SerializeToString())
    write_json(folder / DIGEST, {"digest": trained.digest})
    return network


def _graph(network: Denoiser, stage: Stage, shape: tuple[int, ...], has_classes: bool) -> Any:
    """The `onnx.ModelProto` of a stage, whose states are of a shape [h, w, channels]."""
    to_onnx, names = _needed("jax2onnx").to_onnx, ["x", "t", "label"][: 2 + has_classes]
    numbers = jax.ShapeDtypeStruct(("batch",), jnp.int32)
    inputs = [jax.ShapeDtypeStruct(("batch", *shape), jnp.float32), numbers, numbers][: len(names)]
    options: dict[str, Any] = {"opset": OPSET, "input_names": names, "output_names": ["z"], "model_name": str(stage)}
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it tells of every array whose type it finds later
    try:
        with warnings.catch_warnings(action="ignore"):  # of float64, which it asks for in vain
            model = to_onnx(lambda x, t, label=None: network(x, t, label, stage=stage), inputs, **options)
    except Exception as error:  # whatever jax2onnx meets in networks of one's own
        raise InputError(
            f"stage {stage} cannot be said in ONNX: jax2onnx has {type(error).__name__}: {one_line(error)}; write the "
            "network with other operations"
        ) from error
    del model.graph.value_info[:]  # shapes in between, which whoever loads the graph infers
    return model


def _move_weights(model: Any, quantized: dict, weights: IO[bytes], places: dict[bytes, tuple[int, int]]) -> None:
    """Moves the arrays of a graph to `weights`, kernels quantized; `places` are the offset and length of those there."""
    onnx = _needed("onnx")

    def move(tensor: Any) -> Any:
        data = tensor.raw_data
        if len(data) < ALIGNMENT or tensor.data_type == onnx.TensorProto.INT64:  # shapes and axes, which loaders look at
            return tensor
        if data not in places:
            weights.write(bytes(-weights.tell() % ALIGNMENT))
            places[data] = weights.tell(), len(data)
            weights.write(data)
        onnx.external_data_helper.set_external_data(tensor, WEIGHTS, *places[data])
        tensor.ClearField("raw_data")
        return tensor

    graph, tensors, restoring = model.graph, [], []
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        kernel = quantized.get(_content(array))
        if kernel is None:
            tensors.append(move(onnx.numpy_helper.from_array(array, tensor.name)))
            continue
        # Not DequantizeLinear: for that onnxruntime rounds activations, too. These are done once, when a graph is loaded.
        numbers, scale, in_float32 = (f"{tensor.name}_{part}" for part in ("numbers", "scale", "unscaled"))
        tensors.append(move(onnx.numpy_helper.from_array(kernel.numbers, numbers)))
        name = tensor.name if kernel.scale is None else in_float32
        restoring.append(onnx.helper.make_node("Cast", [numbers], [name], to=onnx.TensorProto.FLOAT))
        if kernel.scale is not None:
            tensors.append(move(onnx.numpy_helper.from_array(kernel.scale, scale)))
            restoring.append(onnx.helper.make_node("Mul", [in_float32, scale], [tensor.name]))
    nodes = [*restoring, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


def _quantized(parameters: dict, kind: str | None) -> Iterator[tuple[Any, Quantized]]:
    """Every rounded array, in the layouts that graphs have it in, and what it is to be stored as."""
    for array in map(np.asarray, jax.tree.leaves(parameters)):
        if kind is not None and is_quantized(array):
            layouts = [(array, -1)]
            if array.ndim == 4:
                layouts.append((np.ascontiguousarray(array.transpose(3, 2, 0, 1)), 0))  # of ONNX's convolutions
            for layout, axis in layouts:
                kernel = quantize(layout, kind, axis)
                yield _content(kernel.restored()), kernel


def _content(array: np.ndarray) -> tuple:
    return array.dtype, array.shape, array.tobytes()


def onnx_denoiser(folder: pathlib.Path) -> Denoise:
    """The denoiser that the graphs in a folder make, run by onnxruntime: for `ssd_jax.sample`, guidance and checks.

    Raises:
        InputError: without onnxruntime.
    """
    session: Callable = _needed("onnxruntime").InferenceSession
    sessions = {path.stem: session(path, providers=["CPUExecutionProvider"]) for path in sorted(folder.glob("*.onnx"))}

    def denoise(x, t, label=None, *, stage: Stage):
        graph = sessions[str(stage)]
        inputs = [x, t.astype(jnp.int32), *([] if label is None else [label.astype(jnp.int32)])]
        (z,) = graph.get_outputs()
        shape = jax.ShapeDtypeStruct((len(x), *z.shape[1:]), jnp.float32)

        def run(*arrays):
            return graph.run(None, dict(zip(("x", "t", "label"), map(np.asarray, arrays), strict=False)))[0]

        return jax.pure_callback(run, shape, *inputs)

    return denoise


def greatest_differences(one: Denoise, other: Denoise, trained: Trained) -> dict[Stage, float]:
    """Between two denoisers, of any pixel of z, by stage: for white noise at both ends of the stage."""
    differences = {}
    for stage in trained.process.stages:
        shape = (2, *trained.process.level_shape(stage.in_level), trained.encoding.channels)
        x = jax.random.normal(jax.random.key(0), shape)
        t, config = jnp.array([stage.t_min, stage.t_max]), trained.config
        label = jnp.array([0, null_label(config.model) or config.num_classes - 1]) if config.num_classes else None
        z, expected = (_call(as_pytree(denoise), x, t, label, stage=stage) for denoise in (one, other))
        differences[stage] = float(jnp.abs(z - expected).max())
    return differences


@partial(jax.jit, static_argnames="stage")
def _call(denoise, x, t, label, *, stage):
    return denoise(x, t, label, stage=stage)


def check_installed() -> None:
    """Raises InputError unless what converts and runs is installed."""
    for name in ("jax2onnx", "onnxruntime"):
        _needed(name)


def _needed(name: str) -> Any:
    """A package of the ONNX environment. Raises InputError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(NEEDED) from error
