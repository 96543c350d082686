"""The flags of the sampler, which the commands that draw images share, and what they say."""

from collections.abc import Iterator
from functools import cache

import jax
from absl import flags

import ssd_jax
from ssd_jax.errors import SEED_LIMIT, InputError
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.solvers import SOLVERS
from ssd_jax.sampling.spacing import SPACING_NAMES

from . import folders

SOLVER = flags.DEFINE_string("solver", None, f"One of {', '.join(SOLVERS)}; the run's if not given.")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Network calls per image; the run's if not given.")
SPACING = flags.DEFINE_string("spacing", None, f"One of {', '.join(SPACING_NAMES)}; the run's if not given.")
ETA = flags.DEFINE_float("eta", None, "0 (no fresh noise) to 1 (ancestral; of heun all churn); overrides the solver's own.")
LABEL = flags.DEFINE_string("label", "all", "Label of all images: a class's name or number, words, or all: each in turn.")
GUIDANCE = flags.DEFINE_float("guidance", None, "Scale of guidance, 1 is none; the run's if not given.")
GUIDE = flags.DEFINE_string(
    "guide", None, "Folder of a worse run of the same task: guides away from it, not from any class"
)
PARALLEL = flags.DEFINE_float("guidance_parallel", None, "Weight, 0 to 1, of what guidance adds along the prediction.")
NORM = flags.DEFINE_float("guidance_norm", None, "Largest root mean square of what guidance of scale 2 adds.")
INTERVAL = flags.DEFINE_list("guidance_interval", None, "LOW,HIGH: guide only where the log-SNR lies between them.")
THRESHOLD = flags.DEFINE_float("threshold_quantile", None, "Threshold dynamically at this quantile, e.g. 0.995.")
MEMORY = flags.DEFINE_integer(
    "memory_limit",
    None,
    "MiB of intermediate results per device; a stage that needs more takes a batch in parts.",
    lower_bound=1,
    upper_bound=2**30,
)
BATCH = flags.DEFINE_integer(
    "batch", 64, "Images at a time, over all devices; does not change them.", lower_bound=1, upper_bound=2**20
)
SEED = flags.DEFINE_integer("seed", 0, "Image i depends on (seed, i) only.", lower_bound=0, upper_bound=SEED_LIMIT - 1)


def label() -> str | None:
    """The value of --label, None for all in turn; `Trained.labels` knows what there are."""
    return None if LABEL.value == "all" else LABEL.value


def scale(trained: ssd_jax.Trained) -> float:
    """The value of --guidance, the run's if not given."""
    return trained.config.sample.guidance if GUIDANCE.value is None else GUIDANCE.value


def interval() -> tuple[float, float] | None:
    """The value of --guidance_interval."""
    if INTERVAL.value is None:
        return None
    try:
        low, high = map(float, INTERVAL.value)
    except ValueError as error:
        given = ",".join(INTERVAL.value)
        raise InputError(f"--guidance_interval is {given!r}, but must be two numbers, LOW,HIGH") from error
    return low, high


def plan(trained: ssd_jax.Trained, start: int | None = None) -> ssd_jax.Plan:
    """The plan that the flags ask for."""
    return trained.plan(solver=SOLVER.value, num_steps=NUM_STEPS.value, spacing=SPACING.value, eta=ETA.value, start=start)


def record(trained: ssd_jax.Trained) -> dict:
    """All that decides what image i is, from the run where no flag says it; its order names folders of evaluations."""
    run = trained.config.sample
    chosen = {
        "solver": SOLVER.value or run.solver,
        "num_steps": run.num_steps if NUM_STEPS.value is None else NUM_STEPS.value,
        "guidance": scale(trained),
        "seed": SEED.value,
        "spacing": SPACING.value or run.spacing,
    }
    others = {flag.name: flag.value for flag in (ETA, LABEL, INTERVAL, THRESHOLD)}
    # Later flags are there only if given, so that folders that were begun without them go on.
    later: dict[str, object] = {flag.name: flag.value for flag in (PARALLEL, NORM) if flag.value is not None}
    if (given := guide()) is not None:
        later["guide"] = given.digest
    return folders.origin(trained) | chosen | others | later


def memory_limit() -> int | None:
    """The value of --memory_limit in bytes."""
    return None if MEMORY.value is None else MEMORY.value << 20


def denoiser(trained: ssd_jax.Trained) -> Denoise:
    """The model with the guidance that the flags ask for."""
    parallel = 1.0 if PARALLEL.value is None else PARALLEL.value
    guidance = ssd_jax.Guidance(scale(trained), interval(), parallel, NORM.value)
    return trained.guided(guidance, guide=guide(), threshold_quantile=THRESHOLD.value)


def guide() -> ssd_jax.Trained | None:
    """The run of --guide."""
    return None if GUIDE.value is None else _loaded(GUIDE.value)


@cache
def _loaded(workdir: str) -> ssd_jax.Trained:
    return ssd_jax.load(workdir)


def draw(
    trained: ssd_jax.Trained, denoise: Denoise, plan: ssd_jax.Plan, num: int, first_index: int, every: int | None = None
) -> Iterator[ssd_jax.Snapshot]:
    """Snapshots of images first_index .. first_index + num - 1 of --seed, from noise."""
    return trained.iterate(
        denoise,
        plan,
        jax.random.key(SEED.value),
        num,
        label=label(),
        first_index=first_index,
        memory_limit=memory_limit(),
        every=every,
    )
