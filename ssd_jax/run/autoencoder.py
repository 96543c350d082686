"""A trained autoencoder, read from the workdir of its run, and what its training shows of itself."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np
from jaxtyping import UInt8

from ssd_jax.build import AutoencoderExperiment, build_autoencoder
from ssd_jax.config import AutoencoderRunConfig
from ssd_jax.data.encoding import PixelEncoding, encoded
from ssd_jax.data.preparation import ToLatents
from ssd_jax.data.protocol import Source, image_batches
from ssd_jax.data.sources import DataConfig
from ssd_jax.errors import InputError, checked_arguments
from ssd_jax.files.events import Events
from ssd_jax.files.paths import Path, exists, new_folder, to_path
from ssd_jax.network.autoencoder import Autoencoder
from ssd_jax.run.digest import combined, digests
from ssd_jax.run.restore import restore_averages
from ssd_jax.run.watching import Real, frechet_distances, write_grid
from ssd_jax.run.weights import read_weights, write_weights
from ssd_jax.run.workdir import WEIGHTS, claim_workdir, load_any_config
from ssd_jax.sharding import make_mesh, placed, replicated
from ssd_jax.training.ema import MAIN
from ssd_jax.training.holdout import Holdout
from ssd_jax.training.reconstruction import LEAST_SIDE, ReconstructionConfig
from ssd_jax.training.state import TrainState

SHOWN = 16  # pictures of a grid, each with its reconstruction


@dataclass(frozen=True, eq=False, repr=False)
class TrainedAutoencoder:
    """A trained autoencoder.

    Attributes:
        experiment: what its config stands for.
        autoencoder: with its averaged parameters.
        step: training steps taken.
    """

    experiment: AutoencoderExperiment
    autoencoder: Autoencoder
    step: int

    @cached_property
    def digest(self) -> str:
        """Of the weights: 16 hexadecimal digits that tell autoencoders apart, wherever they lie."""
        return combined(digests(self.autoencoder.parameters))

    def to_latents(self, shape: tuple[int, ...]) -> ToLatents:
        """What makes latents, the means, of images of spatial `shape`. Raises InputError if it does not fit."""
        if len(shape) != 2:
            raise InputError(f"process.shape is {shape}, but an autoencoder makes latents of images of (h, w) alone")
        images = jax.ShapeDtypeStruct((1, *shape, self.autoencoder.channels), np.float32)
        found = jax.eval_shape(encoded, self.autoencoder, images)
        pixels = PixelEncoding(shape, self.autoencoder.channels)
        return ToLatents(
            self.digest,
            found.shape[1:],
            lambda pictures: np.asarray(encoded(self.autoencoder, pixels.encode(pictures))),
        )

    def reconstruct(self, pictures: UInt8[np.ndarray, "n h w channels"]) -> UInt8[np.ndarray, "n h w channels"]:
        """What is left of pictures as latents (the means). Raises InputError if their shape does not fit."""
        encoding = self.experiment.encoding
        return encoding.decode(_reconstructed(self.autoencoder, encoding.encode(pictures)))


def of_images(autoencoder: Autoencoder, data: DataConfig) -> DataConfig:
    """The config of data for an autoencoder: its images have as many channels. Raises InputError if they differ."""
    channels = autoencoder.channels
    if data.channels not in (None, channels):
        raise InputError(f"data.channels is {data.channels}, but the autoencoder is of images of {channels}; leave it out")
    return replace(data, channels=channels)


@jax.jit
def _reconstructed(autoencoder: Autoencoder, pictures: jax.Array) -> jax.Array:
    return autoencoder.decode(autoencoder.encode(pictures).mean)


@checked_arguments
def load_autoencoder(workdir: str | Path, step: int | str | None = None) -> TrainedAutoencoder:
    """The autoencoder of the run in `workdir`, or of a folder of weights; arguments as those of `load`.

    Raises:
        InputError: if there is no run of an autoencoder, no checkpoint, or it is damaged.
    """
    workdir = to_path(workdir)
    experiment, where = experiment_in(workdir), replicated(make_mesh())
    if exists(workdir / WEIGHTS):
        taken, parameters = read_weights(workdir / WEIGHTS, experiment)
        parameters = jax.device_put(parameters, where)
    else:
        abstract = placed({MAIN: experiment.abstract_parameters}, where)
        taken, averages = restore_averages(workdir, experiment, abstract, step)
        parameters = averages[MAIN]
    return TrainedAutoencoder(experiment, _with(experiment, parameters), taken)


def experiment_in(workdir: Path) -> AutoencoderExperiment:
    """What the run of an autoencoder in `workdir`, or a folder of its weights, stands for, whatever it has saved.

    Raises:
        InputError: if there is none, or it is of a denoiser.
    """
    config = load_any_config(workdir)
    if not isinstance(config, AutoencoderRunConfig):
        raise InputError(f"{str(workdir)!r} is a run of a denoiser, but must be one of an autoencoder")
    return build_autoencoder(config)


def of_weights(autoencoder: Autoencoder) -> TrainedAutoencoder:
    """An autoencoder that was trained elsewhere, as one of no steps here."""
    side = LEAST_SIDE * autoencoder.config.factor
    config = AutoencoderRunConfig(
        data=DataConfig(channels=autoencoder.channels),
        reconstruction=ReconstructionConfig(shape=(side, side)),
        model=autoencoder.config,
    )
    return TrainedAutoencoder(build_autoencoder(config), autoencoder, 0)


def write_autoencoder(trained: TrainedAutoencoder, workdir: Path) -> None:
    """Makes `workdir` a folder of weights that `load_autoencoder` reads, whole or not at all."""
    with new_folder(workdir) as folder:
        claim_workdir(folder, trained.experiment.config)
        write_weights(folder / WEIGHTS, trained.experiment, trained.autoencoder.parameters, trained.step)


def _with(experiment: AutoencoderExperiment, parameters: dict) -> Autoencoder:
    return Autoencoder(parameters, experiment.config.model, experiment.encoding.channels)


@dataclass(frozen=True, eq=False)
class AutoencoderWatch:
    """Looks at the averaged parameters of an autoencoder, as `Watch` does at a denoiser's.

    Attributes:
        experiment: what is trained.
        workdir: its folder.
        events: of TensorBoard.
        holdout: the loss on held-out images; None without any.
        real: what reconstructions are compared with; None to make none.
        source: of the pictures that are reconstructed.
    """

    experiment: AutoencoderExperiment
    workdir: Path
    events: Events
    holdout: Holdout | None
    real: Real | None
    source: Source

    def means(self, losses: list[dict[str, jax.Array]]) -> dict[str, float]:
        """The mean loss of several steps."""
        return {"loss": float(np.mean([loss for each in jax.device_get(losses) for loss in each.values()]))}

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Logs and returns, by name, what can be said of the averaged parameters in numbers."""
        found: dict[str, float] = {}
        if self.holdout is not None:
            found["holdout/loss"] = self.means(self.holdout.losses(state.ema[MAIN]))["loss"]
        if self.real is not None:
            pictures = self._reconstructions(self._trained(state, step), self.experiment.config.train.evaluate_num)
            distances = frechet_distances(pictures, self.real, self.experiment.config.data.background)
            found |= {f"frechet/{name}": value for name, value in distances.items()}
        self.events.scalars(found, step)
        return found

    def write_samples(self, state: TrainState, step: int) -> None:
        """A grid of pictures, always the same, each to the left of its reconstruction."""
        trained = self._trained(state, step)
        (pictures,) = image_batches(self.source, SHOWN, SHOWN)
        pairs = np.stack([pictures, trained.reconstruct(pictures)], axis=1).reshape(-1, *pictures.shape[1:])
        write_grid(self.workdir, self.events, pairs, self.experiment.config.data.background, step, columns=8)

    def _trained(self, state: TrainState, step: int) -> TrainedAutoencoder:
        parameters = jax.device_put(state.ema[MAIN], replicated(make_mesh()))
        return TrainedAutoencoder(self.experiment, _with(self.experiment, parameters), step)

    def _reconstructions(self, trained: TrainedAutoencoder, num: int) -> Iterator[UInt8[np.ndarray, "n h w channels"]]:
        """Of pictures spread over the source."""
        return map(trained.reconstruct, image_batches(self.source, num, self.experiment.config.train.batch_size))
