"""What decisions lead to, made ready once: all that the fast environments look up.

Costs are polynomials of degree two of the filters that go (`Polynomial`), so that a decision moves
the floor and the ceiling by a few multiplications: the coefficients of the groups that are still
undecided are carried along. What is counted are whole numbers (or multiples of a power of two), so
the sums are exact, and observations equal those of `prune_gym.envs.observation` to the bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.episode import smallest_counts
from prune_gym.envs.observation import LAYER_FEATURES, Observer
from prune_gym.tables.counted import Polynomial
from prune_gym.tables.problem import TabularProblem

N_LAYER = len(LAYER_FEATURES)
N_FACTS = 6  # of them that depend on the position alone: position and layer facts


class Dynamics:
    """The transitions of one problem where no prune ratio is above ``max_ratio``.

    Attributes:
        max_ratio: largest prune ratio of a group.
        n_groups: steps of an episode.
        n_budgets: costs.
        level: per group, the level by the number of filters that an action asks for.
        dropped: per group, the filters that go at each level.
        share: per group, the fraction that stays at each level, float32.
        stride: by how much a level of a group moves the number of a network.
        smallest: per group, the level of the floor.
        rows: (n_groups + 1, n_features) float32: what of an observation depends on the position.
        shown: where an observation has the shares kept so far, nowhere without ``history``.
        constant: (n_budgets,) budgets of the unpruned network, as observations have them; their
            costs are relative to these.
        linear: (n_budgets, n_groups) coefficients of the ceiling where nothing is decided.
        diagonal: (n_budgets, n_groups) of the filters that go of a group, squared.
        pairs: (n_budgets, n_groups, n_groups) twice the quadratic coefficients, 0 on the diagonal.
        most: (n_groups,) filters that go at the floor.
        floor: (n_budgets,) budgets of the floor where nothing is decided.
        floor_linear: (n_budgets, n_groups) its coefficients.
    """

    def __init__(self, problem: TabularProblem, observer: Observer, max_ratio: float) -> None:
        table, sizes = problem.table, problem.sizes
        self.max_ratio = max_ratio
        self.n_groups, self.n_budgets = len(sizes), len(problem.budgets)
        self.level = [_by_wanted(problem, group) for group in range(self.n_groups)]
        self.dropped = [n - np.array(own) for n, own in zip(sizes, table.levels, strict=True)]
        self.share = [
            (np.array(own) / n).astype(np.float32)
            for n, own in zip(sizes, table.levels, strict=True)
        ]
        self.stride = np.cumprod([1, *table.shape[:0:-1]])[::-1].tolist()
        minimum = smallest_counts(problem, max_ratio)
        self.smallest = [own.index(int(n)) for own, n in zip(table.levels, minimum, strict=True)]
        self.rows = _rows(observer, self.n_groups)
        # where the shares kept so far stand in an observation; an empty place without history
        self.shown = slice(observer.size - self.n_groups * observer.history, observer.size)
        polynomials = [_observed(problem, name) for name in problem.names]
        self.constant = np.array([one.constant for one in polynomials])
        self.linear = np.array([one.linear for one in polynomials])
        quadratic = np.array([one.quadratic for one in polynomials])
        self.diagonal = np.diagonal(quadratic, axis1=1, axis2=2).copy()
        self.pairs = 2.0 * quadratic * (1.0 - np.eye(self.n_groups))
        self.most = (sizes - minimum).astype(np.float64)
        self.floor = np.array([one.values(self.most) for one in polynomials])
        self.floor_linear = self.linear + self.pairs @ self.most


def _by_wanted(problem: TabularProblem, group: int) -> NDArray[np.int64]:
    """Levels of a group by the filters asked for, 0 ... all of them, (n_filters + 1,)."""
    size = int(problem.sizes[group])
    levels = problem.table.levels[group]
    return np.array(
        [levels.index(problem.kept_count(group, (size - n) / size)) for n in range(size + 1)]
    )


def _rows(observer: Observer, n_groups: int) -> NDArray[np.float32]:
    rows = np.zeros((n_groups + 1, observer.size))
    positions = np.arange(n_groups + 1)
    rows[:, 0] = positions / n_groups
    rows[:, 1:N_FACTS] = observer.layer_facts[np.minimum(positions, n_groups - 1)]
    rows[:, N_FACTS:N_LAYER] = 0.0, 1.0, 0.0
    rows[:, observer.size - n_groups * observer.history :] = 1.0
    return rows.astype(np.float32)


def _observed(problem: TabularProblem, name: str) -> Polynomial:
    """A budget as observations have it: parameters stand in for what is measured."""
    table = problem.table
    return table.counted[name] if name in table.counted else table.counted["params"]
