"""Throughput and latency of serving a run: one by one, whole samples in batches, and a queue for every stage.

python -m launch.studies.serving --workdir docs/models/emoji

The first table is what an image costs in every stage, by the size of the batch; the second, what serving makes of it.
Requests come all at once, or at random times, LOAD of what batches of whole samples can take. With a queue for every stage,
images that have reached a stage go on together, whenever they came: stages of a quarter of the side or less in batches of
--wide, others of --batch. What runs next is the latest stage that fills its batch, else the earliest that has any.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.request import urlopen

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ssd_jax
from ssd_jax.sampling.denoise import Denoise, as_label
from ssd_jax.sampling.noise import NoiseSource
from ssd_jax.sampling.parts import Part, State
from ssd_jax.sampling.sampler import start_noise

from ..benchmark.timing import time_in_turns
from ..common import report, run_flags
from ..common.command import run
from ..common.serving import Batcher, Request, batch_sizes, labels_of, noise_of, parse_request, served

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
NUM = flags.DEFINE_integer("num", 16, "Requests.", lower_bound=1, upper_bound=256)
BATCH = flags.DEFINE_integer("batch", 4, "Images at a time, at most.", lower_bound=1)
WIDE = flags.DEFINE_integer("wide", 16, "The same, for stages of a quarter of the side or less.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each.", lower_bound=1)
LOAD = 0.7

Served = list[tuple[float, float]]  # for each request the seconds at which it came and was answered


@dataclass(frozen=True, eq=False)
class Image:
    """An image on its way: its request, the seconds at which that comes, and its row of what `Part.run` takes."""

    request: Request
    comes: float
    noise: NoiseSource
    x: Any
    earlier: tuple[Any, ...]


@dataclass(frozen=True)
class Station:
    """Parts of the plan that run without a break, on at most so many images at a time."""

    parts: Sequence[Part]
    width: int

    def run(self, denoise: Denoise, images: Sequence[Image]) -> list[Image]:
        """The images after the parts."""
        size = next(size for size in batch_sizes(self.width) if size >= len(images))
        filled = [*images, *[images[-1]] * (size - len(images))]
        rows = [(image.noise, image.x, image.earlier) for image in filled]
        noise, x, earlier = jax.tree.map(lambda *each: jnp.concatenate(each), *rows)
        label = labels_of([image.request for image in filled])
        label, state = as_label(label), State(x, earlier)
        for part in self.parts:
            state = part.run(denoise, state, noise, label, 0, len(part.timesteps))
        x, earlier = np.asarray(state.x), [np.asarray(z) for z in state.earlier]
        at = [slice(i, i + 1) for i in range(len(images))]
        return [replace(each, x=x[i], earlier=tuple(z[i] for z in earlier)) for each, i in zip(images, at, strict=True)]


def main() -> None:
    trained = run_flags.load(WORKDIR.value)
    plan, denoise = trained.plan(), trained.guided()
    print(report.markdown(_stage_costs(plan, denoise, _images(trained, plan, np.zeros(WIDE.value)))), flush=True)

    def width(part: Part) -> int:
        small = 4 * trained.process.level_shape(part.stage.out_level)[0] <= trained.process.shape[0]
        return WIDE.value if small else BATCH.value

    ways = {
        "one by one": [Station(plan.stages, 1)],
        "whole samples": [Station(plan.stages, BATCH.value)],
        "a queue for every stage": [Station([part], width(part)) for part in plan.stages],
    }

    def serve(stations: Sequence[Station], comes: np.ndarray) -> Served:
        return _serve(stations, denoise, _images(trained, plan, comes))

    at_once = {name: partial(serve, ways[name], np.zeros(NUM.value)) for name in ways}
    with served(Batcher(trained, BATCH.value)) as address:
        at_once["the service, over HTTP"] = partial(_ask, address)
        for each in at_once.values():  # what a station hands from part to part lies on the device: other programs
            each()
        rows = _measured("at once", at_once)
    rate = LOAD * rows[1]["images/s"]
    random = np.cumsum(np.random.default_rng(0).exponential(1 / rate, NUM.value))
    rows += _measured(f"{rate:.2g} a second", {name: partial(serve, ways[name], random) for name in ways})
    print("\n" + report.markdown(rows, digits=3))


def _images(trained: ssd_jax.Trained, plan: ssd_jax.Plan, comes: np.ndarray) -> list[Image]:
    """Images for which nothing has been done yet, seeds 0, 1, .., by the seconds at which they come."""
    process = trained.process
    shape = (*process.level_shape(process.used_levels[-1]), trained.encoding.channels)
    images = []
    for seed, seconds in enumerate(comes):
        request = parse_request(trained, f"seed={seed}")
        noise = noise_of([request])
        x = np.asarray(start_noise(noise, process.num_timesteps, shape))
        images.append(Image(request, float(seconds), noise, x, (x,) * plan.carried))
    return images


def _stage_costs(plan: ssd_jax.Plan, denoise: Denoise, images: list[Image]) -> list[dict[str, Any]]:
    """Milliseconds of an image in every stage, by the size of the batch."""
    sizes, rows = sorted({*batch_sizes(BATCH.value), *batch_sizes(WIDE.value)}), []
    for part in plan.stages:
        filled = np.resize(np.array(images, object), max(sizes)).tolist()
        runs = {size: partial(Station([part], size).run, denoise, filled[:size]) for size in sizes}
        timings = time_in_turns(runs, REPEATS.value)
        costs = {f"batch {size}": 1e3 * timing.seconds / size for size, timing in timings.items()}
        rows.append({"ms an image": str(part.stage), "calls": part.calls, **costs})
        images = runs[max(sizes)]()
    return [*rows, {"ms an image": "all"} | {name: sum(row[name] for row in rows) for name in list(rows[0])[1:]}]


def _serve(stations: Sequence[Station], denoise: Denoise, images: Sequence[Image]) -> Served:
    """Takes images through all stations as they come."""
    coming, queues, done = deque(images), [deque[Image]() for _ in stations], []
    began = time.perf_counter()
    while len(done) < len(images):
        now = time.perf_counter() - began
        while coming and coming[0].comes <= now:
            queues[0].append(coming.popleft())
        ready = [i for i, queue in enumerate(queues) if queue]
        if not ready:
            time.sleep(coming[0].comes - now)
            continue
        full = [i for i in ready if len(queues[i]) >= stations[i].width]
        i = full[-1] if full else ready[0]
        batch = stations[i].run(denoise, [queues[i].popleft() for _ in range(min(len(queues[i]), stations[i].width))])
        if stations[i] is stations[-1]:
            done += [(image.comes, time.perf_counter() - began) for image in batch]
        else:
            queues[i + 1].extend(batch)
    return done


def _ask(address: str) -> Served:
    """Asks a service for all images at once."""
    began = time.perf_counter()

    def ask(seed: int) -> tuple[float, float]:
        with urlopen(f"{address}/sample?seed={seed}") as answer:
            answer.read()
        return 0.0, time.perf_counter() - began

    with ThreadPoolExecutor(NUM.value) as pool:
        return list(pool.map(ask, range(NUM.value)))


def _measured(come: str, ways: Mapping[str, Callable[[], Served]]) -> list[dict[str, Any]]:
    """Throughput and latency of ways to serve, which take turns."""
    rounds = [{name: np.array(serve()) for name, serve in ways.items()} for _ in range(REPEATS.value)]
    rows = []
    for name in ways:
        runs = [each[name] for each in rounds]
        latencies = np.concatenate([answered - came for came, answered in (run.T for run in runs)])
        rate = float(np.median([len(run) / run[:, 1].max() for run in runs]))
        quantiles = {"median, s": float(np.median(latencies)), "95 %, s": float(np.quantile(latencies, 0.95))}
        rows.append({"requests come": come, "served": name, "images/s": rate, **quantiles})
    return rows


if __name__ == "__main__":
    run(main)
