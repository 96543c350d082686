"""What the page in `launch/page/` draws with: a model's graphs, and its plans as tables: it computes no coefficient.

    model.json                      classes, levels, stages, guidance, and which solvers and calls there are plans of
    plans/dpmpp_2m-30.json, ..      a plan each: of every stage timesteps, coefficients, matrices and operations
    graphs/                         those of `interop.onnx_stages`

Every step of a plan, within a level or up to the next, is the same few lines, those of `sampling.reference`:

    V^T x_s = k_x U^T x_t + k_z V^T z_s + k_1 U^T z_1 + .. + k_n xi
"""

import base64
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from ssd_jax.analysis.cost import plan_cost
from ssd_jax.data.encoding import PixelEncoding
from ssd_jax.errors import InputError, few
from ssd_jax.files.json_file import read_json, write_json
from ssd_jax.interop.model_card import LICENCES, UNKNOWN
from ssd_jax.interop.onnx_stages import DIGEST, WEIGHTS
from ssd_jax.network.protocol import null_label
from ssd_jax.process.stages import Stage
from ssd_jax.run.suitability import check_labels_are_classes, check_prior_is_noise
from ssd_jax.run.trained import Trained
from ssd_jax.sampling.parts import Part, StayPlan, UpPlan
from ssd_jax.sampling.plan import Plan
from ssd_jax.sampling.solvers import SOLVERS

CALLS = (12, 20, 30, 60)  # that a visitor may choose, where the process allows them


def check_shown(trained: Trained, graphs: pathlib.Path) -> None:
    """Raises InputError unless the page can draw with a model, whose `graphs` are in a folder."""
    encoding = trained.encoding
    if not isinstance(encoding, PixelEncoding) or len(encoding.shape) != 2:
        raise InputError(
            f"x_0 of the model is {type(encoding).__name__} of shape {encoding.shape}, but the page shows pixels of flat "
            "pictures only; draw with launch.sample"
        )
    check_prior_is_noise(trained.experiment, "a page")
    check_labels_are_classes(trained.experiment, "a page")
    functions = [str(part.stage) for part in trained.plan().stages if not isinstance(part, StayPlan | UpPlan)]
    if functions:
        raise InputError(
            f"the operator of {few(functions)} is only a function, which is no table; write it as a SeparableOperator if "
            "it is one, or draw with launch.sample"
        )
    missing = [name for name in (*_graph_names(trained), DIGEST) if not (graphs / name).is_file()]
    if missing:
        raise InputError(f"{str(graphs)!r} lacks {few(missing)}; launch.export_onnx --workdir RUN --out FOLDER writes it")
    if read_json(graphs / DIGEST) != {"digest": trained.digest}:
        raise InputError(f"the graphs in {str(graphs)!r} are of another model; launch.export_onnx writes those of this one")


def write_page_data(trained: Trained, graphs: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the model's data for the page.

    Args:
        trained: the model; its solver, calls, spacing and guidance are what a visitor begins with.
        graphs: its folder of `onnx_stages.export_stages`.
        folder: is there.

    Raises:
        InputError: as `check_shown`.
    """
    check_shown(trained, graphs)
    config, process, draws = trained.config, trained.process, trained.config.sample
    solvers = list(dict.fromkeys([*SOLVERS, draws.solver]))
    calls = {n for n in CALLS if 2 * len(process.used_levels) <= n <= process.num_timesteps} | {draws.num_steps}
    for solver in solvers:
        for num_steps in calls:
            plan = trained.plan(solver=solver, num_steps=num_steps)
            write_json(folder / "plans" / f"{solver}-{num_steps}.json", plan_tables(trained, plan))
    (folder / "graphs").mkdir()
    for name in _graph_names(trained):
        shutil.copy(graphs / name, folder / "graphs")
    classes = config.data.classes or [str(i) for i in range(config.model.num_classes)]
    description = {
        "shape": process.shape,
        "channels": trained.encoding.channels,
        "timesteps": process.num_timesteps,
        "classes": list(classes) if config.model.num_classes else [],
        "guidance": draws.guidance,
        "null_label": null_label(config.model),
        "stages": [_description(trained, stage) for stage in process.stages],
        "solvers": solvers,
        "calls": sorted(calls),
        "solver": draws.solver,
        "num_steps": draws.num_steps,
        "terms": LICENCES.get(config.data.source, ("", UNKNOWN))[1],
        "jax": jax.__version__,
    }
    write_json(folder / "model.json", description)


def plan_tables(trained: Trained, plan: Plan) -> dict[str, Any]:
    """A plan as the page reads it: its stages, noisiest first, and the operations of an image at full resolution.

    Arrays are {"shape": .., "float32": base64 of little-endian numbers}. Of each stage: name; timesteps; coefficients
    [steps, h, w, 3 + m] at out_level; left and right, U and V per axis; target, which takes z to z_s, and lift, which takes
    earlier predictions to out_level; flops, the operations of its calls. Guidance calls twice.
    """
    config, predictions = trained.config, 1 if trained.config.sample.guidance == 1 else 2
    cost = plan_cost(plan, config.model, channels=trained.encoding.channels)
    stages = [
        _tables(trained, part) | {"flops": predictions * part.calls * path.flops}
        for part, path in zip(plan.stages, cost.stages, strict=True)
    ]
    return {"stages": stages, "carried": plan.carried, "one_level_flops": predictions * cost.flops / cost.relative_flops}


def _tables(trained: Trained, part: Part) -> dict[str, Any]:
    shape = trained.process.level_shape(part.stage.out_level)
    same = [np.eye(n) for n in shape]
    if isinstance(part, StayPlan):  # M = I, or a blur, which is diagonal along the basis
        left = right = part.basis or same
        target = lift = same
        rows = part.coefficients
        if part.basis is None:
            rows = np.broadcast_to(rows[:, None, None], (part.calls, *shape, rows.shape[-1]))
    else:
        assert isinstance(part, UpPlan), "check_shown refuses others"
        left, right, rows = part.operator.left, part.operator.right, part.coefficients[None]
        target = same if part.target is None else part.target.matrices
        lift = [np.linalg.pinv(matrix) for matrix in part.level_operator.matrices]
    matrices = {"left": left, "right": right, "target": target, "lift": lift}
    return {
        "stage": str(part.stage),
        "timesteps": part.timesteps.tolist(),
        "coefficients": _array(rows),
        **{name: [_array(matrix) for matrix in of_axes] for name, of_axes in matrices.items()},
    }


def _description(trained: Trained, stage: Stage) -> dict[str, Any]:
    """What is the same in all plans."""
    process = trained.process
    return {
        "name": str(stage),
        "in_shape": process.level_shape(stage.in_level),
        "out_shape": process.level_shape(stage.out_level),
        "t_max": stage.t_max,
        "bound": trained.experiment.bounds[stage.out_level],
    }


def _array(array: np.ndarray) -> dict[str, Any]:
    return {"shape": array.shape, "float32": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _graph_names(trained: Trained) -> list[str]:
    return [*(f"{stage}.onnx" for stage in trained.process.stages), WEIGHTS]
