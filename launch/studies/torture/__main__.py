"""What runs, checkpoints, configs and files stand: kills, flipped bits, random settings, hostile files.

python -m launch.studies.torture --out docs/reliability.json
python -m launch.studies.torture --part flips --part files

Everything happens in temporary folders. Takes about an hour on two cores; a part of it is at once in the JSON, and the same
command makes only the parts that are not there.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig
from ssd_jax.data.arrays import ArraySource
from ssd_jax.data.preparation import prepare
from ssd_jax.errors import InputError
from ssd_jax.files.json_file import read_json, write_json
from ssd_jax.files.paths import to_path

from ...common import report
from ...common.command import provenance, run
from . import checkpoints, configs, hostile, interruptions

SEED = flags.DEFINE_integer("seed", 0, "Of all that is random.", lower_bound=0, upper_bound=2**32 - 1)
SCALE = flags.DEFINE_float("scale", 1.0, "Times so many kills, flips, configs, files and saves.", lower_bound=0.01)
OUT = flags.DEFINE_string("out", None, "JSON to write, and to go on from.")


def _many(count: int) -> int:
    return max(round(count * SCALE.value), 1)


def _config() -> Config:
    """A run of some seconds."""
    return Config(
        process=ProcessConfig(image_size=8, num_levels=2, num_timesteps=20),
        model=FlexiUNetConfig(widths=(8, 16), attention_levels=(), num_heads=2),
        train=TrainConfig(
            steps=200, batch_size=8 * jax.device_count(), log_every=20, checkpoint_every=10, sample_every=10_000
        ),
        sample=SampleConfig(num=4, num_steps=4),
    )


def prepared(kills: int, terminations: int, processes: int = 1) -> dict[str, Any]:
    """Kills of runs on prepared data, three epochs of them."""
    config = _config()
    with tempfile.TemporaryDirectory() as folder:
        images = ArraySource(np.random.default_rng(SEED.value).integers(0, 256, (512, 8, 8, 3), np.uint8))
        out = Path(folder, "prepared")
        prepare(images, out, shape=(8, 8), crop="area", background=config.data.background)
        data = DataConfig(source="array_record", folder=str(out))
        return interruptions.run(replace(config, data=data), kills, terminations, SEED.value, processes)


PARTS = {
    "memory": lambda: checkpoints.saves(_config(), _many(200)),  # first, while the process is small
    "kills": lambda: interruptions.run(_config(), _many(40), _many(20), SEED.value),
    "kills, prepared data": lambda: prepared(_many(10), _many(10)),
    "kills, two processes": lambda: prepared(_many(10), _many(10), processes=2),
    "flips": lambda: checkpoints.flips(_config(), _many(200), SEED.value),
    "configs": lambda: configs.run(_many(1000), SEED.value, _many(50)),
    "files": lambda: hostile.run(_many(100), SEED.value),
}
PART = flags.DEFINE_multi_enum("part", list(PARTS), list(PARTS), "What to do; all by default.")


def main() -> None:
    out = to_path(OUT.value) if OUT.value else None
    found: dict[str, Any] = {"command": {"seed": SEED.value, "scale": SCALE.value}}
    if out is not None and out.exists():
        found = read_json(out)
        if not isinstance(found, dict) or found.get("command") != {"seed": SEED.value, "scale": SCALE.value}:
            raise InputError(f"{OUT.value!r} is of another --seed or --scale; choose another --out")
    for part in PART.value:
        if part not in found:
            found[part] = {**PARTS[part](), "provenance": provenance()}
            if out is not None:
                write_json(out, found)
        tqdm.write(report.plain(_rows(part, found[part])))
    faults = [fault for part in PART.value for fault in found[part]["faults"]]
    print("\n".join(["", f"{len(faults)} faults", *faults]))


def _rows(part: str, result: dict[str, Any]) -> list[report.Row]:
    shown = {name: value for name, value in result.items() if name not in ("faults", "provenance")}
    return [
        {"part": part, "": name, "found": json.dumps(value) if isinstance(value, dict) else value}
        for name, value in shown.items()
    ]


if __name__ == "__main__":
    run(main)
