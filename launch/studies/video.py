"""What levels save on clips, and what they lose by construction, beside images of the same side.

python -m launch.studies.video --out docs

Gaussian data with the spectrum of natural images (power ~ k^-2) and of natural video (power ~ 1 / (k^2 + c w^2), k in
cycles per side, w in cycles per clip), the exact denoiser, an ideal low-pass, linear betas. Levels halve the frames' sides,
or these and the number of frames. Writes video.json, going on where it stopped, and video.md; trains nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from ssd_jax.analysis.cost import plan_cost
from ssd_jax.analysis.error import gaussian_error
from ssd_jax.config import ProcessConfig
from ssd_jax.files.json_file import json_text, read_json
from ssd_jax.files.paths import check_writable, to_path, write_atomically
from ssd_jax.process.config import make_process, with_levels
from ssd_jax.process.schedules import information_levels
from ssd_jax.process.spectrum import natural_spectrum, spatiotemporal_spectrum
from ssd_jax.sampling.plan import plan_steps

from ..common import report
from ..common.command import run
from . import published

OUT = flags.DEFINE_string("out", "docs", "Folder for video.json and video.md.")
SIZES = flags.DEFINE_multi_integer("size", [64, 256], "Sides of images and frames.")
FRAMES = flags.DEFINE_integer("frames", 16, "Of a clip, a power of 2.", lower_bound=2)
TIME_WEIGHTS = flags.DEFINE_multi_float("time_weight", [1.0, 16.0], "c of the spectrum of video.")
NUM_TIMESTEPS = flags.DEFINE_integer(
    "num_timesteps", 250, "Timesteps of the process, each of them a network call.", lower_bound=20
)

SOLVERS = ("ancestral", "ddim")
TOLERANCE = 1e-3  # nats per pixel that a level may lose, where the spectrum says when levels begin


@dataclass(frozen=True)
class Case:
    """One process on data of one spectrum.

    Attributes:
        process: its config, before the spectrum says where levels begin.
        halved: which axes its levels halve.
        time_weight: c of the spectrum; None for that of images.
        schedule: of the resolution.
    """

    process: ProcessConfig
    halved: str
    time_weight: float | None
    schedule: str

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others."""
        shape, steps = list(self.process.shape), self.process.num_timesteps
        how = {"halved": self.halved, "time_weight": self.time_weight, "schedule": self.schedule}
        return {"shape": shape, "num_timesteps": steps} | how


def main() -> None:
    out, rows = to_path(OUT.value), []
    check_writable(out)
    file = out / "video.json"
    known = read_json(file) if file.exists() else []
    for case in tqdm(cases(), desc="processes"):
        found = [row for row in known if case.key.items() <= row.items()]
        rows.append(found[0] if found else case.key | measure(case))
        lines = ",\n".join(map(json_text, rows))
        write_atomically(file, lambda f, text=f"[\n{lines}\n]\n": f.write(text.encode()))
    write_atomically(out / "video.md", lambda f: f.write(markdown(rows).encode()))
    print(markdown(rows))


def cases() -> list[Case]:
    """Images and clips of every size, of one level and of several."""
    found, frames = [], FRAMES.value
    # Frames are halved as long as there are any, as sides are.
    ways = {"space": ((1, 2, 2),), "space and time": ((2, 2, 2),) * (frames.bit_length() - 1) + ((1, 2, 2),)}
    for size in SIZES.value:
        image = replace(published.process(size, NUM_TIMESTEPS.value), snr_policy="preserve")
        for weight in (None, *TIME_WEIGHTS.value):
            process = image if weight is None else replace(image, shape=(frames, size, size), factors=ways["space"])
            found.append(Case(replace(process, num_levels=1), "nothing", weight, "-"))
            for halved, factors in ways.items():
                if weight is not None or halved == "space":
                    each = process if weight is None else replace(process, factors=factors)
                    found += [Case(each, halved, weight, schedule) for schedule in ("convex_decay 0.5", "information")]
    return found


def measure(case: Case) -> dict[str, Any]:
    """The smallest level in use, the cost and the errors of one process on data of one spectrum."""
    config, weight = case.process, case.time_weight
    spectrum = (
        natural_spectrum(config.shape) if weight is None else spatiotemporal_spectrum(config.shape, time_weight=weight)
    )
    if case.schedule == "information":
        config = by_information(config, spectrum)
    process = make_process(config)
    plans = {solver: plan_steps(process, solver=solver, num_steps=config.num_timesteps) for solver in SOLVERS}
    network = replace(published.network(config.shape[-1]), factorised=weight is not None, factors=config.factors)
    return {
        "smallest_level": list(process.level_shape(int(process.levels[-1]))),
        "relative_flops": plan_cost(plans["ancestral"], network).relative_flops,
        **{solver: gaussian_error(plan, spectrum).relative_error for solver, plan in plans.items()},
    }


def by_information(config: ProcessConfig, spectrum: np.ndarray) -> ProcessConfig:
    """The config with levels that begin where they lose no more than TOLERANCE of what the spectrum has."""
    whole = make_process(replace(config, num_levels=1))
    return with_levels(config, information_levels(whole.log_snr, spectrum, config.level_shapes, TOLERANCE))


def markdown(rows: Sequence[report.Row]) -> str:
    """The page."""
    return f"""# What levels save on clips

Exact, from `python -m launch.studies.video`; nothing is trained or drawn. Gaussian data with the spectrum of natural images
(power ~ k^-2) or of natural video (power ~ 1 / (k^2 + c w^2), k in cycles per side, w in cycles per clip: what moves at one
side a clip has c = 1, at a quarter of one c = 16), the exact denoiser, an ideal low-pass, linear betas of
{NUM_TIMESTEPS.value} timesteps, a call at each. FLOPs are those of sampling over the same network's at full size; the
network is the published one, for clips factorised. Errors are relative, W2^2(N(0, P), N(0, S)) / tr S. Schedules:
`convex_decay 0.5`, the published one, and `information`, where a level loses no more than {TOLERANCE:g} nats per pixel.

{report.markdown([table_row(row) for row in rows])}
"""


def table_row(row: report.Row) -> report.Row:
    """A row as it is shown; "-" for what images do not have."""
    sizes = {"data": row["shape"], "smallest level": row["smallest_level"]}
    return {
        **{name: "x".join(map(str, shape)) for name, shape in sizes.items()},
        "halved": row["halved"],
        "c": row["time_weight"],
        "schedule": row["schedule"],
        "FLOPs": row["relative_flops"],
        **{solver: row[solver] for solver in SOLVERS},
    }


if __name__ == "__main__":
    run(main)
