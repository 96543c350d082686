"""Measures what the library claims: one command, one set of tables, as text, JSON and a figure.

python -m launch.benchmark [--out runs/benchmark --repeats 5 --config.model.widths="(64, 128, 128, 128)"]
python -m launch.benchmark --reference-code PATH

Operations, memory of temporaries, wall time and images/s of sampling and training, stage by stage and in all, for 1, 2, 4
and as many levels as the process of the config has; ratios are against one level, same network, same steps. Then what there
is to know without a clock: the exact error of sampling, both SNR policies, and the operations of the published networks.
Times are medians of runs that take turns, so that a busy machine disturbs all alike. With --reference-code, a checkout of
the published PyTorch code (and PyTorch, and what that code imports), that code takes its turns too.

The two SNR policies run the same programs, with other coefficients: they are timed once. The default config is
configs/benchmark64.py, for a CPU; any other does as well.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
from absl import flags
from tqdm import tqdm

from ssd_jax.config import Config
from ssd_jax.files.json_file import write_json
from ssd_jax.files.paths import check_writable, to_path, write_atomically

from ..common.command import provenance, run
from ..common.config_flag import define_config, read_config
from ..common.figures import Axes, Figure
from ..common.report import markdown
from .accuracy import sampling_errors, up_step_noise
from .reference import against_published
from .sampling import published_costs, sampling, whole_samples
from .timing import Tables
from .training import training

define_config("benchmark64")
OUT = flags.DEFINE_string("out", "runs/benchmark", "Folder for benchmark.md, benchmark.json and benchmark.png.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each contestant.", lower_bound=1)
REFERENCE_CODE = flags.DEFINE_string("reference-code", None, "A checkout of the published PyTorch code, to time it too.")


def main() -> None:
    config, out = read_config(), to_path(OUT.value)
    check_writable(out)
    jax.config.update("jax_enable_compilation_cache", False)  # or compile times would be those of reading files
    place, tables = provenance(), {}
    for part in tqdm(parts(config, REPEATS.value, REFERENCE_CODE.value), "benchmark", unit="part"):
        measured = part()
        tqdm.write(as_text(measured))
        tables |= measured
    as_dicts = {name: dataclasses.asdict(table) for name, table in tables.items()}
    results = {"machine": place, "repeats": REPEATS.value, "config": dataclasses.asdict(config), "tables": as_dicts}
    text = f"# Benchmark\n\n{', '.join(f'{name} {value}' for name, value in place.items())}\n\n{as_text(tables)}"
    figure = draw(tables)
    write_json(out / "benchmark.json", results)
    write_atomically(out / "benchmark.md", lambda file: file.write(text.encode()))
    write_atomically(out / "benchmark.png", lambda file: figure.savefig(file, format="png", dpi=120))
    print(f"{out}/benchmark.md, {out}/benchmark.json, {out}/benchmark.png")


def parts(config: Config, repeats: int, reference_code: str | None) -> list[Callable[[], Tables]]:
    """What there is to measure."""
    most = config.process.num_levels
    levels = tuple(sorted({n for n in (1, 2, 4) if n < most} | {most}))
    measured = [
        partial(sampling, config, levels, repeats),
        partial(whole_samples, config, levels, repeats),
        partial(training, config, levels, repeats),
        partial(sampling_errors, config.process, levels),
        partial(up_step_noise, repeats, size=2 * config.process.shape[0], batch=config.train.batch_size),
        partial(published_costs, config.process.num_timesteps),
    ]
    return measured if reference_code is None else [partial(against_published, reference_code, config, repeats), *measured]


def as_text(tables: Tables) -> str:
    """Tables as Markdown."""
    return "\n".join(f"## {table.title}\n\n{markdown(table.rows, digits=3)}\n" for table in tables.values())


def draw(tables: Tables) -> Figure:
    """Costs over those of one level, costs of stages, exact errors."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    ratios, stages, errors = figure.subplots(1, 3)
    _bars(ratios, _ratios(tables))
    ratios.axhline(1, color="gray", linestyle="--")
    ratios.set(title="cost over that of one level")
    _bars(stages, _stage_shares(tables))
    stages.set(title="cost of a stage over that of stay0, an image")
    _bars(errors, _errors(tables))
    errors.set(title="relative error, exact denoiser", yscale="log")
    for axes in (ratios, stages, errors):
        axes.legend(fontsize="small")
    return figure


def _ratios(tables: Tables) -> dict[str, dict[str, float]]:
    """By number of levels, by what is measured."""
    series: dict[str, dict[str, float]] = {}
    for row in tables["sampling"].rows[1:]:
        measured = {"sampling FLOPs": row["FLOPs ratio"], "sampling time": row["time ratio"]}
        series.setdefault(f"{row['levels']} levels", {}).update(measured)
    for row in tables["training"].rows[1:]:
        if row["stage sampling"] == "mixed":
            measured = {f"training {name}": row[f"{name} ratio"] for name in ("FLOPs", "time", "memory")}
            series[f"{row['levels']} levels"].update(measured)
    return series


def _stage_shares(tables: Tables) -> dict[str, dict[str, float]]:
    """By what is measured, by stage."""
    columns = [
        ("sampling FLOPs", "sampling_stages", "GFLOPs"),
        ("sampling time", "sampling_stages", "ms"),
        ("training FLOPs", "training_stages", "GFLOPs/image"),
        ("training time", "training_stages", "ms/image, single"),
    ]

    def shares(table: str, column: str) -> dict[str, float]:
        costs = {row["stage"]: row[column] for row in tables[table].rows}
        return {stage: cost / costs["stay0"] for stage, cost in costs.items()}

    return {name: shares(table, column) for name, table, column in columns}


def _errors(tables: Tables) -> dict[str, dict[str, float]]:
    """By levels and policy, by sampler."""
    series = {}
    for row in tables["accuracy"].rows:
        name = f"{row['levels']} levels, {row['SNR policy']}" if row["levels"] > 1 else "one level"
        series[name] = {sampler: error for sampler, error in row.items() if sampler.split()[-1].isdigit()}
    return series


def _bars(axes: Axes, series: dict[str, dict[str, float]]) -> None:
    """Grouped bars: a colour per series, a group per key."""
    width = 0.8 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
        axes.bar([x + i * width for x in range(len(values))], list(values.values()), width, label=name)
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(values))], list(values), rotation=30, ha="right")


if __name__ == "__main__":
    run(main)
