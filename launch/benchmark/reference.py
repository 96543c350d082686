"""The part of `launch.benchmark` against the published PyTorch code: same sizes, same weights, same steps, same turns.

The published code is not part of this project: `--reference-code` says where a checkout of it lies. It is run as its own
scripts run it: `p_sample` of its diffusion, and its trainer with AdamW and an average of the weights.
"""

import copy
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssd_jax.build import build
from ssd_jax.config import Config, FlexiUNetConfig, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.interop.guided_diffusion import parameters_from_reference
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.process.config import make_process
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.guidance import clipped
from ssd_jax.sampling.plan import DEFAULT_STEPS, Plan, plan_steps

from ..common import report
from ..common.report import Row, Table
from .accuracy import sampling_error
from .sampling import Path, plan_seconds, stage_name, stage_runs, whole_plan
from .timing import Tables, time_in_turns
from .training import prepare

PROCESS: Any = {"operator": "bilinear", "snr_policy": "published", "resolution_schedule": "convex_decay", "gamma": 0.5}
GROUPS = 32  # of the published GroupNorm
BORN_ZERO = 0.02  # standard deviation of what takes the place of weights that are born zero and would hide the others


@dataclass(frozen=True)
class Published:
    """The published model and diffusion of one size.

    Attributes:
        torch, package: the modules `torch` and `guided_diffusion`, with what is used of it imported.
        model, diffusion: as its scripts make them.
    """

    torch: Any
    package: Any
    model: Any
    diffusion: Any

    def sample_steps(self, x: np.ndarray, timesteps: np.ndarray) -> None:
        """One step from each of `timesteps`, all from the states `x`, [batch, h, w, 3]."""
        state = self._tensor(x)
        for t in timesteps.tolist():
            self.diffusion.p_sample(self.model, state, self.torch.full((len(x),), t))

    def predict(self, x: np.ndarray, t: int) -> np.ndarray:
        """The prediction of the clean image, unclipped, [batch, h', w', 3]."""
        with self.torch.no_grad():
            step = self.diffusion.p_mean_variance(self.model, self._tensor(x), self.torch.full((len(x),), t), False)
        return step["pred_xstart"].numpy().transpose(0, 2, 3, 1)

    def trainer(self, images: np.ndarray, learning_rate: float, ema_decay: float) -> Callable[[Stage], None]:
        """A function that takes a training step with one stage."""
        model = copy.deepcopy(self.model)
        mixed = self.package.fp16_util.MixedPrecisionTrainer(model=model, use_fp16=False)
        adam = self.torch.optim.AdamW(mixed.master_params, lr=learning_rate, weight_decay=0.0)
        ema = copy.deepcopy(mixed.master_params)
        x = self._tensor(images)

        def step(stage: Stage) -> None:
            t = self.torch.randint(stage.t_min, stage.t_max + 1, (len(x),))
            mixed.zero_grad()
            mixed.backward(self.diffusion.training_losses(model, x, t, None, step=0)["loss"].mean())
            mixed.optimize(adam)
            self.package.nn.update_ema(ema, mixed.master_params, rate=ema_decay)

        return step

    def _tensor(self, x: np.ndarray) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def load_published(path: str, config: Config) -> Published:
    """The published code with the network and the process of `config`.

    Raises:
        InputError: if the code or what it imports is not there, or cannot be of that network.
    """
    model, process = flexi_unet(config), config.process
    if any(width % GROUPS for width in model.widths):
        raise InputError(f"config.model.widths is {model.widths}, but the published code takes multiples of {GROUPS} only")
    if model.stem_skip:
        raise InputError("config.model.stem_skip is True, but the published Flexi-UNet has no such block; set it to False")
    if not FilePath(path, "guided_diffusion", "script_util.py").is_file():
        raise InputError(f"--reference-code is {path!r}, but no guided_diffusion/script_util.py is in it; give a checkout")
    sys.path.insert(0, path)
    try:
        torch, package = map(importlib.import_module, ("torch", "guided_diffusion"))
        for name in ("script_util", "ssd_utils", "fp16_util", "nn"):
            importlib.import_module(f"guided_diffusion.{name}")
    except ImportError as error:
        raise InputError(f"--reference-code is {path!r}, which cannot be imported here: {error}; install that") from error
    if not torch.distributed.is_initialized():  # the published code synchronises in every step, even alone
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    multipliers = ",".join(str(width / model.widths[0]) for width in model.widths)
    settings = {
        "ssd_config_flag": True,
        "resolution_schedule": f"ConvexDecay_{process.gamma}",
        "t_res_sampling_mode": "one_res_many_t_except_one_t_for_res_change",
        "multires_training_mode": "flexi_unet",
        "num_levels": process.num_levels,
        "ds_factor": 2.0,
        "scale_max": process.shape[0],
        "model_channel_mult": multipliers,
    }
    resolutions, layers = package.ssd_utils.get_resolutions_array(settings)
    settings |= {"scale_min": resolutions[0], "unet_res_layer_map": layers}
    network = package.script_util.create_model(
        process.shape[0],
        model.widths[0],
        model.num_res_blocks,
        channel_mult=multipliers,
        attention_resolutions=",".join(map(str, _attention_resolutions(config))),
        num_heads=model.num_heads,
        num_head_channels=model.head_width or -1,
        resblock_updown=model.resampling == "residual",
        use_scale_shift_norm=True,
        ssd_config=settings,
        unet_res_layer_map=layers,
    )
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=BORN_ZERO)
    diffusion = package.script_util.create_gaussian_diffusion(
        diffusion_steps=process.num_timesteps,
        predict_xstart=True,
        experiment_type="ssd",
        ssd_config=settings,
        resolutions_array=resolutions,
        mse_loss_weight_type="min_snr_5",
    )
    return Published(torch, package, network, diffusion)


