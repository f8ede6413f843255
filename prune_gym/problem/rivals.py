"""Whom a network races against: those that were judged and cost no more, in anything.

A network is dropped from a race only for one that is at least as cheap in every cost that the front
knows, limited or not: then the front, and with it the answer for any other limits, stays what it
would be, up to the error rate of `prune_gym.training.racing`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from prune_gym.problem.archive import Front
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks


class Rivals:
    """The bar of a race: the best accuracy among networks that cost no more than one.

    Args:
        problem: whose networks race.
        further: gives more costs of masks, by name, as for the archive of the search.
    """

    def __init__(
        self,
        problem: PruningProblem,
        further: Callable[[Masks], dict[str, float]] | None = None,
    ) -> None:
        self._limited, self._unpruned = problem.names, problem.unpruned_values
        self._further = further
        self.take(Front())

    def take(self, front: Front) -> None:
        """From now on the networks of a front are the rivals.

        Call it while nothing is judged, so that a search does not depend on which thread is first.
        """
        self._names = front.names
        self._accuracies = np.array([one.accuracy for one in front])  # (n,)
        self._costs = np.array([list(one.costs.values()) for one in front])  # (n, n_costs)

    def bar(self, masks: Masks, values: NDArray[np.float64]) -> float | None:
        """The accuracy that a network has to exceed; None where no rival costs as little.

        Args:
            masks: its keep masks.
            values: (n_budgets,) its budgets, in their units.
        """
        if not len(self._accuracies):
            return None
        costs = dict(zip(self._limited, (values / self._unpruned).tolist(), strict=True))
        costs |= {} if self._further is None else self._further(masks)
        own = np.array([costs[name] for name in self._names])
        as_cheap = (self._costs <= own).all(axis=1)
        return float(self._accuracies[as_cheap].max()) if as_cheap.any() else None
