"""An episode on a table: a path along a tree whose nodes are computed once, when first reached."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.episode import Schedule
from prune_gym.problem.costs import Constraint
from prune_gym.tables.dynamics import N_FACTS, N_LAYER, Dynamics
from prune_gym.tables.problem import TabularProblem

MOST_NODES = 2**16  # of a tree, about a kilobyte each


class Lists:
    """`Dynamics` as lists, whose single numbers Python gets at faster than at those of arrays.

    Args:
        problem: whose networks are looked up.
        dynamics: of it.
        limit_range: of the environment.
        is_dense: whether each step is charged, or the last one alone.
    """

    def __init__(
        self,
        problem: TabularProblem,
        dynamics: Dynamics,
        limit_range: tuple[float, float] | None,
        is_dense: bool,
    ) -> None:
        self.problem, self.limit_range, self.is_dense = problem, limit_range, is_dense
        self.n_nodes = 0
        self.n_groups, self.rows = dynamics.n_groups, dynamics.rows
        self.shown, self.has_history = dynamics.shown, dynamics.shown.start < dynamics.shown.stop
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
            [
                [(j, own[k][j]) for j in range(k + 1, self.n_groups) if own[k][j]]
                for k in range(self.n_groups)
            ]
            for own in dynamics.pairs.tolist()
        ]
        self.names, self.right = problem.names, problem.table.right_of
        self.unpruned = problem.unpruned_values.tolist()
        self.measured = [problem.table.measured.get(name) for name in problem.names]
        self.n_examples = problem.table.n_examples[0]
        self.constraint, self.nothing = problem.constraint, [0.0] * dynamics.n_budgets
        self.limits = problem.limits
        # by groups decided: of the floor's levels of all others, what they add to its number
        steps = [a * b for a, b in zip(self.smallest, self.stride, strict=True)]
        self.rest = [sum(steps[group:]) for group in range(self.n_groups + 1)]
        self.cost_names = [f"cost_{name}" for name in problem.names]
        self.info = self._info()
        self.root = Node(self)

    def _info(self) -> dict[str, Any]:
        """An info before anything is charged, in the order of keys of `PruneEnv.step`."""
        limit = [] if self.limit_range is None else ["limit"]
        budgets = [key for pair in zip(self.cost_names, self.names, strict=True) for key in pair]
        return {
            "cost": 0.0,
            "costs": np.array(self.nothing, dtype=np.float32),
            "accuracy": 0.0,
            "feasible": False,
            "kept": None,  # each node's own
            **dict.fromkeys([*limit, *budgets], 0.0),
        }


class Node:
    """What is known once the first groups are decided; it depends on their levels only.

    Args:
        lists: of the problem and the largest prune ratio.

    Attributes:
        row: (n_features,) float32: the observation, but for the prune ratios and a drawn limit.
        kept: (n_groups,) float32, fraction of filters kept.
        floors: costs of the floor, by budget; in the end those of the network.
        charged: what of them was charged in the steps before.
        info: as `PruneEnv.step` gives it, but for a drawn limit and what follows from it.
    """

    __slots__ = (
        *("lists", "depth", "number", "row", "kept", "floor", "ceiling", "floor_linear", "linear"),
        *("floors", "charged", "info", "children"),
    )

    def __init__(self, lists: Lists) -> None:
        self.lists, self.depth, self.number = lists, 0, 0
        self.kept = np.ones(lists.n_groups, dtype=np.float32)
        self.floor, self.ceiling = lists.floor, lists.ceiling
        self.floor_linear, self.linear = lists.floor_linear, lists.linear
        self.row = lists.rows[0].copy()
        self.charged = lists.nothing
        self._fill()

    def child(self, level: int) -> Node:
        """What is known once the next group keeps a level, by its number."""
        found: Node | None = self.children[level]
        if found is None:
            found = self._decided(level)
            if self.lists.n_nodes < MOST_NODES:
                self.lists.n_nodes += 1
                self.children[level] = found
        return found

    def _decided(self, level: int) -> Node:
        lists, group = self.lists, self.depth
        new = Node.__new__(Node)
        new.lists, new.depth = lists, group + 1
        new.charged = self.floors if lists.is_dense and group else lists.nothing
        new.number = self.number + level * lists.stride[group]
        share = lists.kept[group][level]
        new.kept = self.kept.copy()
        new.kept[group] = share
        new.row = lists.rows[group + 1].copy()
        new.row[N_FACTS + 1] = share
        if lists.has_history:
            new.row[lists.shown] = new.kept
        dropped, most = lists.dropped[group][level], lists.most[group]
        less = dropped - most
        new.floor, new.ceiling = self.floor.copy(), self.ceiling.copy()
        new.floor_linear = [own.copy() for own in self.floor_linear]
        new.linear = [own.copy() for own in self.linear]
        for budget in lists.budgets:
            square = lists.diagonal[budget][group]
            floors, ceilings = new.floor_linear[budget], new.linear[budget]
            new.floor[budget] += less * (floors[group] + square * (dropped + most))
            new.ceiling[budget] += dropped * (ceilings[group] + square * dropped)
            for later, pair in lists.later[budget][group]:
                floors[later] += pair * less
                ceilings[later] += pair * dropped
        new._fill()
        return new

    def _fill(self) -> None:
        """All that follows from the budgets' state."""
        lists, group = self.lists, self.depth
        is_end = group == lists.n_groups
        self.children: list[Node | None] = [] if is_end else [None] * len(lists.dropped[group])
        place = N_LAYER
        for budget in lists.budgets:
            scale, ceiling = lists.scale[budget], self.ceiling[budget]
            floor, top, weight = self.floor[budget] / scale, ceiling / scale, 0.0
            if not is_end:
                most = lists.most[group]
                slope = self.linear[budget][group] + lists.diagonal[budget][group] * most
                weight = top - (ceiling + most * slope) / scale
            share = min(1.0, floor / lists.limits[budget])
            self.row[place : place + 5] = floor, share, top, top - floor, weight
            place += 5
        smallest = self.number + lists.rest[group]
        values = [
            floor if own is None else float(own.flat[smallest])
            for floor, own in zip(self.floor, lists.measured, strict=True)
        ]
        self.floors = [value / of for value, of in zip(values, lists.unpruned, strict=True)]
        self.info = lists.info
        if is_end or (lists.is_dense and group):
            self.info = self._charge()
        if is_end:
            self.info.update(zip(lists.names, values, strict=True))
            self.info["accuracy"] = int(lists.right(self.number)) / lists.n_examples
            self.info["feasible"] = lists.constraint.is_met(np.array(self.floors))

    def _charge(self) -> dict[str, Any]:
        """An info with what is owed since the reset, less what was charged."""
        lists, rule = self.lists, self.lists.constraint
        owed, charged = np.array(self.floors), np.array(self.charged)
        costs = owed - charged
        return {
            **lists.info,
            "cost": rule.cost(owed) - rule.cost(charged),
            "costs": costs.astype(np.float32),
            **dict(zip(lists.cost_names, costs.tolist(), strict=True)),
        }


