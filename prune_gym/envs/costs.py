"""What an episode is charged, and the limit it is to keep."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidValueError
from prune_gym.problem.costs import Constraint
from prune_gym.problem.problem import PruningProblem

LimitRange = tuple[float, float]  # lowest and highest limit of an episode
EXAMPLE: LimitRange = (0.05, 0.4)  # what error messages suggest


class Ledger:
    """Charges an episode step by step, so that the sum is what it owes in the end.

    Args:
        constraint: of this episode; its rule makes the scalar.

    Attributes:
        costs: charged at the last step, (n_budgets,).
        cost: the same as a scalar.
    """

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._charged, self._charged_scalar = np.zeros(len(constraint.limits)), 0.0
        self.costs, self.cost = np.zeros(len(constraint.limits)), 0.0

    def charge(self, owed: NDArray[np.float64] | None) -> None:
        """Charge what is owed so far, (n_budgets,), less what was charged; None = nothing."""
        if owed is None:
            self.costs, self.cost = np.zeros_like(self._charged), 0.0
            return
        scalar = self._constraint.cost(owed)
        self.costs, self._charged = owed - self._charged, owed
        self.cost, self._charged_scalar = scalar - self._charged_scalar, scalar


def check_limit_range(limit_range: Any, problem: PruningProblem) -> LimitRange | None:
    """Lowest and highest limit of an episode; None where the problem's limits always hold."""
    if limit_range is None:
        return None
    if len(problem.budgets) > 1:
        raise InvalidValueError(
            f"limit_range with {len(problem.budgets)} budgets ({', '.join(problem.names)}): one "
            "limit is drawn, so give one budget; or leave limit_range out."
        )
    is_pair = isinstance(limit_range, Sequence) and len(limit_range) == 2
    if not is_pair or not all(map(_is_number, limit_range)) or not _is_ascending(*limit_range):
        raise InvalidValueError(
            f"limit_range={limit_range!r}: expected the lowest and the highest limit, two numbers "
            f"0 < low < high <= 1, e.g. {EXAMPLE}."
        )
    return float(limit_range[0]), float(limit_range[1])


def check_limit(limit: Any, limit_range: LimitRange | None) -> None:
    """Raise unless an episode may have this limit; None stands for a drawn one."""
    if limit is None:
        return
    if limit_range is None:
        raise InvalidValueError(
            f"limit={limit!r}: the limits of this environment are those of its problem. Make one "
            f"whose limit may change from episode to episode: limit_range={EXAMPLE}."
        )
    low, high = limit_range
    if not _is_number(limit) or not low <= limit <= high:
        raise InvalidValueError(
            f"limit={limit!r} must be a number in [{low:g}, {high:g}], this environment's "
            "limit_range."
        )


def draw_limit(limit_range: LimitRange, generator: np.random.Generator) -> float:
    """A limit of the range; each doubling is as likely as any other."""
    low, high = limit_range
    return float(np.clip(np.exp(generator.uniform(np.log(low), np.log(high))), low, high))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # those of NumPy, too


def _is_ascending(low: float, high: float) -> bool:
    return 0.0 < low < high <= 1.0
