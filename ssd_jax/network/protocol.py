"""What the rest of the house asks of a network and of its config."""

from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key, Num

from ssd_jax.errors import InputError

Shapes = tuple[tuple[int, ...], ...]  # spatial shape of every level of a process, finest first
# What a network calls its table of labels, a row for every class and the last for the null class: by this name another run
# takes its rows over class by class.
LABEL_TABLE = "embed_label/embedding"


@runtime_checkable
class NetworkConfig(Protocol):
    """A frozen dataclass of a network's settings, validated when it is made.

    `errors.section("model")` above @dataclass checks types and names from Python too, as configs from files always are.

    Attributes:
        num_classes: 0 for an unconditional network.
        label_dropout: 0 <= share < 1 of the labels that training replaces by a null class, which guidance needs.
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
        label: Int[Array, "batch"] | None = None,
        *,
        in_level: int,
        out_level: int,
        dropout_keys: Key[Array, "batch"] | None = None,
    ) -> Float[Array, "batch *shape out_channels"]:
        """[batch, *shapes[in_level], in_channels] -> float32 [batch, *shapes[out_level], out_channels].

        `dropout_keys`, one per image, are given in training only: what an image loses is its own, whatever the batch.
        """
        ...


def null_label(config: NetworkConfig) -> int | None:
    """The label that stands for "any class", one after the classes; None without classes or label dropout."""
    return config.num_classes if config.num_classes and config.label_dropout else None


def num_labels(config: NetworkConfig) -> int:
    """The classes, and the null class if there is one."""
    return config.num_classes + (null_label(config) is not None)


def check_call(network: Any, x: Any, label: Any, in_level: int, out_level: int) -> None:
    """Raises InputError if a network with `shapes`, `in_channels` and `embed_label` has no such path or takes no such x."""
    if not 0 <= out_level <= in_level < network.num_levels:
        raise InputError(
            f"path ({in_level}, {out_level}) does not exist; a network of {network.num_levels} levels takes "
            f"{network.num_levels - 1} >= in_level >= out_level >= 0"
        )
    expected = (*network.shapes[in_level], network.in_channels)
    if x.shape[1:] != expected:
        raise InputError(f"x has shape {x.shape}, but at level {in_level} it must be [batch, {str(expected)[1:-1]}]")
    if (label is None) != (network.embed_label is None):
        raise InputError(
            f"label is {'missing' if label is None else 'given'}, but the network has {network.config.num_classes} classes"
        )
