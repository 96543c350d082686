"""Random overrides of a tiny config: each is refused in one line or works, and soon; what trains stays finite."""

import dataclasses
import logging
import math
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import ssd_jax
from ssd_jax.config import SECTIONS, Config, as_dict, from_config_dict
from ssd_jax.data import SOURCES
from ssd_jax.errors import InputError, brief, field_types
from ssd_jax.network.blocks import PRECISIONS, REMATS, RESAMPLINGS
from ssd_jax.network.parameterisation import CONDITIONINGS, PARAMETERISATIONS
from ssd_jax.process.config import NOISE_SCHEDULES, OPERATORS, RESOLUTION_SCHEDULES, SNR_POLICIES
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.sampling.spacing import SPACING_NAMES
from ssd_jax.training.config import ALLOCATIONS, STAGE_SAMPLINGS
from ssd_jax.training.loss import LOSS_WEIGHTINGS

SLOW = 10.0  # seconds that no config may take
TIME_LIMIT = 120  # seconds, from where it counts as a hang
STEPS = 3  # of training
# Of what is trained, for the sake of time.
MOST_ARRAYS, MOST_PARAMETERS, MOST_PIXELS, MOST_IMAGES, MOST_CALLS = 200, 500_000, 2**10, 64, 100

BASE: dict[str, dict[str, Any]] = {
    "process": {"shape": (8, 8), "num_levels": 2, "num_timesteps": 20},
    "model": {"widths": (8, 16), "attention_levels": (1,), "num_heads": 2},
    "train": {"batch_size": 8 * max(jax.device_count(), 1), "warmup_steps": 1},
    "sample": {"num": 4, "num_steps": 5},
}
FLOATS = (
    0.0,
    1e-30,
    1e-6,
    1e-3,
    0.01,
    0.1,
    0.3,
    0.5,
    0.7,
    0.9,
    0.999,
    0.9999999,
    1.0,
    1.5,
    2.0,
    3.0,
    10.0,
    30.0,
    1000.0,
    1e6,
)
KINDS: dict[Any, tuple] = {
    bool: (False, True),
    int: (0, 1, 2, 3, 4, 5, 7, 8, 10, 16, 20, 64, 100, 1000, 4096, 2**16, 2**20, 2**31 - 1, 2**32 - 1),
    float: FLOATS,
    tuple[int, ...]: (
        (),
        (0,),
        (1,),
        (8,),
        (0, 1),
        (8, 8),
        (8, 16),
        (16, 16),
        (12, 8),
        (1, 1),
        (8, 8, 8),
        (4, 8, 8),
        (1024, 8),
    ),
    tuple[float, ...]: ((), (0.5,), (0.01,), (0.999,), (0.3, 0.3), (0.2, 0.6), (1.0,), (0.0,)),
    str: ("train", "/nonexistent", "openmoji"),
}
# Fields that hold a name of some list.
NAMES: dict[str, tuple[str, ...]] = {
    "data.source": tuple(SOURCES),
    "process.noise_schedule": tuple(NOISE_SCHEDULES),
    "process.resolution_schedule": tuple(RESOLUTION_SCHEDULES),
    "process.operator": tuple(OPERATORS),
    "process.snr_policy": SNR_POLICIES,
    "model.dtype": ("float32", "bfloat16"),
    "model.precision": PRECISIONS,
    "model.remat": REMATS,
    "model.resampling": RESAMPLINGS,
    "denoiser.parameterisation": tuple(PARAMETERISATIONS),
    "denoiser.conditioning": tuple(CONDITIONINGS),
    "train.loss_weighting": tuple(LOSS_WEIGHTINGS),
    "train.stage_sampling": STAGE_SAMPLINGS,
    "train.allocation": ALLOCATIONS,
    "sample.solver": tuple(SOLVERS),
    "sample.spacing": SPACING_NAMES,
}
ABSURD: tuple[Any, ...] = (
    *(math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, -0.0, -1, -0.5, 1e9, 2**31, 2**32, 2**63, 2**64, 10**400),
    *("", " ", "é\n", "\0", "x" * 10**6, "\ud800", "nan", None, True, [], {}, {"a": 1}, [[]], ((1,),), [None], (math.nan,)),
    *(
        (-1, -1),
        (0, 0),
        (2**31, 2**31),
        (8,) * 100,
        (8,) * 5000,
        (1e308,),
        ("a", "b"),
        b"x",
        1j,
        object(),
        np.zeros(3),
        np.nan,
    ),
)


