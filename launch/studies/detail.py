"""Where a run loses detail: the power of its predictions, band by band, beside what the best linear ones would have.

python -m launch.studies.detail --workdir runs/frontier/levels-12-seed0 [--timesteps 5,20,50,120,200]

At timesteps of its stays, on noisy states of its own data: the variance of z-hat over that of the images, of each band of
frequencies, and the same of the best prediction that is linear in the state (Wiener's: every frequency by itself). A good
network has more than the linear one, as images are not Gaussian; where it has less, towards t = 0, it does not even hand
on what it sees, and samples, which its last calls make, lack that power.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

import ssd_jax
from ssd_jax.analysis.empirical import noisy_states
from ssd_jax.errors import InputError
from ssd_jax.metrics.spectral import band_means, bands
from ssd_jax.process.spectrum import measured_spectrum

from ..common import report
from ..common.command import run
from .quality import different_images, predictions

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run.", required=True)
TIMESTEPS = flags.DEFINE_list("timesteps", [], "Of stays; by default a few of each.")
STATES = flags.DEFINE_integer("states", 256, "Noisy states at every timestep.", lower_bound=2)


def main() -> None:
    trained = ssd_jax.load(Path(WORKDIR.value))
    images, labels = different_images(trained, STATES.value)
    rows = [detail(trained, images, labels, t) for t in tqdm(timesteps(trained), "timesteps")]
    print(report.markdown(rows, digits=3))


def timesteps(trained: ssd_jax.Trained) -> list[int]:
    """Those asked for, or four of each stay. Raises InputError for those of no stay."""
    stays = [stage for stage in trained.process.stages if not stage.is_up]
    if not TIMESTEPS.value:
        return sorted({t for stay in stays for t in np.linspace(stay.t_min, stay.t_max, 4).astype(int).tolist()})
    given = [int(each) if each.isdecimal() else -1 for each in TIMESTEPS.value]
    for t, each in zip(given, TIMESTEPS.value, strict=True):
        if not any(stay.t_min <= t <= stay.t_max for stay in stays):
            told = ", ".join(f"{stay.t_min}..{stay.t_max}" for stay in stays)
            raise InputError(f"--timesteps has {each!r}, but stays of this run have {told}")
    return given


def detail(trained: ssd_jax.Trained, images: jax.Array, labels: np.ndarray, t: int) -> report.Row:
    """The shares of power of a timestep: of the network's predictions and, in brackets, of the best linear ones."""
    process = trained.process
    stage = next(stage for stage in process.stages if stage.t_min <= t <= stage.t_max)
    target = process.degrade(images, stage.out_level)
    predicted = predictions(trained, noisy_states(process, images, t, jax.random.key(0)), labels, t, stage)
    clean = process.noisy_state(images, t, jnp.zeros_like(target))
    signal, power, found = (measured_spectrum(np.asarray(each)) for each in (clean, target, predicted))
    linear = power * signal / (signal + process.sigma[t] ** 2)
    reference = band_means(power)
    shares = zip(band_means(found) / reference, band_means(linear) / reference, strict=True)
    names, _ = bands(power.shape)
    cells = {name: f"{own:.3f} ({best:.3f})" for name, (own, best) in zip(names, shares, strict=True)}
    return {"t": t, "stage": str(stage), **cells}


if __name__ == "__main__":
    run(main)
