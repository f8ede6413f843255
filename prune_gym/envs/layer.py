"""The environments of granularities ``"layer"`` and ``"network"``: a prune ratio per group."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.base import PruneEnv
from prune_gym.envs.episode import Decision, Episode
from prune_gym.pruning.masks import top_mask


class LayerPruneEnv(PruneEnv):
    """One prune ratio per filter group, first layer to last.

    ## Description
    A trained network is pruned group by group. After the last group the compact network is built,
    repaired (``recovery``) and judged on the validation split. The paper's coarse variant
    (arXiv 2110.08558) is ``structure="weight"``; the default removes whole filters.

    ## Action space
    ``Box(-1, 1, (1,), float32)``: mapped to a prune ratio in [0, ``max_ratio``], the fraction of
    the group that is removed. The criterion decides which filters stay; at least one does (with
    ``depth=True``, none may inside of a residual block, which then goes whole).

    ## Observation space
    ``Box(0, 1, (9 + 5 * n_budgets,), float32)``; 9 to 13 repeat for each budget. With
    ``limit_range``, which goes with one budget, 14 follows. With ``history`` the fractions kept of
    all groups come last, 1 where they are undecided: (n_groups,) more.

    | index | feature | meaning | min | max |
    |---|---|---|---|---|
    | 0 | position | groups decided so far / groups | 0 | 1 |
    | 1 | filters | filters of the group / largest group | 0 | 1 |
    | 2 | in_channels | input channels of its first layer / largest | 0 | 1 |
    | 3 | kernel | kernel size of its first layer / largest | 0 | 1 |
    | 4 | stride | stride of its first layer / largest | 0 | 1 |
    | 5 | padding | padding of its first layer / largest | 0 | 1 |
    | 6 | last_ratio | prune ratio of the last action | 0 | 1 |
    | 7 | last_kept | fraction kept in the last group | 0 | 1 |
    | 8 | sum_ratios | sum of prune ratios so far / groups | 0 | 1 |
    | 9 | floor | cost if all undecided groups are cut to their minimum | 0 | 1 |
    | 10 | floor_of_limit | floor / limit, at most 1 | 0 | 1 |
    | 11 | ceiling | cost if all undecided groups stay whole | 0 | 1 |
    | 12 | undecided | ceiling - floor: what is still in the agent's hands | 0 | 1 |
    | 13 | weight | cost that the group itself decides about, at the others' present state | 0 | 1 |
    | 14 | limit | this episode's limit, log(limit / low) / log(high / low) | 0 | 1 |

    With k - 1 of the groups 1 ... K decided, n_i filters kept of group i, m_i the fewest that can
    be kept of it, N_i all of them, and c the cost by filters kept per group:

        floor     = c(n_1, ..., n_(k-1), m_k, m_(k+1), ..., m_K)
        ceiling   = c(n_1, ..., n_(k-1), N_k, N_(k+1), ..., N_K)
        undecided = ceiling - floor
        weight    = ceiling - c(n_1, ..., n_(k-1), m_k, N_(k+1), ..., N_K)

    For a black-box budget the share of parameters stands in for c.

    ## Reward
    0.0 until the last step, then the validation accuracy in [0, 1].

    ## Cost and limit
    ``info["cost"]`` is there in reset and at every step. Its undiscounted episodic sum is to stay
    at or below ``env.unwrapped.cost_limit``. With one budget it sums to budget / budget of the
    unpruned network; with several, to the worst of costs / limits, with the limit 1.0
    (``info["costs"]``, ``cost_names`` and ``cost_limits`` have them apart).
    ``cost_mode="terminal"`` charges it at the last step, ``"dense"`` as the floor grows.
    A budget that is measured, as ``latency_ms``, is measured once for a decision and remembered
    (with recoveries ``none`` and ``bn``); another process measures another cost. Use
    ``PruneVGGLatency-v0`` for such a budget, or register an id of your own with
    ``nondeterministic=True``: the other ids promise that equal seeds give equal episodes.

    With ``limit_range=(low, high)`` every episode has a limit of its own, drawn at reset (each
    doubling is as likely) or given, ``reset(options={"limit": 0.1})``. ``cost_limits`` and
    ``feasible`` follow it. What agents are constrained by stays the same: ``info["cost"]`` is then
    cost / limit, and ``cost_limit`` 1.0.

    ## Info
    The same keys in reset and at every step; results are 0.0 or False until the last one.

    | key | type | meaning |
    |---|---|---|
    | ``cost`` | float | charged at this step, as one number |
    | ``costs`` | (n_budgets,) float32 | charged: budget / budget of the unpruned network |
    | ``cost_<budget>`` | float | the same by name |
    | ``accuracy`` | float | result: the reward, in [0, 1] |
    | ``feasible`` | bool | result: whether every limit is met |
    | ``<budget>`` | float | result: the finished network's budget, in its own unit |
    | ``kept`` | (n_groups,) float32 | fraction of filters kept per group; 1 where undecided |
    | ``limit`` | float | this episode's limit; with ``limit_range`` only |

    ## Episode end
    ``terminated`` after the last filter group; ``truncated`` is always False.

    ## Arguments
    ``problem``, ``cost_mode``, ``max_ratio``, ``limit_range``, ``history``, ``render_mode`` (see
    `PruneEnv`), or in place of ``problem`` what `prune_gym.make_problem` makes one from: ``network``,
    ``dataset``, ``budgets``, ``criterion``, ``recovery``, ``recovery_steps``, ``structure``,
    ``round_to``, ``depth``, ``evaluation_samples``, ``precision``, ``batch_size``, ``device``,
    ``weights``, ``train``, ``validation``, ``test``, ``metric``, ``loss``, ``output``,
    ``fine_tune``, ``collate``, ``ignore``, ``unpruned_values``, ``seed``.
    ``reset(options={"max_ratio": ..., "recovery_steps": ..., "limit": ...})`` sets them for one
    episode.

    ## Version history
    * v0: first version.
    """

    granularity: ClassVar[str] = "layer"

    def _action_size(self) -> int:
        return 1

    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        return [decision_of_ratio(episode, episode.n_decided, action[0])]


class NetworkPruneEnv(PruneEnv):
    """All prune ratios in one step: a bandit.

    ## Action space
    ``Box(-1, 1, (n_groups,), float32)``: a prune ratio for every filter group at once.

    Observation, reward, cost, info and arguments are those of `LayerPruneEnv`; every episode has
    one step, so terminal and dense cost are the same.

    ## Version history
    * v0: first version.
    """

    granularity: ClassVar[str] = "network"

    @property
    def steps_left(self) -> int:
        """1, or 0 once the episode has ended."""
        return min(1, super().steps_left)

    def _action_size(self) -> int:
        return len(self.problem.groups)

    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        return [decision_of_ratio(episode, index, value) for index, value in enumerate(action)]


def decision_of_ratio(episode: Episode, index: int, value: float) -> Decision:
    """What becomes of a group whose prune ratio is asked for by a number of an action.

    Args:
        episode: whose ``max_ratio`` is the prune ratio of 1.
        index: of the group.
        value: in [-1, 1]; -1 removes nothing.
    """
    problem = episode.problem
    ratio = 0.5 * (float(value) + 1.0) * episode.max_ratio
    count = problem.kept_count(index, ratio)
    return Decision(top_mask(problem.orders[index], count), ratio)
