"""Environments that decide beside a prior: ``decision="prior"``, the ``-v1`` ids.

The prior is the network that the sensitivity scan's allocation gives within the limits
(`prune_gym.problem.allocation`). An action says by what factor a group differs from it, so that
the policy that knows nothing, all zeros, plays the prior itself, and nothing of a limit is left
unspent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.base import PruneEnv
from prune_gym.envs.episode import Decision, Episode
from prune_gym.envs.prior_observation import PriorObserver
from prune_gym.problem.allocation import Widths
from prune_gym.problem.costs import Counts
from prune_gym.pruning.masks import top_mask

if TYPE_CHECKING:
    from prune_gym.problem.problem import PruningProblem


class Prior:
    """The prior of one problem's episodes, and what is left of it as they go on.

    With n_1, ..., n_(k-1) filters kept of the groups that are decided, p_1, ..., p_K those of the
    prior, and w_i(t) the widths of the allocation at its threshold t, the present width of group
    i >= k is

        p_i       where nothing has differed from the prior so far, or a budget is not counted,
        w_i(t)    else, with t such that c(n_1, ..., n_(k-1), w_k(t), ..., w_K(t)) = limit.

    Args:
        problem: whose groups are decided.
    """

    def __init__(self, problem: PruningProblem) -> None:
        self.allocation = problem.allocation
        self._latest: tuple[Episode, Widths] | None = None

    def counts(self, episode: Episode) -> Counts:
        """Filters of the prior, (n_groups,), within the limits of this episode."""
        within = episode.constraint.limits
        return np.maximum(self.allocation.counts(within), episode.minimum)

    def widths(self, episode: Episode) -> Widths:
        """Present widths, (n_groups,) float64; of decided groups what is kept."""
        if self._latest is None or self._latest[0] is not episode:
            self._latest = episode, self._widths(episode)
        return self._latest[1]

    def _widths(self, episode: Episode) -> Widths:
        n, counts, prior = episode.n_decided, episode.counts, self.counts(episode)
        as_prior = np.array_equal(counts[:n], prior[:n])
        if as_prior or not self.allocation.is_known or not episode.steps_left:
            return np.concatenate([counts[:n], prior[n:]]).astype(np.float64)
        widths = self.allocation.left(counts, n, episode.constraint.limits)
        found: Widths = np.maximum(widths, episode.minimum)
        return found

    def bounded(self, episode: Episode, width: float) -> int:
        """Filters that stay of the group that is next: nearest to a width, limits used up."""
        index, limits = episode.n_decided, episode.constraint.limits
        count = self.allocation.nearest(index, width)
        return self.allocation.bounded(count, episode.counts, index, episode.minimum, limits)


class PriorLayerPruneEnv(PruneEnv):
    """How much more or less of each group stays than in the network of the sensitivity scan.

    ## Description
    A trained network is pruned group by group, first layer to last, and judged at the end, as in
    `LayerPruneEnv`. What an action means is relative to a prior: the network within the limits that
    follows from the sensitivity scan, which is made when the environment is (a few networks per
    group are judged; `prune_gym.PruningProblem.sensitivity`).

    ## Action space
    ``Box(-1, 1, (1,), float32)``: the binary logarithm of a factor. With w the present width of the
    group (below), round(w * 2^action) filters stay of it: 0 plays the prior, -1 keeps half as many,
    1 twice as many.

    Where every budget is counted and monotone, the prior of the groups to come is scaled after each
    step to what is left of the limits, and an action moves no further than the limits can still be
    kept, and used up: the last groups take what is left. Every network of such an environment is
    within its limits, and all of them use the limits up, but for what is less than one filter.
    Where a budget is measured, or not monotone, the prior stays as it is, and the cost is up to the
    agent (counted budgets are kept all the same).

    ## Observation space
    ``Box(0, 1, (12 + 4 * n_budgets,), float32)``; 12 to 15 repeat for each budget. With ``history``
    the fractions kept of all groups follow, 1 where they are undecided: (n_groups,) more. Nothing
    but them depends on the size of the network, so that one policy fits all.

    | index | feature | meaning | min | max |
    |---|---|---|---|---|
    | 0 | position | groups decided so far / groups | 0 | 1 |
    | 1 | drop_16 | what is lost with 1/16 of the group's filters, of what can be lost | 0 | 1 |
    | 2 | drop_8 | with 1/8 of them | 0 | 1 |
    | 3 | drop_4 | with 1/4 of them | 0 | 1 |
    | 4 | drop_2 | with 1/2 of them | 0 | 1 |
    | 5 | filters | of the group, log2 / 12 | 0 | 1 |
    | 6 | prior | share of them that the prior keeps, 1 + log2 / 8 | 0 | 1 |
    | 7 | present | the same of the present width | 0 | 1 |
    | 8 | width | present width, in filters, log2 / 12 | 0 | 1 |
    | 9 | last | kept / prior of the last group, 1/2 + log / 4 | 0 | 1 |
    | 10 | mean | the mean of that over all groups that are decided | 0 | 1 |
    | 11 | kernel | kernel size of its first layer / 7 | 0 | 1 |
    | 12 | spent | cost with all undecided groups at their minimum / limit | 0 | 1 |
    | 13 | expected | cost with all undecided groups at their present width / limit / 2 | 0 | 1 |
    | 14 | weight | what of that expected cost the group decides about | 0 | 1 |
    | 15 | limit | 1 + log10 / 3 | 0 | 1 |

    For a black-box budget the share of parameters stands in, relative to that of the prior.

    ## Reward, cost and limit, info, episode end
    As in `LayerPruneEnv`.

    ## Arguments
    Those of `LayerPruneEnv`. ``decision="prior"`` makes any environment decide so; the ``-v1`` ids
    do.

    ## Version history
    * v1: first version of this decision.
    """

    granularity: ClassVar[str] = "layer"
    decision: ClassVar[str] = "prior"
    structures: ClassVar[tuple[str, ...]] = ("filter",)

    def _make_observer(self) -> PriorObserver:
        self.prior = Prior(self.problem)
        return PriorObserver(self.problem, self.prior, self.history)

    def _action_size(self) -> int:
        return 1

    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        return [self._decision(episode, float(action[0]))]

    def _decision(self, episode: Episode, deviation: float) -> Decision:
        index = episode.n_decided
        count = self.prior.bounded(episode, self.prior.widths(episode)[index] * 2.0**deviation)
        return _kept(episode, top_mask(self.problem.orders[index], count))


class PriorNetworkPruneEnv(PriorLayerPruneEnv):
    """All deviations from the prior in one step: a bandit.

    ## Action space
    ``Box(-1, 1, (n_groups,), float32)``: what `PriorLayerPruneEnv` takes group after group.

    Observation, reward, cost, info and arguments are those of `PriorLayerPruneEnv`; every episode
    has one step, so terminal and dense cost are the same.

    ## Version history
    * v1: first version of this decision.
    """

    granularity: ClassVar[str] = "network"

    @property
    def steps_left(self) -> int:
        """1, or 0 once the episode has ended."""
        return min(1, super().steps_left)

    def _action_size(self) -> int:
        return len(self.problem.groups)

    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        decisions = []
        for value in action.tolist():
            decisions.append(self._decision(episode, value))
            episode = episode.after(decisions[-1:])
        return decisions


class PriorFilterPruneEnv(PriorLayerPruneEnv):
    """Which filters of each group stay, beside those of the network of the sensitivity scan.

    ## Action space
    ``Box(-1, 1, (widest group,), float32)``: with w the present width of the group, filter i in
    order of importance (0 is the most important one) stays where

        (w - i - 1/2) / max(1, w/2) + action[i] >= 0,

    so that zeros play the prior, and an action moves filters within half a width of where it cuts.
    Entries beyond the group's size are not used. How many stay is bounded as in
    `PriorLayerPruneEnv`; those with the largest numbers do.

    Observation, reward, cost, info and arguments are those of `PriorLayerPruneEnv`; the scaling to
    what is left goes by the numbers of filters. ``cost_mode="dense"`` is refused for budgets that
    are not counted: they may depend on which filters stay.

    ## Version history
    * v1: first version of this decision.
    """

    granularity: ClassVar[str] = "filter"

    def _action_size(self) -> int:
        return int(self.problem.sizes.max())

    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        index = episode.n_decided
        order = self.problem.orders[index]  # (n_filters,) indices, most important first
        width = float(self.prior.widths(episode)[index])
        rank = np.arange(len(order)) + 0.5
        wish = (width - rank) / max(1.0, 0.5 * width) + action[: len(order)]  # (n_filters,)
        count = self.prior.bounded(episode, float(np.count_nonzero(wish >= 0.0)))
        mask = np.zeros(len(order), dtype=np.bool_)
        mask[order[np.argsort(-wish, kind="stable")[:count]]] = True
        return [_kept(episode, mask)]


def _kept(episode: Episode, mask: NDArray[np.bool_]) -> Decision:
    return Decision(mask, 1.0 - float(mask.mean()))
