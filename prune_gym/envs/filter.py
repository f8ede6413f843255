"""The fine environment: keep or drop each filter."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from prune_gym.envs.base import PruneEnv
from prune_gym.errors import InvalidValueError
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Mask, kept_count


class FilterPruneEnv(PruneEnv):
    """Keep or drop each filter of a group, group after group.

    ## Action space
    ``Box(-1, 1, (widest group,), float32)``: entry i keeps filter i where it is >= 0; entries
    beyond the group's size are not used. If all would go, the filter with the largest entry
    stays. No more than ``max_ratio`` of a group goes, and with ``round_to`` a multiple of it stays:
    then the largest entries do.

    Filters are presented in order of importance (the criterion's most important first), so that
    entry i means the same in every group: the i-th most important filter.

    Observation, reward, cost, info and arguments are those of `LayerPruneEnv`; ``last_ratio`` is
    the fraction that was removed. ``structure="weight"`` is refused, and ``cost_mode="dense"`` for
    budgets that are not counted: they may depend on which filters stay.

    ## Version history
    * v0: first version.
    """

    granularity: ClassVar[str] = "filter"
    structures: ClassVar[tuple[str, ...]] = ("filter",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _check_dense(self.problem, self.cost_mode)
        self.action_space = spaces.Box(-1.0, 1.0, (int(self.problem.sizes.max()),), np.float32)

    def _decide(self, action: NDArray[np.float32]) -> list[tuple[Mask, float]]:
        index = len(self._ratios)
        order = self.problem.orders[index]
        wish = action[: len(order)]
        chosen = wish >= 0.0
        wanted = int(np.count_nonzero(chosen))
        allowed = kept_count(1.0 - wanted / len(order), len(order), self.problem.round_to)
        allowed = max(allowed, int(self._minimum[index]))
        if wanted != allowed:
            chosen = np.zeros(len(order), dtype=np.bool_)
            chosen[np.argsort(-wish, kind="stable")[:allowed]] = True
        mask = np.zeros(len(order), dtype=np.bool_)
        mask[order[chosen]] = True
        return [(mask, 1.0 - float(mask.mean()))]


def _check_dense(problem: PruningProblem, cost_mode: str) -> None:
    """Raise where a dense cost could fall: a decision may drop the filters that the floor keeps."""
    measured = [budget.name for budget in problem.budgets if budget.counted is None]
    if cost_mode == "dense" and measured:
        raise InvalidValueError(
            f"cost_mode='dense' with granularity='filter' and budget {measured[0]!r}: it is "
            "measured, so it may depend on which filters stay, and the floor, which keeps the most "
            "important ones, can fall when others are chosen. Use granularity='layer', or "
            "cost_mode='terminal'."
        )
