"""Networks and the denoisers that they make."""

from typing import Any

import jax
from flax import nnx

from ssd_jax.errors import InputError
from ssd_jax.network.flexi_dit import FlexiDiT, FlexiDiTConfig
from ssd_jax.network.flexi_unet import FlexiUNet, FlexiUNetConfig
from ssd_jax.network.protocol import Network, NetworkConfig, Shapes

# The `model.kind` of a config: its class of settings, and the network that they describe.
NETWORKS: dict[str, tuple[type, type]] = {
    "flexi_unet": (FlexiUNetConfig, FlexiUNet),
    "flexi_dit": (FlexiDiTConfig, FlexiDiT),
}


def kind_of(config: NetworkConfig) -> str:
    """The key of NETWORKS whose settings `config` are. Raises InputError if there is none."""
    for kind, (config_class, _) in NETWORKS.items():
        if config_class is type(config):
            return kind
    raise InputError(f"model is a {type(config).__name__}, which is not registered; add it to ssd_jax.network.NETWORKS")


def make_network(config: NetworkConfig, shapes: Shapes, channels: int, rngs: nnx.Rngs) -> Network:
    """A network for states and predictions of so many channels. Raises InputError if it cannot take the shapes."""
    _, network_class = NETWORKS[kind_of(config)]
    return network_class(config, shapes=shapes, in_channels=channels, out_channels=channels, rngs=rngs)


def abstract_network(config: NetworkConfig, shapes: Shapes, channels: int) -> tuple[nnx.GraphDef[Any], dict]:
    """The static part of a network and the shapes of its parameters; computes nothing. Arguments as `make_network`."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make_network(config, shapes, channels, nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def init_parameters(config: NetworkConfig, shapes: Shapes, channels: int, key: jax.Array) -> dict:
    """Fresh parameters, a pure dict of float32 arrays. Arguments as `make_network`."""
    return nnx.to_pure_dict(nnx.state(make_network(config, shapes, channels, nnx.Rngs(key))))