class TableEpisode:
    """One episode; `decide` changes it.

    Args:
        lists: of the problem and the largest prune ratio.
        schedule: of the episode.
        limit: of the one budget, where it is this episode's own; None = the problem's limits hold.

    Attributes:
        node: where it is.
        ratios: prune ratios of the groups decided so far.
    """

    __slots__ = (
        *("lists", "schedule", "limit", "max_ratio", "node", "ratios", "sum_ratios"),
        "shown_limit",
    )

    def __init__(self, lists: Lists, schedule: Schedule, limit: float | None) -> None:
        self.lists, self.schedule, self.limit = lists, schedule, limit
        self.max_ratio = schedule["max_ratio"]
        self.node: Node = lists.root
        self.ratios: list[float] = []
        self.sum_ratios = 0.0
        if lists.limit_range is not None and limit is not None:
            low, high = lists.limit_range
            self.shown_limit = min(1.0, max(0.0, float(np.log(limit / low) / np.log(high / low))))

    @property
    def constraint(self) -> Constraint:
        """The limits, and the rule that makes one cost of all."""
        if self.limit is None:
            return self.lists.constraint
        return Constraint((self.limit,), is_relative=True)

    @property
    def levels(self) -> list[int]:
        """Levels of the groups decided so far."""
        lists, number = self.lists, self.node.number
        decided = range(self.node.depth)
        return [number // lists.stride[k] % len(lists.dropped[k]) for k in decided]

    def decide(self, value: float) -> bool:
        """Decide the next group by a number of an action, in [-1, 1]; whether it was the last."""
        lists, node = self.lists, self.node
        group = node.depth
        ratio = 0.5 * (value + 1.0) * self.max_ratio
        level = lists.level[group][round((1.0 - ratio) * lists.sizes[group])]
        self.ratios.append(ratio)
        self.sum_ratios += ratio
        self.node = node.children[level] or node.child(level)
        return group + 1 == lists.n_groups

    def observation(self) -> NDArray[np.float32]:
        """(n_features,) float32; see `prune_gym.envs.observation`."""
        lists, ratios = self.lists, self.ratios
        row: NDArray[np.float32] = self.node.row.copy()
        if ratios:
            row[N_FACTS] = ratios[-1]
            row[N_FACTS + 2] = self.sum_ratios / lists.n_groups
        if self.limit is not None:
            row[N_LAYER + 1] = min(1.0, self.node.floor[0] / lists.scale[0] / self.limit)
            row[lists.shown.start - 1] = self.shown_limit
        return row

    def info(self) -> dict[str, Any]:
        """The same keys and types as those of `PruneEnv.step`."""
        node = self.node
        info = node.info.copy()
        info["costs"] = info["costs"].copy()
        info["kept"] = node.kept.copy()
        limit = self.limit
        if limit is not None:  # of the one budget, and of this episode
            info["limit"] = limit
            if node.info is not node.lists.info:  # something is charged
                info["cost"] = node.floors[0] / limit - node.charged[0] / limit
            if node.depth == node.lists.n_groups:
                info["feasible"] = node.floors[0] <= limit
        return info
