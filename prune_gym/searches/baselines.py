"""Searches that do not learn: the honest controls for every agent.

Each gets as many network evaluations as the agent and chooses one prune ratio per filter group (in
every environment, also where the agent decides filter by filter). None is told the budget function;
all only see accuracy and cost.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from prune_gym.problem.feasibility import Costs, feasible_ratios
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks
from prune_gym.utils.registry import Registry

Ratios: TypeAlias = NDArray[np.float64]  # (n_groups,) prune ratio per group, in [0, 1]
Judged: TypeAlias = list[tuple[float, float, bool]]  # accuracy, cost, feasible
# yields batches of ratio vectors, is sent what they came to
Proposer: TypeAlias = Generator[list[Ratios], Judged, None]

BATCH = 8  # judged side by side

BASELINES: Registry[Callable[..., Proposer]] = Registry("algorithm")


@BASELINES.register
def uniform(n_groups: int, evaluations: int, generator: np.random.Generator) -> Proposer:
    """The same prune ratio in every layer, from an even grid."""
    grid = np.linspace(0.0, 1.0, evaluations + 1)[1:]
    for start in range(0, evaluations, BATCH):
        yield [np.full(n_groups, ratio) for ratio in grid[start : start + BATCH]]


@BASELINES.register
def random(n_groups: int, evaluations: int, generator: np.random.Generator) -> Proposer:
    """Independent uniform prune ratios per layer."""
    for start in range(0, evaluations, BATCH):
        yield list(generator.random((min(BATCH, evaluations - start), n_groups)))


@BASELINES.register
def cem(n_groups: int, evaluations: int, generator: np.random.Generator) -> Proposer:
    """Cross-entropy method: refit a Gaussian to the best 20 % of 40 samples, again and again.

    Rubinstein (1999). Feasible samples rank by accuracy and before infeasible ones, which rank by
    cost. Mean and spread move by 0.7 towards the elite; the spread starts at 0.3 and stays above
    0.02.
    """
    mean, spread = np.full(n_groups, 0.5), np.full(n_groups, 0.3)
    left = evaluations
    while left > 0:
        size = min(40, left)
        samples = np.clip(mean + spread * generator.standard_normal((size, n_groups)), 0.0, 1.0)
        judged = yield list(samples)
        keys = [(feasible, accuracy if feasible else -cost) for accuracy, cost, feasible in judged]
        ranked = sorted(range(size), key=lambda index: keys[index], reverse=True)
        elite = samples[ranked[: max(2, size // 5)]]
        mean = 0.3 * mean + 0.7 * elite.mean(axis=0)
        spread = np.maximum(0.3 * spread + 0.7 * elite.std(axis=0), 0.02)
        left -= size


def masks_of_ratios(problem: PruningProblem, ratios: Ratios, costs: Costs | None = None) -> Masks:
    """Keep masks that remove the fraction ``ratios`` of each group.

    Args:
        problem: of the groups.
        ratios: (n_groups,).
        costs: of the problem; where it is given, ratios that would break a limit are first moved
            until they do not (`prune_gym.problem.feasibility.feasible_ratios`).
    """
    if costs is not None:
        ratios = feasible_ratios(problem, ratios, costs)
    return problem.masks_of(problem.kept_counts(ratios))
