"""What a process can do before anything is trained: information, cost and exact error of a config, stage by stage.

python -m launch.analyze --config configs/openmoji32.py [--solver ancestral --num_steps 1000 --spectrum natural --out DIR]

Measures the spectrum of the data, then prints what each stage knows and costs, the error that sampling makes with the best
denoiser of Gaussian data of that spectrum, and the resolution schedule that the spectrum allows, ready to paste. With --out
it also writes analysis.json and analysis.png.

Of latents it also prints how near each operator brings them to the latents of smaller pictures: an average of latents is
not the latent of an average.
"""

import dataclasses

import numpy as np
from absl import flags

from ssd_jax.analysis.cost import PathCost, PlanCost, plan_cost
from ssd_jax.analysis.error import GaussianError, StageInformation, gaussian_error, stage_information
from ssd_jax.analysis.latents import ShrunkLatents, shrunk_latents
from ssd_jax.build import Experiment
from ssd_jax.config import ProcessConfig
from ssd_jax.data import image_batches
from ssd_jax.data.encoding import LatentEncoding
from ssd_jax.files.json_file import write_json
from ssd_jax.files.paths import check_writable, to_path, write_atomically
from ssd_jax.process.config import make_process, operators_of, with_levels
from ssd_jax.process.operators import OPERATORS
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.schedules import information_levels
from ssd_jax.process.spectrum import (
    fitted_slope,
    frequencies,
    lost_information,
    natural_spectrum,
    ring_means,
)
from ssd_jax.run.latents import planned
from ssd_jax.sampling.plan import Plan, plan_steps
from ssd_jax.sampling.solvers import SOLVERS

from .common import report
from .common.command import run
from .common.config_flag import define_config, read_config
from .common.figures import Figure
from .common.spectra import assumed, measured, source_of

define_config()
OUT = flags.DEFINE_string("out", None, "Folder for analysis.json and analysis.png.")
SOLVER = flags.DEFINE_enum("solver", "ancestral", list(SOLVERS), "Solver of the plan.")
NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Network calls of the plan; all timesteps by default.")
SPECTRUM = flags.DEFINE_enum("spectrum", "data", ["data", "natural"], "That of the config's data or a power law.")
IMAGES = flags.DEFINE_integer("images", 4096, "Images to measure the spectrum on.", lower_bound=2)
SLOPE = flags.DEFINE_float("slope", 2.0, "Of the power law.")
TOLERANCE = flags.DEFINE_float(
    "tolerance", None, "Nats per pixel that a lower resolution may lose; by default process.tolerance.", lower_bound=0
)
MEMORY = flags.DEFINE_bool("memory", False, "Also compile the network, to say how much memory a call takes.")

COMPARED = 64  # pictures whose latents operators are compared on


@dataclasses.dataclass(frozen=True)
class Analysis:
    """One process under one plan: what it knows, costs and gets wrong."""

    stages: tuple[StageInformation, ...]
    cost: PlanCost
    error: GaussianError


def main() -> None:
    experiment = planned(read_config())
    config, process = experiment.config, experiment.process
    if OUT.value is not None:
        check_writable(to_path(OUT.value))
    whole = make_process(one_level(config.process))
    _plan(process)  # wrong numbers show before the images are read
    spectrum = measured(experiment, IMAGES.value) if SPECTRUM.value == "data" else assumed(experiment, SLOPE.value)
    found = analyze(experiment, process, spectrum, memory=MEMORY.value)
    baseline = gaussian_error(_plan(whole), spectrum)
    tolerance = config.process.tolerance if TOLERANCE.value is None else TOLERANCE.value
    advised = advised_config(config.process, whole, spectrum, tolerance)
    better = analyze(experiment, make_process(advised), spectrum)
    compared = _compared(experiment)
    print("\n".join(_report(process, found, baseline, spectrum)))
    print("\n".join(_advice(advised, better, tolerance) + _operators(compared)))
    if OUT.value is None:
        return
    results = {
        "config": dataclasses.asdict(config.process),
        "plan": {"solver": SOLVER.value, "num_steps": _plan(process).calls},
        "spectrum": {
            "source": SPECTRUM.value,
            "slope": fitted_slope(spectrum),
            "ring_means": ring_means(spectrum).tolist(),
        },
        "found": _as_dict(found),
        "one_level": {"error": baseline.as_dict()},
        "advised": {"config": dataclasses.asdict(advised), **_as_dict(better)},
        "operators": [dataclasses.asdict(each) for each in compared],
    }
    out = to_path(OUT.value)
    write_json(out / "analysis.json", results)  # the log-SNR of pure noise is null
    figure = _figure(process, whole, spectrum, {"this process": found.error, "one level": baseline}, tolerance)
    write_atomically(out / "analysis.png", lambda file: figure.savefig(file, format="png", dpi=120))
    print(f"\n{OUT.value}/analysis.json, {OUT.value}/analysis.png")


