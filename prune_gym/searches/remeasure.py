"""Before a network is handed over: what it costs, measured anew where measuring is noisy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import amount
from prune_gym.problem.archive import Archive
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Mask, Masks
from prune_gym.utils.stopping import check_stop

CANDIDATES = 10  # that are measured anew before a search gives up
REPEATS = 5  # measurements of a noisy budget, each by the side of the unpruned network


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What a network costs, as it was measured just now.

    Attributes:
        costs: (n_budgets,) float64; of noisy budgets the median.
        feasible: whether every one is within its limit.
        measured: noisy budgets by name: lowest, median and highest cost, number of measurements.
        words: every cost with its value and limit, for people.
    """

    costs: NDArray[np.float64]
    feasible: bool
    measured: dict[str, dict[str, Any]]
    words: str

    def __str__(self) -> str:
        """Every cost with its value and limit."""
        return self.words


def confirm(
    problem: PruningProblem, masks: Sequence[Mask], network: nn.Module, repeats: int = REPEATS
) -> Confirmation:
    """Measure the budgets of a network, those that are not deterministic several times.

    A noisy cost was chosen by a search as one of the lowest of many: it is low by luck, too. The
    median of new measurements is not. Two that are equal to the last bit are taken for certain.

    Args:
        problem: its budgets and limits.
        masks: keep masks of the network.
        network: their compact network, as it is to be handed over.
        repeats: measurements of a noisy budget at most.

    Raises:
        BudgetError: a budget raised or gave nonsense.
    """
    costs = problem.costs(masks, network)
    measured: dict[str, dict[str, Any]] = {}
    for index, budget in enumerate(problem.budgets):
        if budget.is_deterministic:
            continue
        found = [float(costs[index])]
        while len(found) < repeats and not (len(found) == 2 and found[0] == found[1]):
            check_stop()
            value = problem.cost_model.measure(index, network)
            found.append(value / float(problem.unpruned_values[index]))
        costs[index] = np.median(found)
        measured[budget.name] = {
            "lowest": min(found),
            "median": float(costs[index]),
            "highest": max(found),
            "measurements": len(found),
        }
    words = (
        cost_in_words(problem, index, float(cost), measured.get(problem.names[index]))
        for index, cost in enumerate(costs)
    )
    return Confirmation(costs, problem.feasible(costs), measured, "; ".join(words))


def cost_in_words(
    problem: PruningProblem, index: int, cost: float, measured: dict[str, Any] | None = None
) -> str:
    """``latency_ms 0.4312 (1.2 ms; 0.42 to 0.45 in 5 measurements) of at most 0.5 (1.4 ms)``."""
    budget, limit = problem.budgets[index], problem.limits[index]
    unpruned = float(problem.unpruned_values[index])
    spread = "" if measured is None else f"; {spread_in_words(measured)}"
    return (
        f"{budget.name} {cost:.4f} ({amount(cost * unpruned, budget.unit)}{spread}) of at most "
        f"{limit:.6g} ({amount(limit * unpruned, budget.unit)})"
    )


def spread_in_words(measured: dict[str, Any]) -> str:
    """``0.42 to 0.45 in 5 measurements``."""
    return (
        f"{measured['lowest']:.4g} to {measured['highest']:.4g} in {measured['measurements']} "
        "measurements"
    )


def candidates(
    archive: Archive, problem: PruningProblem, by_ratio: bool, n: int | None = None
) -> Iterator[tuple[int, Masks]]:
    """Number and keep masks of feasible networks, the best first.

    Args:
        archive: of a search.
        problem: which was searched.
        by_ratio: whether masks follow from the kept fractions, as where agents choose ratios. Where
            they do not, or with ``structure="weight"``, those of the front are known only.
        n: how many at most; None = `CANDIDATES`, and the best one only where others are not nearly
            as good, as those of the front.

    Raises:
        NothingFeasibleError: there is none.
    """
    best_masks = archive.feasible_masks()
    number = archive.trials.index(archive.best) + 1  # type: ignore[arg-type]
    yield number, best_masks
    if not by_ratio or problem.structure != "filter":
        limits = dict(zip(problem.names, problem.limits, strict=True))
        others = [one for one in archive.front if one.is_within(limits) and one.number != number]
        for one in sorted(others, key=lambda one: -one.accuracy)[: (n or 1) - 1]:
            yield one.number, one.masks
        return
    rows = {
        row.kept: (number, row)
        for number, row in enumerate(archive.trials, start=1)
        if row.feasible and not row.is_partial
    }
    rows.pop(archive.trials[number - 1].kept, None)
    best = sorted(rows.values(), key=lambda one: (-one[1].accuracy, one[1].cost))
    for number, row in best[: (n or CANDIDATES) - 1]:
        yield number, problem.masks_of(np.rint(np.array(row.kept) * problem.sizes).astype(np.int64))
