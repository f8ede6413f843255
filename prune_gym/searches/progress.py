"""How far a search is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a search is, for whoever shows it.

    Attributes:
        evaluations: networks judged so far.
        total: networks to be judged.
        best_accuracy: of the best feasible one; None where there is none yet. Of a problem with
            another metric it is that one's number.
        recent_cost: mean scalar cost of the latest eight.
        cost_limit: the scalar limit.
        multiplier: the agent's Lagrange multiplier; NaN for baselines.
        remembered: evaluations for which nothing was run, as the same decision had been judged.
    """

    evaluations: int
    total: int
    best_accuracy: float | None
    recent_cost: float
    cost_limit: float
    multiplier: float
    remembered: int


OnProgress = Callable[[Progress], None]
