"""What the agent sees: the layer to decide, what was decided, and what is left of each budget.

Every feature lies in [0, 1]. The layer facts are the paper's (arXiv 2110.08558), scaled by their
largest value in the network; the budget features make the cost predictable (Markov).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

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
    budget_names: tuple[str, ...], limit_range: tuple[float, float] | None = None
) -> list[str]:
    """Name of every entry of the observation; budget features repeat for each budget."""
    names = [name for name, _ in LAYER_FEATURES]
    for budget in budget_names:
        names += [f"{name}:{budget}" for name, _ in BUDGET_FEATURES]
    if limit_range is not None:
        names += [name for name, _ in LIMIT_FEATURES]
    return names


class Observer:
    """Builds observations for one problem; holds only what never changes.

    Args:
        problem: the pruning problem.
        limit_range: lowest and highest limit of an episode where it is drawn anew each time.
    """

    def __init__(
        self, problem: PruningProblem, limit_range: tuple[float, float] | None = None
    ) -> None:
        self.problem, self.limit_range = problem, limit_range
        self.size = len(feature_names(problem.names, limit_range))
        self._facts = _layer_facts(problem)  # (n_groups, 5)

    def __call__(
        self,
        counts: NDArray[np.int64],
        minimum: NDArray[np.int64],
        decided: int,
        ratios: list[float],
        limits: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """The observation before group ``decided`` is decided (or after the last one).

        Args:
            counts: (n_groups,) kept filters; meaningful for decided groups only.
            minimum: (n_groups,) smallest number of kept filters that can be reached.
            decided: number of groups decided so far.
            ratios: prune ratios of the decided groups.
            limits: (n_budgets,) of this episode.

        Returns:
            (size,) float32 in [0, 1].
        """
        problem, n = self.problem, len(self.problem.groups)
        last = min(decided, n - 1)
        states = np.array([minimum, problem.sizes, problem.sizes])  # floor, ceiling, the rest
        states[:, :decided] = counts[:decided]
        states[2, last] = minimum[last] if decided < n else counts[last]
        floor, ceiling, rest = problem.counted_costs(states)
        own = ceiling - rest
        kept = counts[decided - 1] / problem.sizes[decided - 1] if decided else 1.0
        features = np.empty(self.size)
        features[0] = decided / n
        features[1:6] = self._facts[last]
        features[6:9] = ratios[-1] if ratios else 0.0, kept, sum(ratios) / n
        end = 9 + len(limits) * len(BUDGET_FEATURES)
        tail = features[9:end].reshape(-1, len(BUDGET_FEATURES))  # (n_budgets, 5)
        tail[:, 0], tail[:, 1], tail[:, 2] = floor, floor / limits, ceiling
        tail[:, 3], tail[:, 4] = ceiling - floor, own
        if self.limit_range is not None:
            low, high = self.limit_range
            features[end] = np.log(limits[0] / low) / np.log(high / low)
        return features.clip(0.0, 1.0).astype(np.float32)


def _layer_facts(problem: PruningProblem) -> NDArray[np.float64]:
    rows = []
    for group in problem.groups:
        layer = problem.network.get_submodule(group.producers[0])
        rows.append(
            [
                float(group.n_filters),
                float(getattr(layer, "in_channels", getattr(layer, "in_features", 1))),
                *(_first(layer, name) for name in ("kernel_size", "stride", "padding")),
            ]
        )
    facts = np.array(rows)
    return facts / np.maximum(facts.max(axis=0), 1.0)  # type: ignore[no-any-return]


def _first(layer: nn.Module, name: str) -> float:
    """First entry of a per-axis setting of a convolution; 0 for layers that have none."""
    value = getattr(layer, name, 0)
    value = value[0] if isinstance(value, tuple) else value
    return float(value) if isinstance(value, int | float) else 0.0
