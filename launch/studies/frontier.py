"""Quality against the cost of training: one level and several, at equal operations, at equal time, over seeds.

python -m launch.studies.frontier --out runs/frontier [--variants one_level,levels --points 1,2,4 --seeds 3 --num 1024]
python -m launch.studies.frontier --rows docs/frontier.json --out DIR

A point is a run of its own, its learning rate decayed to its end, of so many times 12,000 image-equivalents: draws at full
resolution that would have cost the same. Runs of one seed see the same images in the same order, and are sampled with the
same noise. Goes on where it stopped. Writes rows.json, from which --rows draws all again without the runs, frontier.md,
frontier.png, and grid.png: the same 32 noises drawn by the longest run of each variant, seed 0.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from absl import flags

import ssd_jax
from ssd_jax.config import Config, config_from_json, config_json
from ssd_jax.errors import InputError, check_range, unknown_name
from ssd_jax.files import images
from ssd_jax.files.json_file import json_text, parse_json, read_json, write_json
from ssd_jax.files.paths import Path, check_writable, to_path, write_atomically
from ssd_jax.training.ema import WIDEST
from ssd_jax.training.stage_sampling import allocate

from ..benchmark.timing import built, time_in_turns
from ..benchmark.training import prepare
from ..common import report
from ..common.command import provenance, run
from ..common.config_flag import define_config, read_config
from ..common.figures import Figure
from .quality import METRICS, changed, figures, measured, samples_folder, side_by_side, spread

POINT = 12_000  # image-equivalents
TIMED_STEPS = 4  # in a row
SNAPSHOTS = 30  # of the averaged weights of a run
# Draws of a step, and of the timesteps of a stage, by their cost and by their noise as `launch.studies.allocation` found it
# on one_level_uniform (--parts 10) and on levels_proportional (--parts 4) after 48,000 images.
ONE_LEVEL: dict[str, Any] = {
    "allocation": "cost_aware",
    "timestep_parts": 10,
    "gradient_variances": (31.2, 31.8, 65.2, 67.3, 66.5, 34.4, 17.5, 5.81, 1.84, 1.0),
    "draws_multiple": 1,
}
LEVELS: dict[str, Any] = {
    "allocation": "cost_aware",
    "timestep_parts": 4,
    "gradient_variances": (
        *(10.8, 11.6, 11.0, 10.3, 7.39),  # stay3 and up3to2
        *(9.22, 10.0, 11.3, 17.6, 46.9),
        *(36.8, 31.4, 15.1, 10.7, 34.7),
        *(32.8, 5.56, 1.6, 1.0),
    ),
    "draws_multiple": 1,
}
PROCESS: dict[str, Any] = {"resolution_schedule": "convex_decay", "gamma": 0.7, "blur": 4.0}  # blur within the levels
# What a variant changes in the config.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "one_level": {"process": {"num_levels": 1}, "train": ONE_LEVEL},
    "one_level_uniform": {"process": {"num_levels": 1}, "train": {"draws_multiple": 1}},
    "levels": {"process": PROCESS, "train": {**LEVELS, "flops_per_step": 1.0}},
    "levels_two_thirds": {"process": PROCESS, "train": {**LEVELS, "flops_per_step": 2 / 3}},
    "levels_proportional": {"process": PROCESS, "train": {"draws_multiple": 1}},
}
BASELINE = "one_level"
KEY = ("variant", "average", "point", "seed")  # of a row

define_config("experiment32")
OUT = flags.DEFINE_string("out", "runs/frontier", "Folder of all runs.")
ROWS = flags.DEFINE_string("rows", None, "A rows.json to draw from, instead of training.")
NAMES = flags.DEFINE_list("variants", [BASELINE, "levels", "levels_two_thirds"], f"Of {', '.join(VARIANTS)}.")
POINTS = flags.DEFINE_list("points", ["1", "2", "4", "8"], f"Lengths of training, in {POINT} image-equivalents.")
WIDTHS = flags.DEFINE_list("ema_widths", [], "Averages of the weights to draw with besides the runs' own, e.g. 0.05,0.1.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each variant and length.", lower_bound=1)
NUM = flags.DEFINE_integer("num", 1024, "Images drawn by each.", lower_bound=2)
BATCH = flags.DEFINE_integer("batch", 64, "Images drawn at a time.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 15, "Timed runs of steps of each variant.", lower_bound=1)


def main() -> None:
    out = to_path(OUT.value)
    check_writable(out)
    rows = read_results(to_path(ROWS.value))["rows"] if ROWS.value else train_and_measure(read_config(), out)
    text = "\n\n".join([report.markdown(table(rows), digits=3), report.markdown(compared(rows), digits=3)]) + "\n"
    print(text)
    write_atomically(out / "frontier.md", lambda file: file.write(text.encode()))
    figure = draw_figure(rows)
    write_atomically(out / "frontier.png", lambda file: figure.savefig(file, format="png", dpi=120))
    print(f"{out}/frontier.md, frontier.png")


def read_results(file: Path) -> dict[str, Any]:
    """A rows.json. Raises InputError if it holds no rows."""
    results = read_json(file)
    if not isinstance(results, dict) or not results.get("rows"):
        raise InputError(f"{str(file)!r} holds no rows; give a rows.json of launch.studies.frontier")
    return results


def train_and_measure(config: Config, out: Path) -> list[dict]:
    """All runs, each seed's one after the other, and what they draw; then what a step of each variant takes."""
    for name in NAMES.value:
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
    points, widths = numbers("points", POINTS.value), numbers("ema_widths", WIDTHS.value) if WIDTHS.value else []
    for width in widths:  # fails before anything is trained
        check_range("--ema_widths", width, low=0, high=WIDEST)
    results = begun(out / "rows.json", config)
    flops = {name: step_flops(varied(config, name, points[0], 0)) for name in NAMES.value}
    plan = {"solver": "dpmpp_2m", "num_steps": min(30, config.process.num_timesteps), "spacing": "optimal"}
    for seed in range(SEEDS.value):
        for point in points:
            for name in NAMES.value:
                each, workdir = varied(config, name, point, seed), out / f"{name}-{point:g}-seed{seed}"
                ssd_jax.train(each, workdir)
                for width in [None, *widths]:
                    found = measured(workdir, NUM.value, BATCH.value, width, **plan)
                    row = {
                        "variant": name,
                        "average": "own" if width is None else f"{width:g}",
                        "point": point,
                        "seed": seed,
                    }
                    row |= {"steps": each.train.steps, "training_flops": flops[name] * each.train.steps}
                    others = [each for each in results["rows"] if any(each[key] != row[key] for key in KEY)]
                    results["rows"] = [*others, row | figures(found)]
                    write_json(out / "rows.json", results)
    names = dict.fromkeys(row["variant"] for row in results["rows"])
    seconds = step_seconds({name: varied(config, name, points[0], 0) for name in names})
    for row in results["rows"]:
        row["training_seconds"] = seconds[row["variant"]] * row["steps"]
    write_json(out / "rows.json", results)
    last = [(out / f"{name}-{points[-1]:g}-seed0", varied(config, name, points[-1], 0).train.steps) for name in NAMES.value]
    images.write_png(out / "grid.png", side_by_side([samples_folder(*each, **plan) for each in last]))
    return results["rows"]


