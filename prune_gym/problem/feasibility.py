"""Which decisions leave every limit within reach, and how one that does not is moved until it does.

A decision is *feasible* where the network in which all groups that are still open are cut to their
minimum (the floor) meets every limit: the limits are then still within reach. The floor of a
monotone budget only grows from decision to decision, so that feasible ones can always be followed
by feasible ones, up to the last, whose floor is the network itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidValueError
from prune_gym.problem.costs import Counts
from prune_gym.problem.outcome import digest
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks

STEPS = 2**24  # along a line of actions: as fine as a float32
_REMEMBERED = 4096  # networks


def check_monotone(problem: PruningProblem, who: str) -> None:
    """Raise ValueError unless every budget is monotone, so that its floor can be told.

    Args:
        problem: whose budgets are looked at.
        who: asks for it, for the message.
    """
    unknown = [budget for budget in problem.budgets if not budget.monotone]
    if unknown:
        noise = ", and by noise a smaller network can cost more here"
        raise InvalidValueError(
            f"{who} with budget {unknown[0].name!r}: limits are kept by the floor of what can "
            "still be reached, which holds for budgets that removing filters never raises"
            f"{'' if unknown[0].is_deterministic else noise}. Do without it here; a budget of "
            "yours that never rises can be declared: Budget(..., monotone=True)."
        )


class Costs:
    """Costs of networks by keep masks; those that black boxes measured are remembered.

    They are not where a budget may give equal networks other numbers (``deterministic=False``).

    Args:
        problem: whose budgets are asked.
    """

    def __init__(self, problem: PruningProblem) -> None:
        self._problem = problem
        self._counted = all(budget.counted is not None for budget in problem.budgets)
        self._remembers = all(budget.is_deterministic for budget in problem.budgets)
        self._known: OrderedDict[bytes, NDArray[np.float64]] = OrderedDict()

    def __call__(self, counts: Counts, masks: Callable[[], Masks]) -> NDArray[np.float64]:
        """(n_budgets,) of a network with so many filters per group, (n_groups,).

        Args:
            counts: enough where all budgets are counted.
            masks: gives its keep masks.
        """
        if self._counted:
            return self._problem.counted_costs(counts)
        decided = masks()
        key = digest(decided)
        costs = self._known.get(key) if self._remembers else None
        if costs is None:
            costs = self._known[key] = self._problem.costs(decided)
            if len(self._known) > _REMEMBERED or not self._remembers:
                self._known.popitem(last=False)
        return costs


def first_feasible(look: Callable[[int], tuple[bool, int]], last: int) -> int:
    """The smallest step in [1, last] that is feasible, by bisection; ``last`` is taken to be.

    The search ends early at two steps that are one filter apart: no network lies between them.

    Args:
        look: says of a step whether it is feasible, and how many filters it keeps. Once one is,
            all later ones are; step 0 is not.
        last: the step that cuts everything to its minimum.

    >>> first_feasible(lambda step: (100 - step <= 37, 100 - step), 100)
    63
    """
    low, high = 0, last
    more, fewer = look(low)[1], look(high)[1]
    while high - low > 1 and more - fewer != 1:
        middle = (low + high) // 2
        is_feasible, kept = look(middle)
        if is_feasible:
            high, fewer = middle, kept
        else:
            low, more = middle, kept
    return high


def feasible_ratios(
    problem: PruningProblem, ratios: NDArray[np.float64], costs: Costs
) -> NDArray[np.float64]:
    """Prune ratios that keep the problem's limits: these, or the first ones that do towards 1.

    Args:
        problem: with budgets that are monotone.
        ratios: (n_groups,) in [0, 1].
        costs: of its networks.
    """

    def moved(step: int) -> NDArray[np.float64]:
        return np.clip(ratios + (1.0 - ratios) * (step / STEPS), 0.0, 1.0)

    def look(step: int) -> tuple[bool, int]:
        counts = problem.kept_counts(moved(step))
        is_feasible = problem.feasible(costs(counts, lambda: problem.masks_of(counts)))
        return is_feasible, int(counts.sum())

    return ratios if look(0)[0] else moved(first_feasible(look, STEPS))


def along_line(action: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """An action moved towards the one that removes all it can: 0 = itself, `STEPS` = that one."""
    start = action.astype(np.float64)
    return (start + (1.0 - start) * (step / STEPS)).astype(np.float32)


def with_fewer(action: NDArray[np.float32], kept: Sequence[int]) -> NDArray[np.float32]:
    """A fine action that keeps these filters only, moved no further than it must be."""
    barely = -np.finfo(np.float32).tiny
    moved: NDArray[np.float32] = np.minimum(action, barely)
    moved[list(kept)] = np.maximum(action[list(kept)], 0.0)
    return moved