def run(count: int, seed: int, num_trained: int = 50) -> dict[str, Any]:
    """Validates and builds `count` random configs, and trains some of those that are accepted for three steps.

    Returns:
        How many were accepted, refused, trained and so on; seconds of the slowest; what went wrong, a line each.
    """
    generator, result = np.random.default_rng(seed), {"configs": count, "accepted": 0, "refused": 0}
    seconds, faults, small = [], [], []
    for _ in tqdm(range(count), "configs"):
        overrides = random_overrides(generator)
        started = time.perf_counter(), time.process_time()
        try:
            with time_limit(TIME_LIMIT):
                config = from_config_dict(overridden(overrides))
                experiment = ssd_jax.build(config)
            result["accepted"] += 1
            if len(small) < num_trained and _is_small(experiment):
                small.append((overrides, config))
        except InputError as error:
            result["refused"] += 1
            if len(str(error).splitlines()) > 1:
                faults.append(_fault(overrides, error))
        except Exception as error:
            faults.append(_fault(overrides, error))
        # The lesser of both: what else the machine does is no fault of the config, nor that two threads compute.
        seconds.append(min(time.perf_counter() - started[0], time.process_time() - started[1]))
        if seconds[-1] > SLOW:
            faults.append(f"{_shown(overrides)}: {seconds[-1]:.1f} s")
    trained = {"trained": 0, "training refused": 0, "not finite": 0}
    for overrides, config in tqdm(small, "trained"):
        outcome = train(overrides, config, faults)
        trained[outcome] = trained.get(outcome, 0) + 1
    slow = {"slowest, seconds": max(seconds), "over 10 s": sum(each > SLOW for each in seconds)}
    return result | slow | trained | {"faults": faults}


def train(overrides: dict, config: Config, faults: list[str]) -> str:
    """What became of three steps: "trained", "training refused", "not finite" or "failed"; appends what went wrong."""
    few = {"steps": min(config.train.steps, STEPS), "evaluate_num": min(config.train.evaluate_num, MOST_IMAGES)}
    settings = dataclasses.replace(config.train, **few)
    config = dataclasses.replace(config, train=settings)
    logging.getLogger("ssd_jax").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as workdir:
        try:
            with time_limit(5 * TIME_LIMIT):
                ssd_jax.train(config, workdir)
                leaves = jax.tree.leaves(ssd_jax.load(workdir).network.parameters)
        except InputError:
            return "training refused"
        except Exception as error:
            faults.append(f"training {_fault(overrides, error)}")
            return "failed"
    if all(bool(np.isfinite(leaf).all()) for leaf in leaves):
        return "trained"
    faults.append(f"training {_shown(overrides)}: not finite")
    return "not finite"


def random_overrides(generator: np.random.Generator) -> dict[tuple[str, str], Any]:
    """One to four fields with values of their own type, ordinary or at a bound, or absurd ones."""
    kinds = {(section, name): kind for section in SECTIONS for name, kind in _kinds()[section].items()}
    names, overrides = list(kinds), {}
    for index in generator.choice(len(names), generator.integers(1, 5), replace=False):
        pool = NAMES.get(".".join(names[index]), KINDS.get(kinds[names[index]], KINDS[int]))
        if generator.random() < 0.2:
            pool = ABSURD
        overrides[names[index]] = pool[generator.integers(len(pool))]
    return overrides


def overridden(overrides: dict[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    """The tiny config with some fields set."""
    sections = {name: dict(BASE.get(name, {})) for name in SECTIONS}
    for (section, name), value in overrides.items():
        sections[section][name] = value
    return sections


def _kinds() -> dict[str, dict[str, Any]]:
    """The types of the fields of every section."""
    config = Config()
    return {name: field_types(type(getattr(config, name))) for name in as_dict(config)}


def _is_small(experiment: ssd_jax.Experiment) -> bool:
    config = experiment.config
    leaves = jax.tree.leaves(experiment.abstract_parameters)
    few = max(config.train.batch_size // jax.device_count(), config.sample.num) <= MOST_IMAGES
    small = len(leaves) <= MOST_ARRAYS and sum(leaf.size for leaf in leaves) <= MOST_PARAMETERS
    small = small and math.prod(config.process.shape) <= MOST_PIXELS
    return few and small and config.sample.num_steps <= MOST_CALLS and config.process.num_timesteps <= 2**16


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the main thread after so many seconds."""

    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _fault(overrides: dict, error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:200]
    return f"{_shown(overrides)}: {type(error).__name__} in {place.name}, line {place.lineno}: {text}"


def _shown(overrides: dict) -> str:
    return ", ".join(f"{section}.{name}={brief(value)}" for (section, name), value in overrides.items())