def begun(file: Path, config: Config) -> dict[str, Any]:
    """The results to add to: those of a rows.json, if there is one. Raises InputError if they were measured otherwise."""
    settings = {"config": parse_json(config_json(config)), "images": NUM.value}
    if not file.exists():
        return {**settings, "made_by": provenance(), "variants": {name: VARIANTS[name] for name in NAMES.value}, "rows": []}
    results = read_results(file)
    if config_from_json(json_text(results.get("config"))) == config:  # as this version writes it
        results["config"] = settings["config"]
    names = [*results.get("variants", {}), *NAMES.value]
    now = parse_json(json_text(settings | {"variants": {name: VARIANTS.get(name) for name in names}}))
    results["variants"] = now["variants"] | results.get("variants", {})
    for name, value in now.items():
        if results.get(name) != value:
            raise InputError(f"{str(file)!r} is of other {name}; choose another --out, nothing is overwritten")
    return results | {"made_by": provenance()}


def numbers(flag: str, given: Sequence[str]) -> list[float]:
    """The numbers of a flag, rising. Raises InputError if they are not above 0."""
    try:
        values = sorted({float(each) for each in given})
    except ValueError:
        values = [math.nan]
    if not values or not all(0 < value < math.inf for value in values):
        raise InputError(f"--{flag} is {','.join(given)}, but must be numbers above 0, as in 1,2,4")
    return values


