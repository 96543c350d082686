"""The loop of training: takes steps, and writes what comes of them."""

import logging
import time
from dataclasses import dataclass

import jax
from tqdm import tqdm

from ssd_jax.build import AnyExperiment
from ssd_jax.data.pipeline import Batches
from ssd_jax.errors import InputError
from ssd_jax.files.events import Events
from ssd_jax.files.lease import Lease
from ssd_jax.files.paths import Path
from ssd_jax.processes import gathered
from ssd_jax.run import checkpoint
from ssd_jax.run.autoencoder import AutoencoderWatch
from ssd_jax.run.averages import keep_average
from ssd_jax.run.interruption import noted_signals
from ssd_jax.run.profile import Profiler
from ssd_jax.run.watching import Watch
from ssd_jax.training.ema import MAIN
from ssd_jax.training.optimizer import learning_rate
from ssd_jax.training.state import TrainState
from ssd_jax.training.step import TrainStep

SKIPPED = 100  # updates in a row that were not finite, after which training gives up

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Loop:
    """Takes steps until train.steps, and writes what comes of them.

    Attributes:
        experiment: what is trained.
        workdir: its folder.
        train_step: the programs.
        checkpoints: open, to write to.
        events: of TensorBoard.
        watch: looks at what comes of it.
        lease: of the workdir; the first process holds it.
        profiler: of its steps.
    """

    experiment: AnyExperiment
    workdir: Path
    train_step: TrainStep
    checkpoints: checkpoint.Checkpoints
    events: Events
    watch: Watch | AutoencoderWatch
    lease: Lease | None
    profiler: Profiler

    def run(self, state: TrainState, step: int, iterator: Batches) -> None:
        """From `step` on; asks the device for numbers only every log_every or SKIPPED steps.

        A signal ends it after the step that it comes in, saved; among several processes, after the next that is logged.
        """
        settings, labelled = self.experiment.config.train, self.experiment.objective.labelled
        pending: list[dict[str, jax.Array]] = []
        rate = jax.jit(learning_rate(settings)).lower(step).compile()  # before the first step, not between two
        bar = tqdm(total=settings.steps, initial=step, desc="training", unit="step")
        with bar, noted_signals() as interruption:
            started, waited, saved, interrupted = time.perf_counter(), 0.0, step, False
            while step < settings.steps and not interrupted:
                asked = time.perf_counter()
                batch = next(iterator)
                waited += time.perf_counter() - asked
                state, losses = self.train_step(state, step, batch if labelled else {"image": batch["image"]})
                pending.append(losses)
                step += 1
                self.profiler.after_step(state)
                if logs := self._due(settings.log_every, step):
                    scalars = self.watch.means(pending) | {"learning_rate": float(rate(step))}
                    seconds = time.perf_counter() - started  # once the device has taken the steps, not when told to
                    scalars["waiting_for_data"] = waited / seconds  # of the host: at most that share, of the devices
                    self._log(bar, scalars, len(pending) / seconds, state, step)
                    pending, started, waited = [], time.perf_counter(), 0.0
                if logs or step % SKIPPED == 0:
                    self._check_updates(state)
                if self._due(settings.snapshot_every, step):
                    keep_average(self.workdir, step, gathered(state.ema[MAIN], self.train_step.mesh), settings.ema_decay)
                found: dict[str, float] = {}
                looked = time.perf_counter()
                if self._due(settings.evaluate_every, step):
                    with interruption.leaving():
                        found = self.watch.evaluate(state, step)
                started += time.perf_counter() - looked
                if self._due(settings.checkpoint_every, step):
                    saved = self._save(state, step, iterator, found)
                looked = time.perf_counter()
                if self._due(settings.sample_every, step):
                    with interruption.leaving():
                        self.watch.write_samples(state, step)
                started += time.perf_counter() - looked
                interrupted = interruption.agreed(now=logs) and step < settings.steps
            self.profiler.end()
            if saved < step:
                self._save(state, step, iterator, {})
            checkpoint.wait(self.checkpoints)
        if interrupted:
            logger.info("saved step %d of %d; the same command goes on", step, settings.steps)
            interruption.end()

    def _due(self, every: int, step: int) -> bool:
        """Whether what comes `every` so many steps, 0 for never, comes after this one: after the last it does."""
        return every > 0 and (step % every == 0 or step == self.experiment.config.train.steps)

    def _log(self, bar: tqdm, scalars: dict[str, float], steps_per_second: float, state: TrainState, step: int) -> None:
        """Losses and more to the bar and to TensorBoard."""
        settings = self.train_step.config
        scalars["images_per_second"] = steps_per_second * settings.batch_size
        scalars["skipped_updates"] = float(state.skipped)
        self.events.scalars(scalars, step)
        if self.events.due:
            self._upload()
        skipped = f", {int(state.skipped)} updates skipped" if state.skipped else ""
        shown = f"loss={scalars['loss']:.4f}, img/s={scalars['images_per_second']:.0f}{skipped}"
        bar.set_postfix_str(shown, refresh=False)
        bar.update(step - bar.n)

    def _check_updates(self, state: TrainState) -> None:
        """Raises InputError after SKIPPED updates in a row that were not finite; warns of fewer."""
        in_a_row = int(state.skipped_in_a_row)
        if in_a_row >= SKIPPED:
            what = f"the last {in_a_row} updates were not finite and were left out"
            raise InputError(
                f"{what}; {checkpoint.last_said(self.checkpoints)}; go on from it with a smaller train.learning_rate or "
                "train.gradient_clip, or with model.dtype=float32"
            )
        if in_a_row:
            logger.warning("the last %d updates were not finite and were left out", in_a_row)

    def _upload(self) -> None:
        """Events to their bucket, if they have one, unless another run has taken the workdir over."""
        if self.lease is not None:
            self.lease.check()
        self.events.upload()

    def _save(self, state: TrainState, step: int, iterator: Batches, found: dict[str, float]) -> int:
        """Starts saving, unless another run has taken the workdir over; returns the step."""
        self._upload()  # what is known of the steps before a checkpoint is never lost
        checkpoint.save(self.checkpoints, step, self.experiment, state.as_dict(), iterator.get_state(), found)
        return step
