"""An episode on a table: plain numbers, changed in place, as fast as Python goes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.episode import Schedule
from prune_gym.problem.costs import Constraint
from prune_gym.tables.dynamics import N_FACTS, N_LAYER, Dynamics
from prune_gym.tables.problem import TabularProblem


class Lists:
    """`Dynamics` as lists, whose single numbers Python gets at faster than at those of arrays.

    Args:
        problem: whose networks are looked up.
        dynamics: of it.
        limit_range: of the environment.
    """

    def __init__(
        self,
        problem: TabularProblem,
        dynamics: Dynamics,
        limit_range: tuple[float, float] | None,
    ) -> None:
        self.problem, self.limit_range = problem, limit_range
        self.n_groups, self.rows = dynamics.n_groups, dynamics.rows
        self.sizes = problem.sizes.tolist()
        self.level = [own.tolist() for own in dynamics.level]
        self.dropped = [own.astype(np.float64).tolist() for own in dynamics.dropped]
        self.kept = [
            [n / size for n in own]
            for own, size in zip(problem.table.levels, self.sizes, strict=True)
        ]
        self.stride, self.smallest = dynamics.stride, dynamics.smallest
        self.most = dynamics.most.tolist()
        self.floor, self.ceiling = dynamics.floor.tolist(), dynamics.constant.tolist()
        self.floor_linear, self.linear = dynamics.floor_linear.tolist(), dynamics.linear.tolist()
        self.diagonal = dynamics.diagonal.tolist()
        self.scale = dynamics.constant.tolist()
        self.budgets = list(range(dynamics.n_budgets))
        # per budget and group, the later groups that it shares tensors with, and how
        self.later = [
            [[(j, own[k][j]) for j in range(k + 1, self.n_groups) if own[k][j]] for k in range(self.n_groups)]
            for own in dynamics.pairs.tolist()
        ]
        self.names = problem.names
        self.unpruned = problem.unpruned_values.tolist()
        self.measured = [problem.table.measured.get(name) for name in problem.names]
        self.n_examples = problem.table.n_examples[0]
        self.whole = np.ones(self.n_groups, dtype=np.float32)
        self.nothing = np.zeros(dynamics.n_budgets, dtype=np.float32)


class TableEpisode:
    """One episode; `decide` changes it.

    Args:
        lists: of the problem and the largest prune ratio.
        schedule: of the episode.
        limit: of the one budget, where it is this episode's own; None = the problem's limits hold.

    Attributes:
        levels: of the groups decided so far.
        ratios: their prune ratios.
        accuracy: 0.0 until it is judged.
    """

    __slots__ = (
        *("lists", "schedule", "limit", "limits", "max_ratio", "is_relative", "levels", "ratios"),
        *("sum_ratios", "number", "kept", "accuracy", "feasible", "values", "floor", "ceiling"),
        *("floor_linear", "linear", "cost", "costs", "total_cost", "total_costs", "shown_limit"),
    )

    def __init__(self, lists: Lists, schedule: Schedule, limit: float | None) -> None:
        self.lists, self.schedule, self.limit = lists, schedule, limit
        self.limits = lists.problem.limits if limit is None else (limit,)
        self.is_relative = limit is not None or len(self.limits) > 1
        self.max_ratio = float(schedule["max_ratio"])
        self.levels: list[int] = []
        self.ratios: list[float] = []
        self.sum_ratios, self.number = 0.0, 0
        self.kept = lists.whole
        self.accuracy, self.feasible = 0.0, False
        self.values: list[float] = []
        self.floor, self.ceiling = lists.floor.copy(), lists.ceiling.copy()
        self.floor_linear = [own.copy() for own in lists.floor_linear]
        self.linear = [own.copy() for own in lists.linear]
        self.cost, self.total_cost = 0.0, 0.0
        self.costs = self.total_costs = [0.0 for _ in lists.budgets]
        if lists.limit_range is not None and limit is not None:
            low, high = lists.limit_range
            self.shown_limit = min(1.0, max(0.0, float(np.log(limit / low) / np.log(high / low))))

    @property
    def constraint(self) -> Constraint:
        """The limits, and the rule that makes one cost of all."""
        return Constraint(self.limits, is_relative=self.limit is not None)

    def decide(self, value: float) -> None:
        """Decide the next group by a number of an action, in [-1, 1]."""
        lists, group = self.lists, len(self.levels)
        ratio = 0.5 * (value + 1.0) * self.max_ratio
        level = lists.level[group][round((1.0 - ratio) * lists.sizes[group])]
        self.levels.append(level)
        self.ratios.append(ratio)
        self.sum_ratios += ratio
        self.number += level * lists.stride[group]
        self.kept = self.kept.copy()
        self.kept[group] = lists.kept[group][level]
        dropped, most = lists.dropped[group][level], lists.most[group]
        less = dropped - most
        for budget in lists.budgets:
            square = lists.diagonal[budget][group]
            floors, ceilings = self.floor_linear[budget], self.linear[budget]
            self.floor[budget] += less * (floors[group] + square * (dropped + most))
            self.ceiling[budget] += dropped * (ceilings[group] + square * dropped)
            for later, pair in lists.later[budget][group]:
                floors[later] += pair * less
                ceilings[later] += pair * dropped

    def charge_floor(self) -> None:
        """Charge the growth of the floor: the dense cost of a step."""
        lists, number = self.lists, self.number
        for group in range(len(self.levels), lists.n_groups):
            number += lists.smallest[group] * lists.stride[group]
        self._charge(self._values(number))

    def judge(self) -> None:
        """Look the finished network up, and charge it."""
        lists = self.lists
        self.accuracy = int(lists.problem.table.right_of(self.number)) / lists.n_examples
        self.values = self._values(self.number)
        costs = self._charge(self.values)
        self.feasible = all(map(float.__le__, costs, self.limits))

    def _values(self, number: int) -> list[float]:
        """Budgets of the floor, whose place is ``number``; in the end it is the network itself."""
        measured = self.lists.measured
        return [
            floor if own is None else float(own.flat[number])
            for floor, own in zip(self.floor, measured, strict=True)
        ]

    def _charge(self, values: list[float]) -> list[float]:
        """Charge what the episode owes since its reset, less what was charged; gives its costs."""
        owed = [value / of for value, of in zip(values, self.lists.unpruned, strict=True)]
        cost = owed[0]
        if self.is_relative:
            cost = max(one / limit for one, limit in zip(owed, self.limits, strict=True))
        self.cost, self.total_cost = cost - self.total_cost, cost
        self.costs = [one - before for one, before in zip(owed, self.total_costs, strict=True)]
        self.total_costs = owed
        return owed

    def observation(self) -> NDArray[np.float32]:
        """(n_features,) float32; see `prune_gym.envs.observation`."""
        lists, group = self.lists, len(self.levels)
        row = lists.rows[group].copy()
        if group:
            row[N_FACTS] = self.ratios[-1]
            row[N_FACTS + 1] = lists.kept[group - 1][self.levels[-1]]
            row[N_FACTS + 2] = self.sum_ratios / lists.n_groups
        place = N_LAYER
        for budget in lists.budgets:
            scale, ceiling = lists.scale[budget], self.ceiling[budget]
            floor, top, weight = self.floor[budget] / scale, ceiling / scale, 0.0
            if group < lists.n_groups:
                most = lists.most[group]
                slope = self.linear[budget][group] + lists.diagonal[budget][group] * most
                weight = top - (ceiling + most * slope) / scale
            row[place] = floor
            row[place + 1] = min(1.0, floor / self.limits[budget])
            row[place + 2] = top
            row[place + 3] = top - floor
            row[place + 4] = weight
            place += 5
        if lists.limit_range is not None:
            row[place] = self.shown_limit
        return row

    def info(self) -> dict[str, Any]:
        """The same keys and types as those of `PruneEnv.step`."""
        lists = self.lists
        info: dict[str, Any] = {
            "cost": self.cost,
            "costs": np.array(self.costs, dtype=np.float32),
            "accuracy": self.accuracy,
            "feasible": self.feasible,
            "kept": self.kept.copy(),
        }
        if self.limit is not None:
            info["limit"] = self.limit
        for budget in lists.budgets:
            name = lists.names[budget]
            info[f"cost_{name}"] = self.costs[budget]
            info[name] = self.values[budget] if self.values else 0.0
        return info
