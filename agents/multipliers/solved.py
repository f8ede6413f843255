"""The multiplier of an algorithm that solves for it."""

from __future__ import annotations

from dataclasses import dataclass

from agents.multipliers.checks import check_violation


@dataclass
class SolvedMultiplier:
    """The multiplier that `CPO` solved for at its last update that could keep the limit.

    Attributes:
        value: The multiplier, 0.0 before the first update.
        violation: Mean episodic cost minus its limit, of the last episodes that finished;
            None before the first.
    """

    value: float = 0.0
    violation: float | None = None

    def update(self, violation: float) -> float:
        """Note the violation; the next solution starts from it."""
        self.violation = check_violation(violation)
        return self.value
