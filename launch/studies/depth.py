"""Whether deeper networks train as calmly: loss and gradient norm with 2, 4 and 8 blocks a level, side by side.

python -m launch.studies.depth --out runs/depth [--blocks 2 --blocks 4 --blocks 8 --steps 300]

The same images, timesteps and noise for all, and the same learning rate, decayed to the end. The norm is that of the
gradient of a step before it is clipped. Goes on with the networks that are not trained yet. Writes depth.json, and from it
depth.md and depth.png.
"""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax
from absl import flags
from tqdm import tqdm

from ssd_jax.build import build
from ssd_jax.config import Config, config_json
from ssd_jax.data import make_source
from ssd_jax.data.pipeline import make_iterator
from ssd_jax.errors import InputError
from ssd_jax.files.json_file import parse_json, read_json, write_json
from ssd_jax.files.paths import Path, check_writable, to_path, write_atomically
from ssd_jax.run.task import with_statistics
from ssd_jax.run.watching import mean_losses
from ssd_jax.sharding import make_mesh
from ssd_jax.training.state import init_state
from ssd_jax.training.step import TrainStep, compile_train_step

from ..common import report
from ..common.command import provenance, run
from ..common.config_flag import define_config, read_config
from ..common.figures import Figure
from .quality import changed

POINTS = 30  # of a curve, each the mean of as many steps

define_config("experiment32")
OUT = flags.DEFINE_string("out", "runs/depth", "Folder for depth.json, depth.md and depth.png.")
BLOCKS = flags.DEFINE_multi_integer("blocks", [2, 4, 8], "ResBlocks a level of each network.")
STEPS = flags.DEFINE_integer("steps", 300, "Of training.", lower_bound=1)


def main() -> None:
    config, out = changed(read_config(), {}, steps=STEPS.value), to_path(OUT.value)
    networks = [changed(config, {"model": {"num_res_blocks": blocks}}) for blocks in BLOCKS.value]  # fails before training
    check_writable(out)
    results = begun(out / "depth.json", config)
    for each, blocks in zip(networks, BLOCKS.value, strict=True):
        if all(row["blocks"] != blocks for row in results["rows"]):
            row = {"blocks": blocks, **trained(each, out)}
            results["rows"] = sorted([*results["rows"], row], key=lambda row: row["blocks"])
            write_json(out / "depth.json", results)
    text = report.markdown(table(results["rows"]), digits=3) + "\n"
    print(text)
    write_atomically(out / "depth.md", lambda file: file.write(text.encode()))
    figure = draw_figure(results["rows"])
    write_atomically(out / "depth.png", lambda file: figure.savefig(file, format="png", dpi=120))
    print(f"{out}/depth.json, depth.md, depth.png")


def begun(file: Path, config: Config) -> dict[str, Any]:
    """The results to add to: those of a depth.json, if there is one. Raises InputError if they are of another config."""
    settings = parse_json(config_json(config))
    if not file.exists():
        return {"config": settings, "made_by": provenance(), "rows": []}
    results = read_json(file)
    if not isinstance(results, dict) or results.get("config") != settings or "rows" not in results:
        raise InputError(f"{str(file)!r} is of another config; choose another --out, nothing is overwritten")
    return results


def trained(config: Config, out: Path) -> dict[str, Any]:
    """Trains a network, and keeps nothing of it but its curves.

    Args:
        config: of the run.
        out: folder that a run would have; nothing is written there.

    Returns:
        "parameters", "skipped" updates, "largest_norm" of a step, and by "step", the last of each point of the curves,
        "loss" and "gradient_norm", means over the steps of the point.
    """
    model: Any = config.model
    source, settings, mesh = make_source(config.data, config.process.shape), config.train, make_mesh(config.mesh)
    experiment = with_statistics(build(config), out, source)
    batches = make_iterator(source, batch_size=settings.batch_size, seed=settings.seed, flip=config.data.flip)
    kept = ("image", "label") if experiment.objective.labelled else ("image",)
    losses: list[dict[str, jax.Array]] = []
    norms: list[jax.Array] = []
    step = compile_train_step(experiment.objective, settings, mesh)
    watched = with_norms(step, norms)
    state = init_state(experiment.init_parameters, settings.seed, mesh)
    for number in tqdm(range(settings.steps), f"{model.num_res_blocks} blocks a level", unit="step"):
        batch = next(batches)
        state, loss = watched(state, number, {name: batch[name] for name in kept})
        losses.append(loss)
    points = [each.tolist() for each in np.array_split(np.arange(settings.steps), min(POINTS, settings.steps))]
    found = np.array(jax.device_get(norms), np.float64)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_parameters)),
        "skipped": int(state.skipped),
        "largest_norm": float(found.max()),
        "step": [point[-1] + 1 for point in points],
        "loss": [mean_losses([losses[i] for i in point], step.allocation)["loss"] for point in points],
        "gradient_norm": [float(found[point].mean()) for point in points],
    }


def with_norms(step: TrainStep, norms: list[jax.Array]) -> TrainStep:
    """The step, which then appends the norm of each gradient before it is clipped, still on the device."""

    def update(state, total, used):
        norms.append(_norm(total))
        return step.update(state, total, used)

    return replace(step, update=update)


@jax.jit
def _norm(total):
    """Of the sum over the devices, the first axis."""
    return optax.tree.norm(jax.tree.map(lambda part: part.sum(0), total))


def table(rows: list[dict]) -> list[report.Row]:
    """A line a network: what its curves begin and end with."""
    return [
        {
            "blocks": row["blocks"],
            "million parameters": row["parameters"] / 1e6,
            "loss, first": row["loss"][0],
            "loss, middle": row["loss"][len(row["loss"]) // 2],
            "loss, last": row["loss"][-1],
            "gradient norm, first": row["gradient_norm"][0],
            "gradient norm, middle": row["gradient_norm"][len(row["gradient_norm"]) // 2],
            "gradient norm, last": row["gradient_norm"][-1],
            "largest": row["largest_norm"],
            "skipped updates": row["skipped"],
        }
        for row in rows
    ]


def draw_figure(rows: list[dict]) -> Figure:
    """Loss and gradient norm against steps, a line a network."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, kind in zip(panels, ("loss", "gradient_norm"), strict=True):
        for row in rows:
            axes.plot(row["step"], row[kind], "o-", markersize=3, label=f"{row['blocks']} blocks a level")
        axes.set(title=kind.replace("_", " "), xlabel="step", yscale="log")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    run(main)
