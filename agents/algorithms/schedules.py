"""Numbers that change over a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearSchedule:
    """A learning rate that falls in a straight line over the training.

    Attributes:
        start: At the beginning.
        end: At the end.
    """

    start: float
    end: float

    def __call__(self, progress_remaining: float) -> float:
        """Return the value when this fraction of the training is left, 1 to 0."""
        return self.end + (self.start - self.end) * progress_remaining
