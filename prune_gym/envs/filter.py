"""The environment of granularity ``"filter"``: keep or drop each filter."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.base import PruneEnv
from prune_gym.envs.episode import Decision, Episode


class FilterPruneEnv(PruneEnv):
    """Keep or drop each filter of a group, group after group.

    ## Action space
    ``Box(-1, 1, (widest group,), float32)``: entry i keeps filter i where it is >= 0; entries
    beyond the group's size are not used. If all would go, the filter with the largest entry
    stays (or, with ``depth=True``, the residual block goes that the group lies in). No more than
    ``max_ratio`` of a group goes, and with ``round_to`` a multiple of it stays: then the largest
    entries do.

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

    def _action_size(self) -> int:
        return int(self.problem.sizes.max())

    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        index = episode.n_decided
        order = self.problem.orders[index]  # (n_filters,) indices, most important first
        wish = action[: len(order)]
        chosen = wish >= 0.0  # (n_filters,) bool, in order of importance
        wanted = int(np.count_nonzero(chosen))
        allowed = self.problem.kept_count(index, 1.0 - wanted / len(order))
        allowed = max(allowed, int(episode.minimum[index]))
        if wanted != allowed:
            chosen = np.zeros(len(order), dtype=np.bool_)
            chosen[np.argsort(-wish, kind="stable")[:allowed]] = True
        mask = np.zeros(len(order), dtype=np.bool_)
        mask[order[chosen]] = True
        return [Decision(mask, 1.0 - float(mask.mean()))]
