"""What the agent sees: the layer to decide, what was decided, and what is left of each budget.

Every feature lies in [0, 1]. The layer facts are the paper's (arXiv 2110.08558), scaled by their
largest value in the network; the budget features make the cost predictable (Markov).

With groups 1 ... K, of which k - 1 are decided, let n_i be the filters kept of group i, m_i the
fewest that can be kept of it, N_i all of them, and c the cost by filters kept per group:

    floor     = c(n_1, ..., n_(k-1), m_k, m_(k+1), ..., m_K)
    ceiling   = c(n_1, ..., n_(k-1), N_k, N_(k+1), ..., N_K)
    undecided = ceiling - floor
    weight    = ceiling - c(n_1, ..., n_(k-1), m_k, N_(k+1), ..., N_K)

After the last group floor = ceiling = c(n_1, ..., n_K), and undecided = weight = 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.envs.episode import Episode
from prune_gym.problem.problem import PruningProblem

# (feature, meaning); the tables in the environments' docstrings are held against this one.
LAYER_FEATURES = (
    ("position", "groups decided so far / groups"),
    ("filters", "filters of the group / largest group"),
    ("in_channels", "input channels of its first layer / largest"),
    ("kernel", "kernel size of its first layer / largest"),
    ("stride", "stride of its first layer / largest"),
    ("padding", "padding of its first layer / largest"),
    ("last_ratio", "prune ratio of the last action"),
    ("last_kept", "fraction kept in the last group"),
    ("sum_ratios", "sum of prune ratios so far / groups"),
)
BUDGET_FEATURES = (
    ("floor", "cost if all undecided groups are cut to their minimum"),
    ("floor_of_limit", "floor / limit, at most 1"),
    ("ceiling", "cost if all undecided groups stay whole"),
    ("undecided", "ceiling - floor: what is still in the agent's hands"),
    ("weight", "cost that the group itself decides about, at the others' present state"),
)
# the last one, of environments with a `limit_range`
LIMIT_FEATURES = (("limit", "this episode's limit, log(limit / low) / log(high / low)"),)


def feature_names(
    budget_names: tuple[str, ...],
    limit_range: tuple[float, float] | None = None,
    group_names: tuple[str, ...] = (),
) -> list[str]:
    """Name of every entry of the observation; group names are those of the history."""
    names = [name for name, _ in LAYER_FEATURES]
    for budget in budget_names:
        names += [f"{name}:{budget}" for name, _ in BUDGET_FEATURES]
    if limit_range is not None:
        names += [name for name, _ in LIMIT_FEATURES]
    return names + [f"kept:{name}" for name in group_names]


class Observer:
    """Builds the observations of one problem's episodes; holds only what never changes.

    Args:
        problem: the pruning problem.
        limit_range: lowest and highest limit of an episode where it is drawn anew each time.
        history: whether the shares kept so far are seen.

    Attributes:
        size: number of features.
        layer_facts: (n_groups, 5) float64 in [0, 1], features 1 to 5 before each group.
    """

    def __init__(
        self,
        problem: PruningProblem,
        limit_range: tuple[float, float] | None = None,
        history: bool = False,
    ) -> None:
        self.problem, self.limit_range, self.history = problem, limit_range, history
        groups = tuple(group.name for group in problem.groups) if history else ()
        self.size = len(feature_names(problem.names, limit_range, groups))
        self.layer_facts = _layer_facts(problem)

    def __call__(self, episode: Episode) -> NDArray[np.float32]:
        """The observation before the next group is decided, or after the last one.

        Returns:
            (n_features,) float32 in [0, 1].
        """
        parts = [self._layer_features(episode), self._budget_features(episode).ravel()]
        if self.limit_range is not None:
            low, high = self.limit_range
            parts.append(np.log(episode.limits / low) / np.log(high / low))  # (1,)
        if self.history:
            parts.append(episode.counts / self.problem.sizes)
        return np.concatenate(parts).clip(0.0, 1.0).astype(np.float32)

    def _layer_features(self, episode: Episode) -> NDArray[np.float64]:
        """Of the group that is next (the last one, at the end), and of what was decided: (9,)."""
        n_groups, n_decided = len(self.problem.groups), episode.n_decided
        features = np.empty(len(LAYER_FEATURES))  # (9,) float64
        features[0] = n_decided / n_groups
        features[1:6] = self.layer_facts[min(n_decided, n_groups - 1)]
        features[6:9] = 0.0, 1.0, 0.0
        if n_decided:
            last = n_decided - 1
            kept = episode.counts[last] / self.problem.sizes[last]
            features[6:9] = episode.ratios[-1], kept, sum(episode.ratios) / n_groups
        return features

    def _budget_features(self, episode: Episode) -> NDArray[np.float64]:
        """What is spent of each budget, and what can be saved yet: (n_budgets, 5)."""
        n_groups, n_decided = len(self.problem.groups), episode.n_decided
        smallest = episode.floor_counts()  # (n_groups,) int64
        largest = episode.counts  # (n_groups,) int64; undecided groups are whole
        without = largest.copy()  # the group that is next is cut to its minimum
        if n_decided < n_groups:
            without[n_decided] = episode.minimum[n_decided]
        states = np.array([smallest, largest, without])  # (3, n_groups)
        floor, ceiling, rest = self.problem.counted_costs(states)  # (n_budgets,) float64 each
        columns = floor, floor / episode.limits, ceiling, ceiling - floor, ceiling - rest
        return np.stack(columns, axis=-1)  # (n_budgets, 5), the order of BUDGET_FEATURES


def _layer_facts(problem: PruningProblem) -> NDArray[np.float64]:
    """Filters, input channels, kernel, stride and padding / largest in the network: (n_groups, 5).

    They are those of the first layer of each group; kernel, stride and padding are the first of
    their axes, and 0 for layers that have none.
    """
    rows = []
    for group in problem.groups:
        layer = problem.network.get_submodule(group.producers[0])
        n_inputs = getattr(layer, "in_channels", getattr(layer, "in_features", 1))
        shape = (first_of_axes(layer, name) for name in ("kernel_size", "stride", "padding"))
        rows.append([float(group.n_filters), float(n_inputs), *shape])
    facts = np.array(rows)  # (n_groups, 5)
    scaled: NDArray[np.float64] = facts / np.maximum(facts.max(axis=0), 1.0)
    return scaled


def first_of_axes(layer: nn.Module, name: str) -> float:
    """First entry of a per-axis setting of a convolution; 0 for layers that have none."""
    value = getattr(layer, name, 0)
    value = value[0] if isinstance(value, tuple) else value
    return float(value) if isinstance(value, int | float) else 0.0
