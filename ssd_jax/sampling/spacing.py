"""Which timesteps a sampling plan visits: decreasing, from T - 1 to 0, through the up-step of every level."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError, brief
from ssd_jax.process.process import ScaleSpaceProcess

EDM_RHO = 7.0


def _timestep(process: ScaleSpaceProcess) -> Float[np.ndarray, "t"]:
    return -np.arange(process.num_timesteps, dtype=np.float64)


def _log_snr(process: ScaleSpaceProcess) -> Float[np.ndarray, "t"]:
    """Below -log(2 pixels) noise hides even an image's mean (its SNR is at most 1/2): steps there are idle."""
    return np.maximum(process.image_log_snr, -math.log(2 * math.prod(process.shape)))


def _edm_rho(process: ScaleSpaceProcess) -> Float[np.ndarray, "t"]:
    return -np.exp(-_log_snr(process) / (2 * EDM_RHO))


# Functions of t that fall as t rises. Steps are even in them.
SPACINGS = {
    "log_snr": _log_snr,
    "timestep": _timestep,
    "edm_rho": _edm_rho,  # (noise over signal)^(1/7), Karras et al. 2022
}
SPACING_NAMES = (*SPACINGS, "optimal")  # the last is a search, in `search`


def lay_out(process: ScaleSpaceProcess, num_steps: int, spacing: str) -> Int[np.ndarray, "{num_steps}"]:
    """Visits every up-step, and in between timesteps that are even in `spacing`.

    Args:
        process: the process to run backwards.
        num_steps: network calls, from the number of levels in use + 1 to T; = T visits every timestep.
        spacing: a key of SPACINGS.

    Raises:
        InputError: if num_steps is out of range.
    """
    ends, levels = fixed_timesteps(process), len(process.used_levels)
    room = -np.diff(ends)
    if not len(room) < num_steps <= process.num_timesteps:
        raise InputError(
            f"num_steps is {num_steps}, but this process of {levels} levels and {process.num_timesteps} "
            f"timesteps allows {len(room) + 1} to {process.num_timesteps}"
        )
    # The timestep decides where the coordinate is flat.
    coordinate = SPACINGS[spacing](process) + 1e-6 * _timestep(process)
    lengths = np.diff(coordinate[ends])
    counts = np.ones(len(room), int)
    for _ in range(num_steps - 1 - len(room)):
        counts[np.argmax(np.where(counts < room, lengths / counts, -1.0))] += 1
    triples = zip(ends[:-1].tolist(), ends[1:].tolist(), counts.tolist(), strict=True)
    segments = [_even(coordinate, high, low, count) for high, low, count in triples]
    return np.concatenate([ends[:1], *segments])


def _even(coordinate: Float[np.ndarray, "t"], high: int, low: int, count: int) -> Int[np.ndarray, "{count}"]:
    """The timesteps nearest to `count` even steps from `high` (left out) to `low`, no two of them the same."""
    segment = np.arange(high, low - 1, -1)
    wanted = np.linspace(coordinate[high], coordinate[low], count + 1)[1:]
    nearest = np.rint(np.interp(wanted, coordinate[segment], np.arange(len(segment)))).astype(int)
    order = np.arange(count)
    index = np.maximum.accumulate(np.maximum(nearest, 1) - order) + order  # rises
    return segment[np.minimum(index, len(segment) - count + order)]  # and leaves enough for the rest


def fixed_timesteps(process: ScaleSpaceProcess) -> Int[np.ndarray, "ends"]:
    """What every plan visits: T - 1, the up-steps' timesteps and 0, decreasing."""
    starts = [process.first_timestep(level) for level in process.used_levels]
    return np.unique([*starts, process.num_timesteps - 1])[::-1]


def check_timesteps(process: ScaleSpaceProcess, timesteps: Sequence[int] | np.ndarray) -> Int[np.ndarray, "steps"]:
    """A list of one's own as an array. Raises InputError if it does not fall from T - 1 to 0 through every up-step."""
    fixed = fixed_timesteps(process).tolist()
    try:
        array = np.asarray(timesteps)
    except ValueError:  # lists in a list
        array = np.empty(0)
    fine = array.ndim == 1 and np.issubdtype(array.dtype, np.integer) and (np.diff(array) < 0).all()
    if not fine or not array.size or (array[0], array[-1]) != (fixed[0], 0) or not set(fixed) <= set(array.tolist()):
        raise InputError(
            f"timesteps are {brief(timesteps)}, but timesteps must be whole numbers that fall from {fixed[0]} to 0 and "
            f"include {fixed}"
        )
    return array