def analyze(experiment: Experiment, process: ScaleSpaceProcess, spectrum: np.ndarray, *, memory: bool = False) -> Analysis:
    """Everything about one process, with the plan of the flags and the network and data of the experiment."""
    plan = _plan(process)
    cost = plan_cost(plan, experiment.config.model, channels=experiment.encoding.channels, memory=memory)
    return Analysis(stage_information(plan, spectrum), cost, gaussian_error(plan, spectrum))


def one_level(config: ProcessConfig) -> ProcessConfig:
    """The same process at full resolution throughout."""
    return dataclasses.replace(config, num_levels=1, thresholds=())


def advised_config(
    config: ProcessConfig, whole: ScaleSpaceProcess, spectrum: np.ndarray, tolerance: float
) -> ProcessConfig:
    """The process whose states are as small as they can be without losing more than `tolerance` nats per pixel."""
    levels = information_levels(whole.log_snr, spectrum, config.level_shapes, tolerance, whole.dissipation)
    return with_levels(config, levels)


def _plan(process: ScaleSpaceProcess) -> Plan:
    return plan_steps(process, solver=SOLVER.value, num_steps=NUM_STEPS.value or process.num_timesteps)


def _compared(experiment: Experiment) -> list[ShrunkLatents]:
    """What operators make of latents; nothing where there are none, or but one level."""
    config, encoding = experiment.config.process, experiment.encoding
    if not isinstance(encoding, LatentEncoding):
        return []
    (latents,) = image_batches(source_of(experiment), COMPARED, COMPARED)
    operators = {name: operators_of(dataclasses.replace(config, operator=name)) for name in OPERATORS}
    return shrunk_latents(encoding, operators, encoding.encode(latents))


def _as_dict(analysis: Analysis) -> dict:
    stages, cost = ([dataclasses.asdict(row) for row in rows] for rows in (analysis.stages, analysis.cost.stages))
    totals = {"flops": analysis.cost.flops, "relative_flops": analysis.cost.relative_flops}
    merged = [{**stage, **call} for stage, call in zip(stages, cost, strict=True)]
    return {"stages": merged, "cost": totals, "error": analysis.error.as_dict()}


def _report(process: ScaleSpaceProcess, found: Analysis, baseline: GaussianError, spectrum: np.ndarray) -> list[str]:
    calls = sum(stage.steps for stage in found.stages)
    total, relative, error = found.cost.flops / 1e9, found.cost.relative_flops, found.error.relative_error
    return [
        f"Spectrum ({SPECTRUM.value}): standard deviation {np.sqrt(spectrum.mean()):.3f}, "
        f"power ~ k^-{fitted_slope(spectrum):.2f}",
        "",
        report.plain([_stage_row(*each, process) for each in zip(found.stages, found.cost.stages, strict=True)]),
        f"{calls} calls, {total:.1f} GFLOPs an image: {relative:.2f} of those at full size",
        "",
        f"Sampling with {SOLVER.value}, {calls} calls, exact denoiser: relative error {error:.3g}, "
        f"at full size {baseline.relative_error:.3g}",
        "Variance drawn / variance of the data, by cycles per side:",
        report.plain([_octaves("this process", found.error), _octaves("full size", baseline)]),
    ]


