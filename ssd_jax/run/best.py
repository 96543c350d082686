"""Which checkpoint of a run is the best by a metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

BEST = "best"  # in place of a step


@dataclass(frozen=True)
class Best:
    """Orbax's policy of keeping the checkpoint with the lowest value of a metric. Its own reads files without digests.

    Attributes:
        metric: its name; "" for none.
        values: by the steps of checkpoints that have one.
    """

    metric: str
    values: dict[int, float] = field(default_factory=dict)

    def of(self, steps: Iterable[int]) -> int | None:
        """The best of these steps, the first of several; None if none has a value."""
        return min((step for step in steps if step in self.values), key=self.values.__getitem__, default=None)

    def note(self, step: int, metrics: dict[str, float]) -> None:
        """What is known of a checkpoint."""
        self.values.pop(step, None)
        if self.metric in metrics:
            self.values[step] = metrics[self.metric]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Of each of Orbax's checkpoints."""
        best = self.of(each.step for each in checkpoints)
        return [each.step == best for each in checkpoints]
