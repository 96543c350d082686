"""Serves a trained run over HTTP: images by label and seed, drawn in batches of what waits.

python -m launch.serve --workdir runs/x --port 8000

GET /sample?label=food&seed=3 is a PNG: the image of trained.sample(jax.random.key(3), 1, label="food"), with the run's own
solver, calls and guidance. All programs are compiled before the port opens, to this machine only. SIGTERM and Ctrl-C end
the service: the batch that is being drawn is still answered, requests that wait are told.
"""

import threading

from absl import flags

from .common import run_flags
from .common.command import run
from .common.serving import Batcher, served

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.", required=True)
PORT = flags.DEFINE_integer("port", 8000, "Port of this machine; 0 for any.", lower_bound=0, upper_bound=2**16 - 1)
BATCH = flags.DEFINE_integer("batch", 4, "Images at a time, at most.", lower_bound=1, upper_bound=1024)


def main() -> None:
    with served(Batcher(run_flags.load(WORKDIR.value), BATCH.value), PORT.value) as address:
        print(f"{address}/sample?seed=0", flush=True)
        threading.Event().wait()  # for a signal


if __name__ == "__main__":
    run(main)