def _stage_row(stage: StageInformation, call: PathCost, process: ScaleSpaceProcess) -> report.Row:
    return {
        "stage": stage.name,
        "pixels": report.size(process.level_shape(stage.in_level)),
        "t": _pair(stage.timesteps),
        "log-SNR": _pair(stage.log_snr),
        "nats per pixel": _pair(stage.information),
        "lost by level": _pair(stage.lost, digits=2),
        "calls": stage.steps,
        "GFLOPs a call": call.flops / 1e9,
    } | ({} if call.memory is None else {"MiB a call": call.memory / 2**20})


def _pair(values: tuple[float, float], digits: int = 4) -> str:
    low, high = (report.number(value, digits) for value in values)
    return low if low == high else f"{low} .. {high}"


def _octaves(name: str, error: GaussianError) -> report.Row:
    """Mean variance ratios of octaves of frequency."""
    ring = np.rint(frequencies(error.variance_ratio.shape))
    octave = np.where(ring > 0, np.ceil(np.log2(np.maximum(ring, 1))) + 1, 0).astype(int)
    names = ["0", "1", "2", *(f"{2 ** (i - 2) + 1}-{2 ** (i - 1)}" for i in range(3, octave.max() + 1))]
    means = np.bincount(octave.ravel(), error.variance_ratio.ravel()) / np.bincount(octave.ravel())
    return {"": name} | dict(zip(names, means, strict=False))


def _advice(advised: ProcessConfig, better: Analysis, tolerance: float) -> list[str]:
    if not advised.thresholds:
        return ["", f"No lower resolution loses less than --tolerance={tolerance:g} nats per pixel."]
    return [
        "",
        f"The smallest states that lose at most {tolerance:g} nats per pixel "
        f"({better.cost.relative_flops:.2f} of the operations, relative error {better.error.relative_error:.3g}):",
        f"    --config.process.num_levels={advised.num_levels} --config.process.resolution_schedule=threshold "
        f"'--config.process.thresholds={advised.thresholds}'",
    ]


def _operators(compared: list[ShrunkLatents]) -> list[str]:
    rows: list[report.Row] = [
        {
            "latents": "shrunk by " + each.operator if each.operator else "of smaller pictures",
            "size": report.size(each.shape),
            "from their latents": each.of_latents,
            "decoded, from their pictures": each.of_pictures,
        }
        for each in compared
    ]
    told = "Shrunk latents beside smaller pictures, distances over deviations (0: the same; 1: no nearer than the mean):"
    return ["", told, report.plain(rows, digits=3)] if rows else []


def _figure(
    process: ScaleSpaceProcess,
    whole: ScaleSpaceProcess,
    spectrum: np.ndarray,
    errors: dict[str, GaussianError],
    tolerance: float,
) -> Figure:
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    power, lost, ratio = figure.subplots(1, 3)
    rings = ring_means(spectrum)
    k = np.arange(1, len(rings))
    power.loglog(k, rings[1:], label="measured" if SPECTRUM.value == "data" else "assumed")
    power.loglog(k, ring_means(natural_spectrum(spectrum.shape))[1:], "--", color="gray", label="natural, k^-2")
    power.set(xlabel="cycles per side", title="variance of a DCT coefficient")
    for level in range(1, process.num_levels):
        blur_time = 0.0 if whole.dissipation is None else whole.dissipation
        values = lost_information(whole.log_snr, spectrum, process.level_shape(level), blur_time)
        (line,) = lost.semilogy(values, label=f"level {level}")
        if level in process.used_levels:
            first = process.first_timestep(level)
            lost.plot(first, values[first], "o", color=line.get_color())
    lost.axhline(tolerance, color="gray", linestyle="--")
    lost.set(xlabel="t", ylim=(tolerance / 100, None), title="nats per pixel lost at a level (dot: where it begins)")
    for name, error in errors.items():
        ratio.semilogx(k, ring_means(error.variance_ratio)[1:], label=name)
    ratio.axhline(1, color="gray", linestyle="--")
    ratio.set(xlabel="cycles per side", title="variance drawn / variance of the data")
    for axes in (power, lost, ratio):
        axes.legend() if axes.get_legend_handles_labels()[0] else None
    return figure


if __name__ == "__main__":
    run(main)