def same_network(published: Published, config: Config) -> Denoiser:
    """Our network with the published one's weights."""
    weights = {name: tensor.numpy() for name, tensor in published.model.state_dict().items()}
    experiment = build(config)
    return experiment.denoiser(parameters_from_reference(weights, experiment))


def flexi_unet(config: Config) -> FlexiUNetConfig:
    """The network's config. Raises InputError if it is another network, which the published code has not."""
    if not isinstance(config.model, FlexiUNetConfig):
        raise InputError("--reference-code needs model.kind flexi_unet: the published code has no other network")
    return config.model


def against_published(path: str, config: Config, repeats: int) -> Tables:
    """Sampling, training, and the time that either takes to the same accuracy. Raises InputError as `load_published`."""
    process = replace(config.process, **PROCESS)
    model = replace(flexi_unet(config), num_classes=0, label_dropout=0.0, dropout=0.0, dtype="float32")
    config = replace(config, process=process, model=model, train=replace(config.train, stage_sampling="single"))
    published = load_published(path, config)
    plan, network = whole_plan(process, process.num_levels), same_network(published, config)
    title = f"against the published code, {report.size(process.shape)} px, {process.num_levels} levels"
    call_rows, ours, theirs = _calls(published, network, plan, config.sample.num, repeats)
    steps = _training_steps(published, config, plan, repeats)
    return {
        "reference_sampling": Table(f"Sampling {title}, for one image of a batch of {config.sample.num}", call_rows),
        "reference_training": Table(f"Training {title}, batch of {config.train.batch_size}", steps),
        "reference_accuracy": Table(f"Error and time {title}", _accuracy(process, plan, ours, theirs)),
    }


