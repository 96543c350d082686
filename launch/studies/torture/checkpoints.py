"""Checkpoints with flipped bits, and hundreds of them: no wrong weights, no growing memory."""

import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import ssd_jax
from ssd_jax.config import Config
from ssd_jax.errors import InputError
from ssd_jax.run import checkpoint
from ssd_jax.run.digest import combined, digests
from ssd_jax.run.restore import restore
from ssd_jax.run.workdir import claim_workdir
from ssd_jax.sharding import make_mesh, placed, replicated
from ssd_jax.training.ema import MAIN
from ssd_jax.training.state import abstract_state, init_state

from .memory import resident

SETTLED = 20  # saves after which memory should be what it stays


def flips(config: Config, count: int, seed: int) -> dict[str, Any]:
    """Flips a random bit of a random file of the latest checkpoint, `count` times, and loads and resumes from it.

    Returns:
        How often the weights were untouched, those of the checkpoint before, refused, or wrong; by kind of file how many
        flips; what went wrong, a line each.
    """
    generator, outcomes, kinds, faults = np.random.default_rng(seed), Counter(), Counter(), []
    config = replace(config, data=replace(config.data, channels=3))
    with tempfile.TemporaryDirectory() as folder:
        saved, copy = Path(folder, "saved"), Path(folder, "copy")
        expected = _save(config, saved)
        files = [path.relative_to(saved) for path in sorted(saved.rglob("*")) if path.is_file() and path.stat().st_size]
        files = [path for path in files if path.parts[:2] != ("checkpoints", "1")]
        for _ in tqdm(range(count), "flips"):
            name = files[generator.integers(len(files))]
            kinds["/".join(each for each in name.parts[:3] if not each.isdecimal())] += 1
            shutil.copytree(saved, copy)
            content = bytearray((copy / name).read_bytes())
            place, bit = int(generator.integers(len(content))), int(generator.integers(8))
            content[place] ^= 1 << bit
            (copy / name).write_bytes(content)
            for read in (_loaded, _resumed):
                try:
                    step, digest = read(copy, config)
                    outcome = {True: "untouched", False: "the one before"}[step == 2]
                    outcome = outcome if digest == expected[read.__name__, step] else "wrong"
                except InputError:
                    outcome = "refused"
                except Exception as error:
                    outcome = "traceback"
                    faults.append(f"{name}, byte {place}, bit {bit}: {type(error).__name__}: {str(error)[:100]}")
                if outcome == "wrong":
                    faults.append(f"{name}, byte {place}, bit {bit}: wrong weights {read.__name__}")
                outcomes[outcome] += 1
            shutil.rmtree(copy)
    return {"flips": count, "read": 2 * count, **outcomes, "by kind": dict(kinds), "faults": faults}


def _save(config: Config, workdir: Path) -> dict[tuple[str, int], str]:
    """Checkpoints of steps 1 and 2 with random weights; the digests that loading and resuming should find."""
    experiment, expected = ssd_jax.build(config), {}
    claim_workdir(workdir, config)
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        for step in (1, 2):
            state = init_state(experiment.init_parameters, step, make_mesh()).as_dict()
            checkpoint.save(checkpoints, step, experiment, state, {"next_index": step})
            expected["_loaded", step] = combined(digests(state["ema"][MAIN]))
            expected["_resumed", step] = combined(digests(state)) + str({"next_index": step})
    return expected


def _loaded(workdir: Path, config: Config) -> tuple[int, str]:
    trained = ssd_jax.load(workdir)
    return trained.step, trained.digest


def _resumed(workdir: Path, config: Config) -> tuple[int, str]:
    experiment = ssd_jax.build(config)
    abstract = placed(abstract_state(experiment.objective.parameters).as_dict(), replicated(make_mesh()))
    with checkpoint.open_checkpoints(workdir, writable=True) as checkpoints:
        found = restore(checkpoints, experiment, abstract)
    return found.step, combined(digests(found.state)) + str(found.data)


def saves(config: Config, count: int) -> dict[str, Any]:
    """Saves `count` checkpoints; memory after the first SETTLED and at the end, MiB, and the growth between them."""
    experiment, sizes = ssd_jax.build(replace(config, data=replace(config.data, channels=3))), []
    with tempfile.TemporaryDirectory() as folder:
        claim_workdir(Path(folder), experiment.config)
        state = init_state(experiment.init_parameters, 0, make_mesh()).as_dict()
        with checkpoint.open_checkpoints(Path(folder), writable=True) as checkpoints:
            for step in tqdm(range(1, count + 1), "saves"):
                checkpoint.save(checkpoints, step, experiment, state, {"next_index": step})
                checkpoint.wait(checkpoints)
                sizes.append(resident() / 2**20)
    first, last = (float(np.median(each)) for each in (sizes[SETTLED // 2 : SETTLED], sizes[-SETTLED // 2 :]))
    faults = [] if last < 1.02 * first else [f"memory grew from {first:.0f} to {last:.0f} MiB"]
    arrays = len(jax.tree.leaves(state))
    return {"saves": count, "arrays": arrays, "MiB at first": first, "MiB at last": last, "growth": last / first - 1} | {
        "faults": faults
    }
