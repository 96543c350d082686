"""The `train` section of a config."""

from dataclasses import dataclass, field

from ssd_jax.errors import HOW_TO_REGISTER, InputError, check_name, check_range, check_seed, section
from ssd_jax.training.loss import LOSS_WEIGHTINGS

STAGE_SAMPLINGS = ("mixed", "single")
ALLOCATIONS = ("proportional", "cost_aware", "logit_normal")
MAX_STEPS = 2**31  # the device counts them in int32
MAX_WARMUP = 2**24  # a smaller share of the peak is 0 in float32
MAX_BATCH = 2**20
MAX_FLOPS_PER_STEP = 1e3
MAX_TIMESTEP_PARTS = 2**10
MAX_LEARNING_RATE = 100  # Adam moves every parameter by about as much: absurd long before float32 overflows
MAX_GRADIENT_CLIP = 1e12  # as good as none
MAX_WEIGHT_DECAY = 1e3
MAX_EVALUATED = 2**20


@section("train.optimizer")
@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019); its learning rate and clipping are in `TrainConfig`.

    Attributes:
        b1: 0 <= b1 < 1, memory of the gradient.
        b2: 0 <= b2 < 1, memory of its square; short, as in EDM2 (Karras et al. 2024).
        weight_decay: >= 0: of this times the learning rate an update makes matrices and kernels smaller. Biases, scales of
            norms and what else is a vector are left alone; so is what a step does not use.
    """

    b1: float = 0.9
    b2: float = 0.99
    weight_decay: float = 0.0

    def __post_init__(self):
        for name in ("b1", "b2"):
            check_range(f"train.optimizer.{name}", getattr(self, name), low=0, high=1)
        check_range("train.optimizer.weight_decay", self.weight_decay, low=0, high=MAX_WEIGHT_DECAY)


@section("train")
@dataclass(frozen=True)
class TrainConfig:
    """Training.

    Attributes:
        steps: updates in all.
        batch_size: images per update, over all devices.
        learning_rate: peak.
        optimizer: other settings of AdamW.
        warmup_steps: linear warm-up from 0.
        cosine_decay: decay to 0 at `steps`; otherwise constant after warm-up.
        gradient_clip: bound on the global gradient norm, > 0.
        ema_decay: 0 <= decay < 1 of the averaged parameters.
        snapshot_every: steps after which the averaged parameters are kept in a file of the run, for averages of other
            widths when it is loaded (`ssd_jax.load(workdir, ema_width=...)`); 0 for never.
        loss_weighting: a key of loss.LOSS_WEIGHTINGS, of the squared error of z; "learned" is trained with the network.
        stage_sampling: "mixed" (every step trains many stages) or "single" (one stage a step).
        allocation: in "mixed", how many draws stages get: "proportional" to their share of the timesteps, or "cost_aware",
            as many of each as make the gradient least noisy for what a step costs (`stage_sampling.wanted_draws`), or
            "logit_normal", so that timesteps are drawn as Esser et al. (2024) do, by `timestep_parts` of every stage. Draws
            are weighted so that the expected loss is the same, that of `loss_weighting`.
        flops_per_step: operations of a step, in units of one with `batch_size` draws at full resolution; those of
            `batch_size` proportional draws if not given. There may be more draws than images: images then serve several.
        gradient_variances: of "cost_aware", > 0: of a draw of every part of every stage, noisiest first, up to a common
            factor, as `launch.studies.allocation` measures them; the same for all if not given.
        timestep_parts: of a stage, of the same length: those whose draws are noisier get more of its draws. 1 for none.
        draws_multiple: in "mixed", draws of a stage come in multiples of this, of which the number of devices must be a
            divisor for the stages of a step not to depend on it; stages with a smaller share take turns.
        accumulate: rounds in which every stage takes its draws of a step, for less memory; an update is one all the same.
        up_share: share of the training images that the up-steps get together, 0 < share < 1.
        seed: 0 <= seed < 2^32, of initialisation, data order, timesteps and noise.
        log_every, sample_every, checkpoint_every: in steps.
        evaluate_every: steps after which the averaged parameters are evaluated: the loss on held-out images
            (`data.holdout`), always on the same draws, and the Frechet distances of samples to the training data, always
            from the same seed; 0 for never.
        evaluate_num: samples that these distances are of, drawn as `sample` says; they fall with it. 0 for none, or >= 2.
        keep_latest: checkpoints that stay, the last ones.
        keep_best: besides these, the one with the lowest value so far of a number that `evaluate_every` gives stays, e.g.
            "holdout/loss" or "frechet/low_pass"; `evaluate_every` is then a multiple of checkpoint_every. "" for none.
        keep_every: besides these, all whose step is a multiple of this stay; a multiple of checkpoint_every, 0 for none.
    """

    steps: int = 10_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    warmup_steps: int = 100
    cosine_decay: bool = True
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    snapshot_every: int = 0
    loss_weighting: str = "min_snr"
    stage_sampling: str = "mixed"
    allocation: str = "proportional"
    flops_per_step: float | None = None
    gradient_variances: tuple[float, ...] = ()
    timestep_parts: int = 1
    draws_multiple: int = 8
    accumulate: int = 1
    up_share: float = 0.05
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 1000
    evaluate_every: int = 0
    evaluate_num: int = 4096  # more than Inception has features
    keep_latest: int = 2
    keep_best: str = ""
    keep_every: int = 0

    def __post_init__(self):
        for name in ("steps", "log_every", "sample_every", "checkpoint_every"):
            check_range(f"train.{name}", getattr(self, name), low=1, high=MAX_STEPS)
        check_range("train.batch_size", self.batch_size, low=1, high=MAX_BATCH)
        check_range("train.draws_multiple", self.draws_multiple, low=1, high=MAX_BATCH)
        check_range("train.accumulate", self.accumulate, low=1, high=MAX_BATCH)
        check_range("train.warmup_steps", self.warmup_steps, low=0, high=MAX_WARMUP)
        check_seed("train.seed", self.seed)
        check_range("train.learning_rate", self.learning_rate, low=0, high=MAX_LEARNING_RATE, open_low=True)
        check_range("train.gradient_clip", self.gradient_clip, low=0, high=MAX_GRADIENT_CLIP, open_low=True)
        check_range("train.ema_decay", self.ema_decay, low=0, high=1)
        check_range("train.evaluate_every", self.evaluate_every, low=0, high=MAX_STEPS)
        check_range("train.evaluate_num", self.evaluate_num, low=0, high=MAX_EVALUATED)
        if self.evaluate_num == 1:
            raise InputError("train.evaluate_num is 1, but must be 0, for no samples, or >= 2: distances need two")
        check_range("train.snapshot_every", self.snapshot_every, low=0, high=MAX_STEPS)
        check_range("train.keep_latest", self.keep_latest, low=1, high=MAX_STEPS)
        check_range("train.keep_every", self.keep_every, low=0, high=MAX_STEPS)
        if self.keep_every % self.checkpoint_every:
            raise InputError(
                f"train.keep_every is {self.keep_every}, but must be a multiple of train.checkpoint_every, "
                f"{self.checkpoint_every}, or 0"
            )
        if self.keep_best and (not self.evaluate_every or self.evaluate_every % self.checkpoint_every):
            raise InputError(
                f"train.keep_best is {self.keep_best!r}, but train.evaluate_every is {self.evaluate_every}; it must be a "
                f"multiple of train.checkpoint_every, {self.checkpoint_every}, so that what is evaluated is saved"
            )
        check_range("train.up_share", self.up_share, low=0, high=1, open_low=True)
        check_name("train.loss_weighting", self.loss_weighting, LOSS_WEIGHTINGS, HOW_TO_REGISTER)
        check_name("train.stage_sampling", self.stage_sampling, STAGE_SAMPLINGS)
        check_name("train.allocation", self.allocation, ALLOCATIONS)
        if self.flops_per_step is not None:
            check_range("train.flops_per_step", self.flops_per_step, low=0, high=MAX_FLOPS_PER_STEP, open_low=True)
        check_range("train.timestep_parts", self.timestep_parts, low=1, high=MAX_TIMESTEP_PARTS)
        logit_normal = self.allocation == "logit_normal"
        if logit_normal and self.timestep_parts == 1:
            raise InputError(
                'train.allocation="logit_normal" draws timesteps by parts of a stage, but train.timestep_parts is 1; give '
                "more, e.g. 64"
            )
        if self.timestep_parts > 1 and not self.gradient_variances and not logit_normal:
            raise InputError("train.timestep_parts needs train.gradient_variances, one of each part, to tell them apart by")
        for variance in self.gradient_variances:
            check_range("train.gradient_variances", variance, low=0, open_low=True)
        chosen = self.allocation != "proportional" or self.flops_per_step is not None
        if self.stage_sampling == "single" and chosen:
            raise InputError(
                'train.stage_sampling is "single", which draws batch_size of one stage, whatever it costs; '
                f'train.allocation="{ALLOCATIONS[1]}" or "{ALLOCATIONS[2]}" and train.flops_per_step need "mixed"'
            )
        if self.gradient_variances and self.allocation != "cost_aware":
            raise InputError('train.gradient_variances are given, but only train.allocation="cost_aware" uses them')