def varied(config: Config, name: str, point: float, seed: int) -> Config:
    """The config of a variant, trained with `seed` up to a point."""
    steps = max(round(point * POINT / config.train.batch_size), 1)
    return changed(
        config, VARIANTS[name], seed=seed, steps=steps, sample_every=steps, snapshot_every=-(-steps // SNAPSHOTS)
    )


def step_flops(config: Config) -> float:
    """Operations of the gradients of a step, on average."""
    objective = built(config).objective
    return allocate(objective.process.stages, config.train, 1, objective.flops, objective.log_snr).flops(objective.flops)


def step_seconds(configs: dict[str, Config]) -> dict[str, float]:
    """Median wall time of a step of each variant: they take turns, so that a busy machine disturbs all alike."""
    runs = {name: partial(prepare(config).run, 0, TIMED_STEPS) for name, config in configs.items()}
    return {name: each.seconds / TIMED_STEPS for name, each in time_in_turns(runs, REPEATS.value).items()}


def table(rows: Sequence[dict]) -> list[report.Row]:
    """Means over seeds of every variant and point."""
    units, found = _units(rows), []
    for (name, average, point), runs in _grouped(rows).items():
        cells: dict[str, Any] = {"variant": name, "average": average, "point": point, "seeds": len(runs)}
        cells |= {kind.replace("_", " "): runs[0][kind] / unit for kind, unit in units.items()}
        cells["sampling FLOPs"] = runs[0]["sampling_flops"]
        cells |= {metric: spread(runs, metric) for metric in METRICS}
        found.append(cells | {band: float(np.mean([run["bands"][band] for run in runs])) for band in runs[0]["bands"]})
    return found


def compared(rows: Sequence[dict]) -> list[report.Row]:
    """Every variant against one level of the same average and point, seed by seed.

    The ratio of the means of low_pass; of each other metric the mean difference and its standard error.
    """
    groups, found = _grouped(rows), []
    for (name, average, point), runs in groups.items():
        others = {run["seed"]: run for run in groups.get((BASELINE, average, point), [])}
        pairs = [(run, others[run["seed"]]) for run in runs if run["seed"] in others and name != BASELINE]
        if not pairs:
            continue
        ratio = np.mean([run["low_pass"] for run, _ in pairs]) / np.mean([other["low_pass"] for _, other in pairs])
        cells: dict[str, Any] = {"variant": name, "average": average, "point": point, "pairs": len(pairs)}
        cells["low_pass, ratio"] = float(ratio)
        for metric in METRICS:
            differences = np.array([run[metric] - other[metric] for run, other in pairs if run[metric] is not None])
            if len(differences):
                error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else None
                cells[f"{metric}, difference"] = report.number(float(differences.mean()), 2) + (
                    f" +- {report.number(float(error), 2)}" if error is not None else ""
                )
        found.append(cells)
    return found or [{"variant": "nothing to compare"}]


def draw_figure(rows: Sequence[dict]) -> Figure:
    """Each metric against operations and against time of training: means of the seeds, and bars that hold all of them.

    Of the runs' own averages.
    """
    rows = [row for row in rows if row["average"] == "own"]
    units = _units(rows)
    figure = Figure(figsize=(4 * len(METRICS), 3.5 * len(units)), layout="constrained")
    panels = figure.subplots(len(units), len(METRICS), squeeze=False)
    names = list(dict.fromkeys(row["variant"] for row in rows))
    for line, (kind, unit) in zip(panels, units.items(), strict=True):
        for axes, metric in zip(line, METRICS, strict=True):
            for i, name in enumerate(names):
                groups = [runs for (variant, *_), runs in sorted(_grouped(rows).items()) if variant == name]
                groups = [runs for runs in groups if all(run[metric] is not None for run in runs)]
                values = [[run[metric] for run in runs] for runs in groups]
                cost = [runs[0][kind] / unit for runs in groups]
                means = np.array([np.mean(each) for each in values])
                spread = [means - [min(each) for each in values], [max(each) for each in values] - means]
                axes.errorbar(cost, means, spread, fmt="o-", capsize=4, color=f"C{i}", label=name)
            axes.set(title=metric, xlabel=f"{kind.replace('_', ' ')}, 1 = one level, {POINT} images")
            axes.set(xlim=(0, 1.1 * axes.dataLim.x1), ylim=(0, 1.1 * axes.dataLim.y1))
    panels[0][0].legend(loc="upper right")
    return figure


def _units(rows: Sequence[dict]) -> dict[str, float]:
    """The kinds of cost that all rows have, and the baseline's of one point (or what it is, if it was not measured)."""
    units = {}
    for kind in ("training_flops", "training_seconds"):
        if all(kind in row for row in rows):
            own = [row[kind] / row["point"] for row in rows if row["variant"] == BASELINE]
            units[kind] = float(np.mean(own)) if own else 1.0
    return units


def _grouped(rows: Sequence[dict]) -> dict[tuple[str, str, float], list[dict]]:
    """The seeds of every variant, average and point."""
    groups: dict[tuple[str, str, float], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["average"], row["point"]), []).append(row)
    return groups


if __name__ == "__main__":
    run(main)
