"""Inception-v3 as the FID uses it: the TensorFlow graph of 2015-12-05 (Szegedy et al. 2015; Heusel et al. 2017).

It is not the Inception-v3 of today's libraries: average pools leave their padding out, the last block pools by the
maximum, there are 1008 classes. Layers have the names that they have in the PyTorch file of these weights.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import Precision
from jax.tree_util import Partial
from jaxtyping import Array, Float, UInt8

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.npz import read_npz
from ssd_jax.files.paths import Path, cache_folder, to_path, write_atomically
from ssd_jax.files.torch_file import read_torch_file
from ssd_jax.metrics.features import FeatureSet

NAME = "inception-2015"
SIZE = 299  # pixels on a side that the network sees
CLASSES = 1008
SPATIAL_CHANNELS = 7
TENSORS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")  # of a layer in the PyTorch file
EPSILON = 1e-3  # of the batch normalisations
SOURCE = (
    "download pt_inception-2015-12-05-6726825d.pth from the releases of the GitHub project mseitzer/pytorch-fid and run: "
    "python -m launch.import_inception --weights pt_inception-2015-12-05-6726825d.pth"
)


class Conv(NamedTuple):
    """A convolution with bias, then ReLU. Keeps the size if the stride is 1 and it is not `cropped`."""

    name: str
    width: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    cropped: bool = False


class Pool(NamedTuple):
    """Over 3x3 pixels. With stride 1 it keeps the size."""

    kind: Literal["average", "maximum"]
    stride: int = 1


class Block(NamedTuple):
    """Paths from one input, their outputs concatenated. Names of layers inside begin with `prefix`."""

    prefix: str
    paths: tuple["Layers", ...]


Layers = tuple[Conv | Pool | Block, ...]
AVERAGE, MAXIMUM, SHRINK = Pool("average"), Pool("maximum"), Pool("maximum", 2)


def _reduce(name: str, width: int) -> Conv:
    return Conv(name, width, (3, 3), stride=2, cropped=True)


def _block_a(prefix: str, pool_width: int) -> Block:
    wide = (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5)))
    double = (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3)))
    return Block(prefix, ((Conv("branch1x1", 64),), wide, double, (AVERAGE, Conv("branch_pool", pool_width))))


def _block_b(prefix: str) -> Block:
    double = (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), _reduce("branch3x3dbl_3", 96))
    return Block(prefix, ((_reduce("branch3x3", 384),), double, (SHRINK,)))


def _block_c(prefix: str, width: int) -> Block:
    single = (Conv("branch7x7_1", width), Conv("branch7x7_2", width, (1, 7)), Conv("branch7x7_3", 192, (7, 1)))
    double = (
        Conv("branch7x7dbl_1", width),
        Conv("branch7x7dbl_2", width, (7, 1)),
        Conv("branch7x7dbl_3", width, (1, 7)),
        Conv("branch7x7dbl_4", width, (7, 1)),
        Conv("branch7x7dbl_5", 192, (1, 7)),
    )
    return Block(prefix, ((Conv("branch1x1", 192),), single, double, (AVERAGE, Conv("branch_pool", 192))))


def _block_d(prefix: str) -> Block:
    triple = (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        _reduce("branch7x7x3_4", 192),
    )
    return Block(prefix, ((Conv("branch3x3_1", 192), _reduce("branch3x3_2", 320)), triple, (SHRINK,)))


def _block_e(prefix: str, pool: Pool) -> Block:
    def cross(horizontal: str, vertical: str) -> Block:
        return Block("", ((Conv(horizontal, 384, (1, 3)),), (Conv(vertical, 384, (3, 1)),)))

    single = (Conv("branch3x3_1", 384), cross("branch3x3_2a", "branch3x3_2b"))
    double = (
        Conv("branch3x3dbl_1", 448),
        Conv("branch3x3dbl_2", 384, (3, 3)),
        cross("branch3x3dbl_3a", "branch3x3dbl_3b"),
    )
    return Block(prefix, ((Conv("branch1x1", 320),), single, double, (pool, Conv("branch_pool", 192))))


TO_SPATIAL: Layers = (
    _reduce("Conv2d_1a_3x3", 32),
    Conv("Conv2d_2a_3x3", 32, (3, 3), cropped=True),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    SHRINK,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), cropped=True),
    SHRINK,
    _block_a("Mixed_5b.", 32),
    _block_a("Mixed_5c.", 64),
    _block_a("Mixed_5d.", 64),
    _block_b("Mixed_6a."),
    _block_c("Mixed_6b.", 128),
    _block_c("Mixed_6c.", 160),
    _block_c("Mixed_6d.", 160),
)
TO_POOL: Layers = (
    _block_c("Mixed_6e.", 192),
    _block_d("Mixed_7a."),
    _block_e("Mixed_7b.", AVERAGE),
    _block_e("Mixed_7c.", MAXIMUM),
)


class InceptionV3(nnx.Module):
    """The network, its batch normalisations folded into the convolutions before them."""

    def __init__(self, *, rngs: nnx.Rngs):
        convolutions: dict[str, nnx.Conv] = {}
        width = _build(TO_SPATIAL + TO_POOL, 3, "", convolutions, rngs)
        self.convolutions = nnx.Dict(convolutions)
        self.logits = nnx.Linear(width, CLASSES, use_bias=False, precision=Precision.HIGHEST, rngs=rngs)

    def __call__(self, images: UInt8[Array, "n h w 3"]) -> dict[str, Float[Array, "n _"]]:
        """Features of images of any size, which it resizes bilinearly without antialiasing, as pytorch-fid does.

        Returns:
            float32 by name: "pool" [n, 2048], the average of the last block; "spatial" [n, 2023], the first 7 channels of
            mixed_6/conv at 17x17 pixels (Nash et al. 2021); "probabilities" [n, 1008] of the classes, from logits without
            bias. The latter two as in ADM (Dhariwal & Nichol 2021).
        """
        x = _apply(TO_SPATIAL, 2 * resize(images) - 1, "", self.convolutions)
        spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        pool = _apply(TO_POOL, x, "", self.convolutions).mean(axis=(1, 2))
        return {"pool": pool, "spatial": spatial, "probabilities": nnx.softmax(self.logits(pool))}


def resize(images: UInt8[Array, "n h w 3"]) -> Float[Array, "n 299 299 3"]:
    """Bilinear between the two nearest pixels on either axis, whose centres are at halves; into [0, 1]."""
    return jax.image.resize(images.astype(jnp.float32) / 255, (len(images), SIZE, SIZE, 3), "bilinear", antialias=False)


def _build(layers: Layers, width: int, prefix: str, convolutions: dict[str, nnx.Conv], rngs: nnx.Rngs) -> int:
    """Adds the convolutions of layers whose input has `width` channels; returns the number of channels that come out."""
    for layer in layers:
        match layer:
            case Conv(name, out_width, window, stride, cropped):
                padding = "VALID" if cropped else "SAME"
                convolutions[prefix + name] = nnx.Conv(
                    width, out_width, window, stride, padding=padding, precision=Precision.HIGHEST, rngs=rngs
                )
                width = out_width
            case Block(inner, paths):
                width = sum(_build(path, width, prefix + inner, convolutions, rngs) for path in paths)
    return width


def _apply(layers: Layers, x: Float[Array, "n _ _ _"], prefix: str, convolutions) -> Float[Array, "n _ _ _"]:
    for layer in layers:
        match layer:
            case Conv(name):
                x = nnx.relu(convolutions[prefix + name](x))
            case Pool("average"):
                x = nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
            case Pool("maximum", stride):
                x = nnx.max_pool(x, (3, 3), (stride, stride), padding="SAME" if stride == 1 else "VALID")
            case Block(inner, paths):
                x = jnp.concatenate([_apply(path, x, prefix + inner, convolutions) for path in paths], axis=-1)
    return x


def inception_features(weights_path: str | Path | None = None) -> FeatureSet:
    """The features of Inception-v3, float32 whatever the accelerator's default: "pool", "spatial" and "probabilities".

    Args:
        weights_path: as `import_weights` writes it; by default `default_weights_path()`.

    Raises:
        InputError: if there is no such file, or it is another one; the message says where to get the weights.
    """
    path = to_path(weights_path or default_weights_path())
    try:
        weights, abstract = read_npz(path), _abstract()[1]
        parameters = jax.tree.map_with_path(lambda where, leaf: _parameter(weights[_name(where)], leaf.shape), abstract)
    except FileNotFoundError as error:
        raise InputError(f"Inception-v3 has no weights at {str(path)!r}; {SOURCE}") from error
    except Exception as error:  # a file that is not the right .npz raises almost anything
        raise InputError(f"{str(path)!r} does not hold the weights of Inception-v3; {SOURCE}") from error
    return FeatureSet(NAME, Partial(_run, parameters))


def _parameter(weight: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """Raises ValueError unless the weights are finite float32 numbers of this shape."""
    if weight.shape != shape or weight.dtype != np.float32 or not np.isfinite(weight).all():
        raise ValueError("weights of another network")
    return jnp.asarray(weight)


def _run(parameters: dict, images: UInt8[Array, "n h w 3"]) -> dict[str, Float[Array, "n _"]]:
    return nnx.merge(_abstract()[0], parameters)(images)


def _abstract() -> tuple[nnx.GraphDef, dict]:
    """The network's static part and the shapes of its parameters, a pure dict; computes nothing."""
    graph, state = nnx.split(nnx.eval_shape(lambda: InceptionV3(rngs=nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)


def _name(where: tuple) -> str:
    """Layer and parameter in files, e.g. "Mixed_5b.branch1x1.kernel", of a path in the pure dict."""
    return ".".join(key.key for key in where[-2:])


def default_weights_path() -> pathlib.Path:
    """Where `launch.import_inception` leaves the weights and `inception_features` looks for them."""
    return cache_folder() / f"{NAME}.npz"


def import_weights(source: str | Path, path: str | Path) -> None:
    """Converts the weights of pytorch-fid; PyTorch is not needed.

    Args:
        source: pt_inception-2015-12-05-6726825d.pth.
        path: the .npz to write, whole or not at all.

    Raises:
        InputError: if `source` cannot be read or is of another network.
    """
    tensors = read_torch_file(source)
    leaves, _ = jax.tree.flatten_with_path(_abstract()[1])
    kernels = {_name(where): leaf.shape for where, leaf in leaves if _name(where).endswith(".kernel")}
    _check(tensors, kernels, source)
    weights = {"logits.kernel": tensors["fc.weight"].T.astype(np.float32)}
    for kernel in kernels.keys() - weights.keys():
        layer = kernel.removesuffix(".kernel")
        window, weight, bias, mean, variance = (tensors[f"{layer}.{name}"].astype(np.float64) for name in TENSORS)
        scale = weight / np.sqrt(variance + EPSILON)
        weights[kernel] = (window.transpose(2, 3, 1, 0) * scale).astype(np.float32)
        weights[f"{layer}.bias"] = (bias - mean * scale).astype(np.float32)
    if not all(np.isfinite(weight).all() for weight in weights.values()):
        raise InputError(f"{str(source)!r} holds weights that are not finite; {SOURCE}")
    write_atomically(to_path(path), lambda file: np.savez(file, allow_pickle=False, **weights))


def _check(tensors: Mapping[str, Any], kernels: Mapping[str, tuple[int, ...]], source: str | Path) -> None:
    """Raises InputError unless the tensors are those of the network with these kernels."""
    shapes = {"fc.weight": kernels["logits.kernel"][::-1], "fc.bias": (CLASSES,)}
    for kernel in kernels.keys() - {"logits.kernel"}:
        height, width, channels_in, channels_out = kernels[kernel]
        layer = kernel.removesuffix(".kernel")
        shapes |= {f"{layer}.{name}": (channels_out,) for name in TENSORS[1:]}
        shapes[f"{layer}.{TENSORS[0]}"] = (channels_out, channels_in, height, width)
    named = {str(name): tensor for name, tensor in tensors.items() if not str(name).endswith("num_batches_tracked")}
    found = {name: tensor.shape if isinstance(tensor, np.ndarray) else "no tensor" for name, tensor in named.items()}
    if found != shapes:
        wrong = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
        first = f"{one_line(wrong[0])} is {found.get(wrong[0], 'missing')} instead of {shapes.get(wrong[0], 'absent')}"
        raise InputError(f"{str(source)!r} holds another network, {len(wrong)} tensors differ ({first}); {SOURCE}")