def _calls(
    published: Published, network: Denoiser, plan: Plan, batch: int, repeats: int
) -> tuple[list[Row], dict[Path, float], dict[Path, float]]:
    """A row per stage and one of the whole plan; seconds per call and image of our code and theirs."""
    runs, calls = stage_runs(clipped(network, plan.process.bounds), plan, batch, 3, None)
    states, timesteps, contestants = {}, {}, {}
    for part in plan.stages:
        key = part.stage.in_level, part.stage.out_level
        states[key] = np.random.default_rng(0).standard_normal((batch, *plan.process.level_shape(key[0]), 3), np.float32)
        timesteps[key] = part.timesteps[: calls[key]]
        contestants["theirs", key] = partial(published.sample_steps, states[key], timesteps[key])
        contestants["ours", key] = runs[key]
    with published.torch.no_grad():
        timings = time_in_turns(contestants, repeats)
    theirs, ours = ({key: timings[side, key].seconds / calls[key] / batch for key in runs} for side in ("theirs", "ours"))

    def difference(part_stage: Stage, key: Path) -> float:
        t = int(timesteps[key][0])
        expected = published.predict(states[key], t)
        found = network(jnp.asarray(states[key]), jnp.full(batch, t), stage=part_stage)
        return float(np.abs(found - expected).max() / np.abs(expected).max())

    def row(name: str, steps: int, published_ms: float, our_ms: float, difference: float) -> Row:
        ms = {"published ms": published_ms, "ssd_jax ms": our_ms, "published / ssd_jax": published_ms / our_ms}
        return {"stage": name, "steps": steps, **ms, "difference": difference}

    rows = [
        row(stage_name(key), part.calls, 1e3 * theirs[key], 1e3 * ours[key], difference(part.stage, key))
        for part, key in zip(plan.stages, runs, strict=True)
    ]
    whole = 1e3 * plan_seconds(plan, theirs), 1e3 * plan_seconds(plan, ours)
    rows.append(row("all", plan.calls, *whole, max(each["difference"] for each in rows)))
    return rows, ours, theirs


def _training_steps(published: Published, config: Config, plan: Plan, repeats: int) -> list[Row]:
    """A row per stage and their mean over timesteps, which is how the published code draws them."""
    trained, train = prepare(config), config.train
    x0 = np.asarray(build(config).encoding.encode(trained.batch["image"]))
    step = published.trainer(x0, train.learning_rate, train.ema_decay)
    ours = trained.stage_runs()
    contestants = {("ours", stage): run for stage, run in ours.items()}
    contestants |= {("theirs", stage): partial(step, stage) for stage in ours}
    timings = time_in_turns(contestants, repeats)
    shares = {stage: (stage.t_max - stage.t_min + 1) / plan.process.num_timesteps for stage in ours}
    seconds = {side: {stage: timings[side, stage].seconds for stage in ours} for side in ("theirs", "ours")}

    def row(name: str, share: float, published_s: float, our_s: float) -> Row:
        s = {"published s/step": published_s, "ssd_jax s/step": our_s}
        return {"stage": name, "share": share, **s, "published / ssd_jax": published_s / our_s}

    rows = [row(str(stage), shares[stage], seconds["theirs"][stage], seconds["ours"][stage]) for stage in ours]
    theirs, mine = (sum(shares[stage] * each[stage] for stage in ours) for each in seconds.values())
    return [*rows, row("mean", 1.0, theirs, mine)]


def _accuracy(process: ProcessConfig, plan: Plan, ours: dict[Path, float], theirs: dict[Path, float]) -> list[Row]:
    """Exact error for natural spectra and time: the published code's 1000 steps, with one level and with all, and ours."""
    steps, preserving = process.num_timesteps, replace(process, operator="box", snr_policy="preserve")
    few = plan_steps(make_process(preserving), num_steps=DEFAULT_STEPS)
    one_level = whole_plan(process, 1)
    contestants = {
        f"published code, 1 level, ancestral {steps}": (one_level, theirs, replace(process, num_levels=1), "ancestral"),
        f"published code, {process.num_levels} levels, ancestral {steps}": (plan, theirs, process, "ancestral"),
        f"ssd_jax, {process.num_levels} levels, dpmpp_2m {DEFAULT_STEPS}": (few, ours, preserving, "dpmpp_2m"),
    }
    fastest = plan_seconds(few, ours)

    def row(name: str, timed: Plan, seconds: dict[Path, float], config: ProcessConfig, solver: str) -> Row:
        time = plan_seconds(timed, seconds)
        error = sampling_error(config, solver, timed.calls).relative_error
        return {"sampler": name, "relative error": error, "s/image": time, "time ratio": time / fastest}

    return [row(name, *each) for name, each in contestants.items()]


def _attention_resolutions(config: Config) -> tuple[int, ...]:
    return tuple(config.process.shape[0] >> level for level in flexi_unet(config).attention_levels)
