"""How many images a second a config's data give, shuffled, flipped and batched, and what bounds that.

python -m launch.studies.data_rate --config openmoji64 --config.data.source=array_record --config.data.folder=data/mine64

Three rates: of batches as training gets them; of the source read by one thread, at random and without Grain; and of the
same pipeline over images that lie in memory already, so that nothing is read or decoded. They take turns. Last, what
training computes for an image, so that the rate that hardware asks for can be told. What a run waits for its data, it says
itself: `waiting_for_data` in TensorBoard and metrics.jsonl.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from absl import flags

from ssd_jax.data import ArraySource, Source, image_batches, make_iterator, make_source
from ssd_jax.data.pipeline import Batches
from ssd_jax.data.protocol import ReadableSource
from ssd_jax.training.stage_sampling import allocate

from ..benchmark.timing import built, time_in_turns
from ..common import report
from ..common.command import run
from ..common.config_flag import define_config, read_config

define_config("openmoji64")
NUM = flags.DEFINE_integer("num", 4096, "Images a run.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each.", lower_bound=1)
IN_MEMORY = 1024  # images, at most


def main() -> None:
    config = read_config()
    source, settings = make_source(config.data, config.process.shape), config.train
    indices = np.random.default_rng(settings.seed).permutation(len(source))
    loaded = ArraySource(np.concatenate(list(image_batches(source, IN_MEMORY))))
    count = -(-NUM.value // settings.batch_size)

    def batches(of: Source) -> Callable[[], None]:
        return partial(
            _take, partial(make_iterator, of, batch_size=settings.batch_size, seed=0, flip=config.data.flip), count
        )

    runs = {
        f"pipeline of {config.data.source}": batches(source),
        "source alone, one thread": partial(_read, ReadableSource(source), np.resize(indices, count * settings.batch_size)),
        "pipeline of images in memory": batches(loaded),
    }
    images = count * settings.batch_size
    timings = time_in_turns(runs, REPEATS.value)
    print(report.plain([{"": name, "images/s": images / timing.seconds} for name, timing in timings.items()]))
    objective = built(replace(config, data=replace(config.data, channels=source.channels))).objective
    flops = allocate(objective.process.stages, settings, 1, objective.flops, objective.log_snr).flops(objective.flops)
    print(f"training takes {flops / settings.batch_size / 1e9:.3g} GFLOP an image")


def _take(make: Callable[[], Batches], count: int) -> None:
    iterator = make()
    for _ in range(count):
        next(iterator)


def _read(source: ReadableSource, indices: np.ndarray) -> None:
    for index in indices:
        source[index]


if __name__ == "__main__":
    run(main)
