"""What a config stands for, built once and passed on."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from ssd_jax.config import AutoencoderRunConfig, Config
from ssd_jax.data.encoding import Encoding, LatentEncoding, PixelEncoding
from ssd_jax.errors import InputError, checked_arguments
from ssd_jax.network import abstract_network, init_parameters
from ssd_jax.network.autoencoder import Autoencoder, abstract_autoencoder, init_autoencoder
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.parameterisation import DataStatistics, Parameterisation, level_variances, make_parameterisation
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.training.log_variance import ENTRY, first_log_variances, of_network
from ssd_jax.training.loss import LEARNED
from ssd_jax.training.objective import Denoising
from ssd_jax.training.reconstruction import Reconstruction


@dataclass(frozen=True, eq=False, repr=False)
class Experiment:
    """A config's process, encoding and network. What depends on devices is training's.

    Attributes:
        config: of it all.
        process: with its stages.
        encoding: between images and x_0.
        graphdef: the static part of the network.
        abstract_parameters: the network's, as `jax.ShapeDtypeStruct`s.
        statistics: of the data, for parameterisations that need them.
        labels: of some of the data, those of images to draw in turn, where labels are vectors.
    """

    config: Config
    process: ScaleSpaceProcess
    encoding: Encoding
    graphdef: nnx.GraphDef[Any]
    abstract_parameters: dict
    statistics: DataStatistics | None = None
    labels: Float[np.ndarray, "n size"] | None = None

    @cached_property
    def parameterisation(self) -> Parameterisation:
        """Of the denoiser. Raises InputError if it needs statistics of the data, and there are none."""
        return make_parameterisation(self.config.denoiser, self.process, self.statistics)

    def denoiser(self, parameters: Any) -> Denoiser:
        """The network with these parameters, among which there may be log-variances of the loss, as a denoiser."""
        return Denoiser(of_network(parameters), self.graphdef, self.parameterisation)

    @cached_property
    def objective(self) -> Denoising:
        """What training minimises."""
        denoiser, weighting = self.denoiser(self.abstract_parameters), self.config.train.loss_weighting
        variances = None if self.statistics is None else tuple(level_variances(self.process, self.statistics).tolist())
        return Denoising(self.process, self.encoding, self.config.model, denoiser, weighting, variances)

    def init_parameters(self, key: jax.Array) -> dict:
        """Fresh values of all that is trained; traceable."""
        fresh = init_parameters(self.config.model, self.process.level_shapes, self.encoding.channels, key)
        learned = self.config.train.loss_weighting == LEARNED
        return fresh | ({ENTRY: first_log_variances(self.process.stages)} if learned else {})

    @property
    def bounds(self) -> tuple[float, ...]:
        """The largest absolute value of the sharp images of each level; infinite where there is none."""
        scale = math.inf if self.encoding.bound is None else self.encoding.bound
        return tuple(scale * bound for bound in self.process.bounds)


@dataclass(frozen=True, eq=False, repr=False)
class AutoencoderExperiment:
    """What the config of an autoencoder stands for.

    Attributes:
        config: of it all.
        encoding: of pictures as numbers in [-1, 1].
        abstract: the autoencoder, with `jax.ShapeDtypeStruct`s for parameters.
    """

    config: AutoencoderRunConfig
    encoding: PixelEncoding
    abstract: Autoencoder

    statistics = None  # of the data: none are needed

    @property
    def abstract_parameters(self) -> dict:
        """As `jax.ShapeDtypeStruct`s."""
        return self.abstract.parameters

    @property
    def objective(self) -> Reconstruction:
        """What training minimises."""
        return Reconstruction(self.config.reconstruction, self.encoding, self.abstract)

    def init_parameters(self, key: jax.Array) -> dict:
        """Fresh parameters; traceable."""
        return init_autoencoder(self.config.model, self.encoding.channels, key)


AnyExperiment = Experiment | AutoencoderExperiment


@checked_arguments
def build(config: Config, statistics: DataStatistics | None = None, autoencoder: Autoencoder | None = None) -> Experiment:
    """Builds the process, the encoding and the abstract network of a config.

    Args:
        config: with `data.channels` as `data.sources.recorded` gives it; RGB where it is not given.
        statistics: of the data, if they are known.
        autoencoder: that `config.encoding` names, with its digest, mean and deviation.

    Raises:
        InputError: if the process cannot be, the network cannot take the shapes of its levels, or the autoencoder is not
            that of the config.
    """
    process = make_process(config.process)
    encoding = _encoding(config, process.shape, autoencoder)
    graphdef, abstract = abstract_network(config.model, process.level_shapes, encoding.channels)
    return Experiment(config, process, encoding, graphdef, abstract, statistics)


def _encoding(config: Config, shape: tuple[int, ...], autoencoder: Autoencoder | None) -> Encoding:
    """Pixels, or the latents of an autoencoder. Raises InputError if it is not given, or others' latents are meant."""
    channels, settings = config.data.channels or 3, config.encoding
    if settings.autoencoder is None:
        return PixelEncoding(shape, channels)
    if autoencoder is None:
        raise InputError(
            f"encoding.autoencoder is {settings.autoencoder!r}, which only a run can bring along; train one, and load it"
        )
    made = (autoencoder.channels, autoencoder.config.latent_channels)
    if made != (channels, len(settings.mean)):
        raise InputError(
            f"the data are latents of {len(settings.mean)} channels of images of {channels}, but the autoencoder's are "
            f"{made[1]} of images of {made[0]}; give the one that made them"
        )
    return LatentEncoding(shape, autoencoder, settings.mean, settings.deviation)


def build_autoencoder(config: AutoencoderRunConfig) -> AutoencoderExperiment:
    """Builds the abstract network of an autoencoder; `data.channels` as for `build`."""
    encoding = PixelEncoding(config.image_shape, config.data.channels or 3)
    return AutoencoderExperiment(config, encoding, abstract_autoencoder(config.model, encoding.channels))
