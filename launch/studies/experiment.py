"""Trains the same network on three processes, one level, published and preserve, and measures what each can draw.

python -m launch.studies.experiment --out runs/experiment [--variants one_level,published,preserve --seeds 2 --num 2048]

Same network, data order, number of images and seeds; then the same samplers, the same noise and the same metrics. Goes on
where it stopped. Prints tables, and writes results.json, results.md, results.png and grid.png.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import flags

import ssd_jax
from ssd_jax.config import Config
from ssd_jax.errors import unknown_name
from ssd_jax.files import images
from ssd_jax.files.json_file import write_json
from ssd_jax.files.paths import check_writable, to_path, write_atomically

from ..common import report
from ..common.command import provenance, run
from ..common.config_flag import define_config, read_config
from ..common.figures import Figure
from .quality import changed, measured, samples_folder, side_by_side

# A resolution that falls sooner than the data allow: 0.01 nats per pixel are lost at the change to 16 px.
EARLY: dict[str, Any] = {"resolution_schedule": "convex_decay", "gamma": 0.7}
# What a variant changes in the config.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "one_level": {"process": {"num_levels": 1}},
    "published": {"process": {"snr_policy": "published"}},
    "preserve": {},
    "published_early": {"process": {"snr_policy": "published", **EARLY}},
    "preserve_early": {"process": EARLY},
    "preserve_late": {"process": {"tolerance": 1e-4}},
    "preserve_blur": {"process": {**EARLY, "blur": 4.0}},
    "preserve_gradual": {"process": {"resolution_schedule": "convex_decay", "gamma": 0.5, "blur": 4.0}},
    "preserve_single": {"train": {"stage_sampling": "single"}},
    "preserve_few_up": {"train": {"up_share": 0.003}},
    "preserve_single_few_up": {"train": {"stage_sampling": "single", "up_share": 0.003}},
}
DECISIVE = ("one_level", "published", "preserve")
COLUMNS = {
    "low_pass": {"frechet_relative": "Frechet, low-pass", "near_share": "near"},
    "random_convolutions-0": {"frechet_relative": "Frechet, random", "kernel": "kernel", "recall": "recall"},
    "spectrum": {"mean colour": "0", "1 cycle": "1", "2 cycles": "2", "3-4 cycles": "3-4", "distance": "spectral"},
}

define_config("experiment32")
OUT = flags.DEFINE_string("out", "runs/experiment", "Folder of all runs.")
NAMES = flags.DEFINE_list("variants", list(DECISIVE), f"Of {', '.join(VARIANTS)}.")
SEEDS = flags.DEFINE_integer("seeds", 2, "Trained networks of each variant.", lower_bound=1)
NUM = flags.DEFINE_integer("num", 2048, "Images drawn with 30 calls of dpmpp_2m.", lower_bound=2)
ANCESTRAL = flags.DEFINE_integer("ancestral_num", 128, "Images drawn with 1000 ancestral steps; 0 for none.", lower_bound=0)
BATCH = flags.DEFINE_integer("batch", 64, "Images drawn at a time.", lower_bound=1)


def main() -> None:
    config, out = read_config(), to_path(OUT.value)
    for name in NAMES.value:
        if name not in VARIANTS:
            raise unknown_name("variant", name, VARIANTS)
        vary(config, name, seed=0)  # fails before anything is trained
    check_writable(out)
    samplers = {"dpmpp_2m": (min(30, config.process.num_timesteps), NUM.value)}
    if ANCESTRAL.value:
        samplers["ancestral"] = (config.process.num_timesteps, ANCESTRAL.value)
    results: dict[str, dict[str, list[dict]]] = {solver: {} for solver in samplers}
    for seed in range(SEEDS.value):
        for name in NAMES.value:
            varied = vary(config, name, seed)
            workdir = out / f"{name}-seed{seed}"
            ssd_jax.train(varied, workdir)
            for solver, (steps, num) in samplers.items():
                result = measured(workdir, num, BATCH.value, solver=solver, num_steps=steps)
                results[solver].setdefault(name, []).append(result)
    tables = [
        f"{solver}, {calls} calls, {num} images:\n\n"
        + report.markdown([row(*each) for each in results[solver].items()], digits=3)
        for solver, (calls, num) in samplers.items()
    ]
    text = "\n\n".join(tables) + "\n"
    print(text)
    record = {"config": dataclasses.asdict(config), "samplers": samplers, **provenance(), "results": results}
    write_json(out / "results.json", record)
    write_atomically(out / "results.md", lambda file: file.write(text.encode()))
    figure = draw_figure(results)
    write_atomically(out / "results.png", lambda file: figure.savefig(file, format="png", dpi=120))
    plan = {"solver": "dpmpp_2m", "num_steps": samplers["dpmpp_2m"][0]}
    drawn = [samples_folder(out / f"{name}-seed0", config.train.steps, **plan) for name in NAMES.value]
    images.write_png(out / "grid.png", side_by_side(drawn))
    print(f"{out}/results.json, results.md, results.png, grid.png (first seed of {', '.join(NAMES.value)}, left to right)")


def vary(config: Config, name: str, seed: int) -> Config:
    """The config of a variant, trained with `seed`."""
    return changed(config, VARIANTS[name], seed=seed)


def row(name: str, runs: list[dict]) -> report.Row:
    """What a variant reaches: means over its seeds, and the values of the seeds where there are several."""
    cells: dict[str, Any] = {"variant": name, "seeds": len(runs)}
    for features, columns in COLUMNS.items():
        for column, title in columns.items():
            values = [result["metrics"][features].get(column, float("nan")) for result in runs]
            mean, *each = (report.number(value, digits=3) for value in (np.mean(values), *values))
            cells[title] = f"{mean} ({', '.join(each)})" if len(values) > 1 else mean
    return cells | {"FLOPs": runs[0]["relative_flops"]}


def draw_figure(results: dict[str, dict[str, list[dict]]]) -> Figure:
    """Variance drawn over variance of the data, by frequency: one panel a solver, one line a trained network."""
    figure = Figure(figsize=(6 * len(results), 4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(results), sharey=True))
    for axes, (solver, variants) in zip(panels, results.items(), strict=True):
        for i, (name, runs) in enumerate(variants.items()):
            for j, result in enumerate(runs):
                bands = {band: ratio for band, ratio in result["metrics"]["spectrum"].items() if band != "distance"}
                axes.plot(list(bands), list(bands.values()), "o-", color=f"C{i}", label=None if j else name)
        axes.axhline(1, color="gray", linestyle="--")
        axes.set(title=solver, ylabel="variance drawn / variance of the data")
        axes.tick_params(axis="x", rotation=30)
        axes.legend()
    return figure


if __name__ == "__main__":
    run(main)
