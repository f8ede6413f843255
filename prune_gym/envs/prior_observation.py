"""What the agent sees beside a prior: nothing in it depends on the network's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.episode import Episode
from prune_gym.envs.observation import first_of_axes

if TYPE_CHECKING:
    from prune_gym.envs.prior import Prior
    from prune_gym.problem.problem import PruningProblem

# (feature, meaning); the table in the environment's docstring is held against this one.
GROUP_FEATURES = (
    ("position", "groups decided so far / groups"),
    ("drop_16", "what is lost with 1/16 of the group's filters, of what can be lost"),
    ("drop_8", "with 1/8 of them"),
    ("drop_4", "with 1/4 of them"),
    ("drop_2", "with 1/2 of them"),
    ("filters", "of the group, log2 / 12"),
    ("prior", "share of them that the prior keeps, 1 + log2 / 8"),
    ("present", "the same of the present width"),
    ("width", "present width, in filters, log2 / 12"),
    ("last", "kept / prior of the last group, 1/2 + log / 4"),
    ("mean", "the mean of that over all groups that are decided"),
    ("kernel", "kernel size of its first layer / 7"),
)
LIMIT_FEATURES = (
    ("spent", "cost with all undecided groups at their minimum / limit"),
    ("expected", "cost with all undecided groups at their present width / limit / 2"),
    ("weight", "what of that expected cost the group decides about"),
    ("limit", "1 + log10 / 3"),
)
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # at which what is lost is seen


def prior_feature_names(
    budget_names: tuple[str, ...], group_names: tuple[str, ...] = ()
) -> list[str]:
    """Name of every entry of the observation; group names are those of the history."""
    names = [name for name, _ in GROUP_FEATURES]
    for budget in budget_names:
        names += [f"{name}:{budget}" for name, _ in LIMIT_FEATURES]
    return names + [f"kept:{name}" for name in group_names]


class PriorObserver:
    """Builds the observations of one problem's episodes beside a prior.

    Args:
        problem: the pruning problem.
        prior: of its episodes.
        history: whether the shares kept so far are seen.

    Attributes:
        size: number of features.
    """

    def __init__(self, problem: PruningProblem, prior: Prior, history: bool) -> None:
        self.problem, self.prior, self.history = problem, prior, history
        groups = tuple(group.name for group in problem.groups) if history else ()
        self.size = len(prior_feature_names(problem.names, groups))
        self._facts = self._group_facts()  # (n_groups, 6): features 1 to 5, and 11

    def __call__(self, episode: Episode) -> NDArray[np.float32]:
        """The observation before the next group is decided, or after the last one.

        Returns:
            (n_features,) float32 in [0, 1].
        """
        parts = [self._group_features(episode), self._limit_features(episode).ravel()]
        if self.history:
            parts.append(episode.counts / self.problem.sizes)
        return np.concatenate(parts).clip(0.0, 1.0).astype(np.float32)

    def _group_facts(self) -> NDArray[np.float64]:
        problem, sensitivity = self.problem, self.problem.sensitivity
        at_stake = max(
            [abs(sensitivity.unpruned), *(own.max() for own in sensitivity.drops if own.size)]
        )
        rows = []
        for index, group in enumerate(problem.groups):
            layer = problem.network.get_submodule(group.producers[0])
            drops = sensitivity.drop(index, np.array(SHARES)) / (at_stake or 1.0)
            kernel = first_of_axes(layer, "kernel_size") / 7.0
            rows.append([*drops, np.log2(group.n_filters) / 12.0, kernel])
        return np.array(rows)

    def _group_features(self, episode: Episode) -> NDArray[np.float64]:
        """Of the group that is next (the last one, at the end): (12,)."""
        n_groups, n_decided = len(self.problem.groups), episode.n_decided
        index = min(n_decided, n_groups - 1)
        size, width = float(self.problem.sizes[index]), float(self.prior.widths(episode)[index])
        prior = self.prior.counts(episode)
        features = np.empty(len(GROUP_FEATURES))
        features[0] = n_decided / n_groups
        features[1:6] = self._facts[index, :5]
        features[6:8] = 1.0 + np.log2(np.maximum([prior[index], width], 0.5) / size) / 8.0
        features[8] = np.log2(max(width, 1.0)) / 12.0
        features[9:11] = 0.5
        if n_decided:
            kept = np.maximum(episode.counts[:n_decided], 0.5)
            moved = np.log(kept / np.maximum(prior[:n_decided], 0.5))
            features[9:11] += np.array([moved[-1], moved.mean()]) / 4.0
        features[11] = self._facts[index, 5]
        return features

    def _limit_features(self, episode: Episode) -> NDArray[np.float64]:
        """What is spent of each limit, and what is expected to be: (n_budgets, 4)."""
        n_groups, n_decided = len(self.problem.groups), episode.n_decided
        states = np.stack([episode.floor_counts(), *[self.prior.widths(episode)] * 2])
        if n_decided < n_groups:
            states[2, n_decided] = episode.minimum[n_decided]
        floor, expected, without = self.problem.counted_costs(states)  # (n_budgets,) float64 each
        limits = self._limits(episode)
        weight = (expected - without) / np.maximum(expected, 1e-12)
        # limits are what they are; what is spent is beside what stands in for a black box
        own = 1.0 + np.log10(episode.limits) / 3.0
        return np.stack([floor / limits, expected / limits / 2.0, weight, own], axis=-1)

    def _limits(self, episode: Episode) -> NDArray[np.float64]:
        """Limits of counted budgets; for others what the prior comes to: (n_budgets,)."""
        known = self.prior.allocation.known
        if known.all():
            return episode.limits
        stand_in = self.problem.counted_costs(self.prior.counts(episode))
        return np.where(known, episode.limits, stand_in)
