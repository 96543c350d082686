"""The loss on images that are held out of training: of every stage, always on the same draws."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ssd_jax.compilation import COMPILER_OPTIONS, several_at_a_time
from ssd_jax.data.protocol import ReadableSource, Source, labels_of
from ssd_jax.sharding import AXES, DIVIDED, WHOLE, put_batch, shardings, split_along_batch
from ssd_jax.training.config import TrainConfig
from ssd_jax.training.objective import Batch, Loss, Objective
from ssd_jax.training.state import Tree

SEED = 0  # of timesteps and noise: the same in all runs, so that their curves can be compared


@dataclass(frozen=True, eq=False)
class Holdout:
    """The compiled programs of the loss on held-out images.

    A batch serves every stage. A draw is an image with a timestep and noise by its number; there are as many as fill the
    batches, and images come round again for the last.

    Attributes:
        source: the images.
        labelled: whether the network has labels.
        mesh: the devices.
        batch_size: draws of a batch, over all devices.
        programs: of every stage by its name, (parameters, draws) -> the mean of their losses.
    """

    source: ReadableSource
    labelled: bool
    mesh: jax.sharding.Mesh
    batch_size: int
    programs: dict[str, Callable]

    def losses(self, parameters: Tree) -> list[dict[str, jax.Array]]:
        """Of every batch, the mean loss of each stage by its name, still on the device.

        Args:
            parameters: where training has them on the mesh.
        """
        found = []
        for batch in self._batches():
            draws = put_batch(batch, split_along_batch(self.mesh))
            found.append({stage: program(parameters, draws) for stage, program in self.programs.items()})
        return found

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        """This process's part of each."""
        processes, process = jax.process_count(), jax.process_index()
        for first in range(0, len(self.source), self.batch_size):
            numbers = np.arange(first + process, first + self.batch_size, processes, dtype=np.int32)
            items = [self.source[number] for number in numbers % len(self.source)]
            batch = {"image": np.stack([item["image"] for item in items]), "number": numbers}
            if self.labelled:
                batch["label"] = labels_of(items)
            yield batch


def compile_holdout(objective: Objective, config: TrainConfig, mesh: jax.sharding.Mesh, source: Source) -> Holdout:
    """Compiles the programs of the loss on the images of `source`, several at a time, under a progress bar."""
    size = config.batch_size // config.accumulate
    lowered = {str(each): _lowered(objective, loss, mesh, size) for each, loss in objective.losses({}).items()}
    programs = several_at_a_time({name: each.compile for name, each in lowered.items()}, "compiling the hold-out loss")
    return Holdout(ReadableSource(source), objective.labelled, mesh, size, programs)


def _lowered(objective: Objective, loss: Loss, mesh: jax.sharding.Mesh, size: int) -> Any:
    parameters = objective.parameters

    def mean_loss(parameters: Tree, draws: Batch) -> jax.Array:
        key = jax.random.key(SEED)
        return jax.lax.pmean(loss(parameters, draws, key, training=False), AXES)

    on_each_device = jax.shard_map(mean_loss, mesh=mesh, in_specs=(WHOLE, DIVIDED), out_specs=WHOLE, check_vma=False)
    inputs = (shardings(parameters, mesh), split_along_batch(mesh))
    program = jax.jit(on_each_device, in_shardings=inputs, compiler_options=COMPILER_OPTIONS)
    return program.lower(parameters, objective.abstract_draws(size))
