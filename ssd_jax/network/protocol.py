"""What the rest of the house asks of a network and of its config."""

import math
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from ssd_jax.errors import InputError, check_range

Shapes = tuple[tuple[int, ...], ...]  # spatial shape of every level of a process, finest first
# What a network calls its table of labels, a row for every class and the last for the null class: by this name another run
# takes its rows over class by class.
LABEL_TABLE = "embed_label/embedding"
LABEL_KERNEL = "embed_label/linear/kernel"  # what it calls the matrix that embeds labels which are vectors
MAX_CLASSES, MAX_LABEL_SIZE = 2**20, 2**16


@runtime_checkable
class NetworkConfig(Protocol):
    """A frozen dataclass of a network's settings, validated when it is made.

    `errors.section("model")` above @dataclass checks types and names from Python too, as configs from files always are.

    It may also have a `label_size`, the numbers of a label that is a vector; it is 0, or `num_classes` is.

    Attributes:
        num_classes: 0 for a network whose labels are no classes.
        label_dropout: 0 <= share < 1 of the labels that training replaces by the null label, which guidance needs.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_classes(self) -> int: ...

    @property
    def label_dropout(self) -> float: ...


@runtime_checkable
class Network(Protocol):
    """An nnx.Module made by `Class(config, shapes=, in_channels=, out_channels=, rngs=)`.

    `shapes` are those of the levels of the process. Making it raises InputError if it has no path for one of them.

    Attributes:
        num_levels: that it can be entered and left at.
    """

    @property
    def num_levels(self) -> int: ...

    def __call__(
        self,
        x: Float[Array, "batch *small_shape in_channels"],
        t: Num[Array, "batch"],
        label: Num[Array, "batch *vector"] | None = None,
        *,
        in_level: int,
        out_level: int,
        dropout_keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch *shape out_channels"]:
        """[batch, *shapes[in_level], in_channels] -> float32 [batch, *shapes[out_level], out_channels].

        `dropout_keys`, one per image, are given in training only: what an image loses is its own, whatever the batch.
        """
        ...


def label_size(config: NetworkConfig) -> int:
    """Numbers of a label that is a vector; 0 where labels are classes, or there are none."""
    return getattr(config, "label_size", 0)


def null_label(config: NetworkConfig) -> int | float | None:
    """The label that stands for "any": the number after the classes, or in vectors NaN throughout; None without dropout."""
    if not config.label_dropout:
        return None
    return math.nan if label_size(config) else config.num_classes or None


def label_struct(config: NetworkConfig, batch: Any) -> jax.ShapeDtypeStruct | None:
    """Of the labels of a batch: int32 [batch], or float32 [batch, label_size]; None for a network without labels."""
    if size := label_size(config):
        return jax.ShapeDtypeStruct((batch, size), np.float32)
    return jax.ShapeDtypeStruct((batch,), np.int32) if config.num_classes else None


def null_labels(config: NetworkConfig, batch: int) -> Num[np.ndarray, "{batch} *vector"] | None:
    """The null label of every image; None for a network without one."""
    struct, null = label_struct(config, batch), null_label(config)
    return None if struct is None or null is None else np.full(struct.shape, null, struct.dtype)


def check_label_settings(config: NetworkConfig) -> None:
    """Raises InputError for a `model` section whose classes, vectors or label dropout cannot be."""
    check_range("model.num_classes", config.num_classes, low=0, high=MAX_CLASSES)
    check_range("model.label_size", label_size(config), low=0, high=MAX_LABEL_SIZE)
    check_range("model.label_dropout", config.label_dropout, low=0, high=1)
    if config.num_classes and label_size(config):
        raise InputError(
            f"model.num_classes is {config.num_classes} and model.label_size {label_size(config)}, but a label is either "
            "a class or a vector: set one of them to 0"
        )


def check_call(network: Any, x: Any, label: Any, in_level: int, out_level: int) -> None:
    """Raises InputError if a network with `config`, `shapes` and `in_channels` has no such path, or takes other arrays."""
    if not 0 <= out_level <= in_level < network.num_levels:
        raise InputError(
            f"path ({in_level}, {out_level}) does not exist; a network of {network.num_levels} levels takes "
            f"{network.num_levels - 1} >= in_level >= out_level >= 0"
        )
    expected = (*network.shapes[in_level], network.in_channels)
    if x.shape[1:] != expected:
        raise InputError(f"x has shape {x.shape}, but at level {in_level} it must be [batch, {str(expected)[1:-1]}]")
    wanted = label_struct(network.config, x.shape[0])  # a number, or an export's symbol
    if (label is None) != (wanted is None):
        given = "missing" if label is None else "given"
        raise InputError(f"label is {given}, but the network takes {'none' if wanted is None else _told(wanted)}")
    if label is not None and wanted is not None and (label.shape != wanted.shape or _kind(label) != _kind(wanted)):
        raise InputError(f"label is {_told(label)}, but the network takes {_told(wanted)}")


def _kind(label: Any) -> Any:
    """Of numbers that labels are: integers of any size, or floating-point numbers."""
    return jnp.floating if jnp.issubdtype(label.dtype, jnp.floating) else jnp.integer


def _told(label: Any) -> str:
    """What labels are, in a message."""
    return f"{label.dtype} [{', '.join(map(str, label.shape))}]"
