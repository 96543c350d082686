"""Every parameterisation and weighting of the loss side by side: one level and several, same steps and seeds.

python -m launch.studies.parameterisations --out runs/parameterisations [--kinds x0,eps,v,flow,edm --seeds 1 --num 1024]
python -m launch.studies.parameterisations --out runs/weightings --kinds v --weightings constant,min_snr,sigmoid,edm,learned

Same network, data order, number of images, learning rate and seeds; then the same sampler, noise and metrics. Goes on where
it stopped. Writes rows.json, and prints and writes the table, parameterisations.md. A kind that does not fit the process of
the config, such as "eps" with much blur, is not trained: its row says why.
"""

from typing import Any

from absl import flags

import ssd_jax
from ssd_jax.build import build
from ssd_jax.config import Config, config_json
from ssd_jax.errors import InputError, check_name
from ssd_jax.files.json_file import json_text, parse_json, read_json, write_json
from ssd_jax.files.paths import Path, check_writable, to_path, write_atomically
from ssd_jax.network.parameterisation import PARAMETERISATIONS, DataStatistics, make_parameterisation
from ssd_jax.training.loss import LOSS_WEIGHTINGS

from ..common import report
from ..common.command import provenance, run
from ..common.config_flag import define_config, read_config
from .quality import METRICS, changed, figures, measured, spread

# What the process of a variant changes in the config.
PROCESSES: dict[str, dict[str, Any]] = {"one_level": {"num_levels": 1}, "levels": {}}
KEY = ("process", "kind", "weighting", "seed")  # of a row

define_config("experiment32")
OUT = flags.DEFINE_string("out", "runs/parameterisations", "Folder of all runs.")
KINDS = flags.DEFINE_list("kinds", list(PARAMETERISATIONS), "Parameterisations.")
WEIGHTINGS = flags.DEFINE_list("weightings", ["min_snr"], f"Of the loss, of {', '.join(LOSS_WEIGHTINGS)}.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each variant.", lower_bound=1)
NUM = flags.DEFINE_integer("num", 1024, "Images drawn by each.", lower_bound=2)
BATCH = flags.DEFINE_integer("batch", 64, "Images drawn at a time.", lower_bound=1)


def main() -> None:
    config, out = read_config(), to_path(OUT.value)
    for name, values, known in (
        ("kinds", KINDS.value, PARAMETERISATIONS),
        ("weightings", WEIGHTINGS.value, LOSS_WEIGHTINGS),
    ):
        for value in values:
            check_name(f"--{name}", value, known)
    check_writable(out)
    results = begun(out / "rows.json", config)
    plan = {"solver": "dpmpp_2m", "num_steps": min(30, config.process.num_timesteps)}
    wanted: list[dict[str, Any]] = [
        dict(zip(KEY, (process, kind, weighting, seed), strict=True))
        for seed in range(SEEDS.value)
        for weighting in WEIGHTINGS.value
        for kind in KINDS.value
        for process in PROCESSES
    ]
    for key in wanted:
        if any(all(row[name] == key[name] for name in KEY) for row in results["rows"]):
            continue
        results["rows"].append(key | trained(varied(config, key), out / "-".join(map(str, key.values())), plan))
        write_json(out / "rows.json", results)
    text = report.markdown(table(results["rows"]), digits=3) + "\n"
    print(text)
    write_atomically(out / "parameterisations.md", lambda file: file.write(text.encode()))
    print(f"{out}/rows.json, parameterisations.md")


def begun(file: Path, config: Config) -> dict[str, Any]:
    """The results to add to: those of a rows.json, if there is one. Raises InputError if they were measured otherwise."""
    settings = parse_json(json_text({"config": parse_json(config_json(config)), "images": NUM.value}))
    if not file.exists():
        return settings | {"made_by": provenance(), "rows": []}
    results = read_json(file)
    for name, value in settings.items():
        if not isinstance(results, dict) or "rows" not in results or results.get(name) != value:
            raise InputError(f"{str(file)!r} is of other {name}; choose another --out, nothing is overwritten")
    return results


def varied(config: Config, key: dict[str, Any]) -> Config:
    """The config of a variant."""
    changes = {"process": PROCESSES[key["process"]], "denoiser": {"parameterisation": key["kind"]}}
    return changed(config, changes, loss_weighting=key["weighting"], seed=key["seed"], sample_every=config.train.steps)


def trained(config: Config, workdir: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """What a row has of a variant: metrics of what it draws, "sampling_flops"; or "refused": why there is no such run."""
    process = build(config).process
    try:  # for any data that vary
        make_parameterisation(config.denoiser, process, DataStatistics((1.0,) * process.num_timesteps))
    except InputError as error:
        return {"refused": str(error)}
    ssd_jax.train(config, workdir)
    return figures(measured(workdir, NUM.value, BATCH.value, **plan))


def table(rows: list[dict[str, Any]]) -> list[report.Row]:
    """Means over the seeds of every variant, and where there are several the values of all in brackets."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY[:-1]), []).append(row)
    found = []
    for key, runs in groups.items():
        cells: dict[str, Any] = {**dict(zip(KEY, key, strict=False)), "seeds": len(runs)}
        if "refused" in runs[0]:
            found.append(cells | dict.fromkeys(METRICS, "refused"))
            continue
        cells |= {metric: spread(runs, metric) for metric in METRICS}
        found.append(cells)
    return found


if __name__ == "__main__":
    run(main)
