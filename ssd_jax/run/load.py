"""Reading a trained model from the workdir of a run, or from a folder of weights."""

from collections.abc import Callable
from dataclasses import replace

import jax

from ssd_jax.build import Experiment, build
from ssd_jax.errors import InputError, check_range, checked_arguments
from ssd_jax.files.json_file import read_json
from ssd_jax.files.paths import Path, exists, to_path
from ssd_jax.process.operators import OPERATORS
from ssd_jax.run.averages import average_of_width
from ssd_jax.run.labels import kept_labels
from ssd_jax.run.latents import kept_autoencoder
from ssd_jax.run.restore import restore_averages
from ssd_jax.run.trained import Trained
from ssd_jax.run.weights import read_weights
from ssd_jax.run.workdir import CONFIG, WEIGHTS, load_config, load_statistics
from ssd_jax.sharding import make_mesh, placed, replicated
from ssd_jax.training.ema import MAIN, WIDEST


@checked_arguments
def load(
    workdir: str | Path, operator: Callable | None = None, ema_width: float | None = None, step: int | str | None = None
) -> Trained:
    """A checkpoint of the run in `workdir`, the latest unless told otherwise, with averaged (EMA) parameters.

    Args:
        workdir: of the run, or a folder of weights that `interop.bundle` wrote, which has one checkpoint and one average;
            nothing that it names is imported.
        operator: that of its config, a function of the spatial shape that returns the operator to the next level; it is
            registered by its name there. Not needed if it is in `process.operators.OPERATORS`.
        ema_width: an average of other weights than the run's own, put together from what it kept (`train.snapshot_every`):
            a power function with this standard deviation, in units of the training (Karras et al. 2024); 0 < width <
            0.28, from late training alone to nearly all.
        step: of the checkpoint, one of those that `train.keep_latest` and `train.keep_every` left; or "best", the one that
            `train.keep_best` left.

    Raises:
        InputError: if there is no run, no checkpoint, or it is damaged; or what it kept does not give this width.
    """
    workdir = to_path(workdir)
    if operator is not None:
        _register(workdir, operator)
    config = load_config(workdir)
    experiment = build(config, load_statistics(workdir), kept_autoencoder(workdir, config))
    experiment = replace(experiment, labels=kept_labels(workdir, config.model))
    if exists(workdir / WEIGHTS):
        return _load_weights(workdir, experiment, ema_width, step)
    abstract = placed({MAIN: experiment.objective.parameters}, replicated(make_mesh()))
    step, averages = restore_averages(workdir, experiment, abstract, step)
    parameters = averages[MAIN]
    if ema_width is not None:
        check_range("ema_width", ema_width, low=0, high=WIDEST, open_low=True)
        average = average_of_width(workdir, step, experiment.objective.parameters, ema_width)
        parameters = jax.device_put(average, replicated(make_mesh()))
    return Trained(experiment, experiment.denoiser(parameters), step)


def _load_weights(workdir: Path, experiment: Experiment, ema_width: float | None, step: int | str | None) -> Trained:
    """`load` for a folder of weights."""
    own, parameters = read_weights(workdir / WEIGHTS, experiment)
    if ema_width is not None or step not in (None, own):
        what = "step" if ema_width is None else "ema_width"
        raise InputError(f"{what} is given, but {str(workdir)!r} holds one average, of step {own}; leave it out")
    return Trained(experiment, experiment.denoiser(jax.device_put(parameters, replicated(make_mesh()))), own)


def _register(workdir: Path, operator: Callable) -> None:
    """Gives the operator the name that the config of a run has for it. Raises InputError if that is another's."""
    try:
        name = str(read_json(workdir / CONFIG)["process"]["operator"])
    except (FileNotFoundError, TypeError, KeyError):
        return  # reading the config says what is wrong with it
    if OPERATORS.setdefault(name, operator) is not operator:
        raise InputError(f"operator is given, but the run's, {name!r}, is registered already: leave it out")
