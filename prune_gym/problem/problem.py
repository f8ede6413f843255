"""The pruning problem: masks in, `Outcome` out. The contract that everything else stands on.

A `PruningProblem` describes what is pruned and what is asked of it: a trained network, its filter
groups, data, budgets with their limits, and the way a compact network is repaired and judged. It
is frozen, and never changes the network it was given. What judges is its `Evaluator`, which makes
itself ready at first use. Environments, searches, the command line and tests are shells around it.

Cost is a budget of the compact network divided by the same budget of the unpruned network:
dimensionless, 1.0 = nothing removed. Limits are in the same unit, in (0, 1]. With several budgets
the scalar cost is the worst of costs / limits and the scalar limit is 1.0 (`Constraint`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import Budget, over_limits
from prune_gym.datasets import Dataset, Split
from prune_gym.errors import InfeasibleLimitError
from prune_gym.problem.costs import Constraint, CostModel, Counts
from prune_gym.problem.evaluator import Evaluator
from prune_gym.problem.outcome import Outcome
from prune_gym.pruning.compact import Compaction, CompactionPlan, WeightZeroing
from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.inference import InferenceLayout
from prune_gym.pruning.masks import Mask, Masks, check_masks, kept_count, top_mask
from prune_gym.pruning.sizes import TensorSizes
from prune_gym.training.evaluation import accuracy
from prune_gym.training.recovery import Recovery, recover

_MAKING = threading.RLock()  # of evaluators: one thread makes it, the others wait


@dataclass(frozen=True, eq=False, repr=False)
class PruningProblem:
    """A frozen pruning problem; build one with `prune_gym.make_problem`.

    Attributes:
        network: the unpruned network, in evaluation mode; never changed.
        groups: its filter groups, in the order in which they are decided.
        scores: importance per filter of each group, (n_filters,) each.
        data: training, validation and test splits.
        budgets: what is limited.
        limits: limit per budget, as a fraction of the unpruned network's budget, in (0, 1].
        unpruned_values: every budget of the unpruned network, in its unit, (n_budgets,) float64,
            above 0; costs are relative to it.
        recovery: what repairs a compact network before it is judged.
        recovery_steps: optimizer steps of a recovery that trains.
        structure: ``"filter"`` (real removal) or ``"weight"`` (single weights set to zero).
        round_to: kept filters of a group come in multiples of it (or all stay).
        layout: in which networks are judged.
        batch_size: images a forward when networks are judged; None = measured.
        arguments: of `prune_gym.make_problem`, where all of them can be written down; else None.
    """

    network: nn.Module
    groups: tuple[FilterGroup, ...]
    scores: tuple[NDArray[np.float64], ...]
    data: Dataset
    budgets: tuple[Budget, ...]
    limits: tuple[float, ...]
    unpruned_values: NDArray[np.float64]
    recovery: Recovery
    recovery_steps: int = 32
    structure: str = "filter"
    round_to: int = 1
    layout: InferenceLayout = field(default_factory=InferenceLayout)
    batch_size: int | None = None
    arguments: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        """Short, so that an error message that holds a problem stays readable."""
        limits = ", ".join(f"{n} {x:g}" for n, x in zip(self.names, self.limits, strict=True))
        name = type(self.network).__name__
        return f"PruningProblem({name} on {self.data.name}, {len(self.groups)} groups, {limits})"

    # -- what follows from the description ---------------------------------------------------

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of filters per group, (n_groups,)."""
        return np.array([group.n_filters for group in self.groups], dtype=np.int64)

    @property
    def example(self) -> torch.Tensor:
        """One input of the network, (1, ...)."""
        return self.data.train.batch(self.data.train.spread(1))

    @cached_property
    def orders(self) -> tuple[NDArray[np.int64], ...]:
        """Filters per group, most important first; ties keep the lower index first."""
        return tuple(np.argsort(-scores, kind="stable") for scores in self.scores)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the budgets."""
        return tuple(budget.name for budget in self.budgets)

    @property
    def constraint(self) -> Constraint:
        """The limits, and the rule that makes one cost of all."""
        return Constraint(self.limits)

    @property
    def cost_limit(self) -> float:
        """The scalar limit: the budget's own, or 1.0 with several budgets."""
        return self.constraint.limit

    @cached_property
    def compaction(self) -> CompactionPlan:
        """The plan by which the network is compacted."""
        if self.structure == "weight":
            return WeightZeroing(self.network, self.groups)
        return Compaction(self.network, self.groups, training=False)

    @cached_property
    def cost_model(self) -> CostModel:
        """The budgets as functions of keep masks."""
        return CostModel(
            self.network,
            self.example,
            self.compaction,
            TensorSizes.of(self.network, self.groups),
            self.budgets,
            self.unpruned_values,
        )

    # -- masks -------------------------------------------------------------------------------

    def kept_counts(self, prune_ratios: Sequence[float] | NDArray[np.float64]) -> Counts:
        """Filters that stay per group, (n_groups,), when ``prune_ratios`` in [0, 1] are removed."""
        groups = range(len(self.groups))
        pairs = zip(groups, prune_ratios, strict=True)
        counts = [self.kept_count(group, float(ratio)) for group, ratio in pairs]
        return np.array(counts, dtype=np.int64)

    def kept_count(self, group: int, prune_ratio: float) -> int:
        """Filters that stay of a group, by its index, when ``prune_ratio`` in [0, 1] is removed."""
        return kept_count(prune_ratio, int(self.sizes[group]), self.round_to)

    def masks_of(self, counts: Sequence[int] | Counts) -> Masks:
        """Keep masks that keep the ``counts`` most important filters of each group."""
        return tuple(top_mask(o, int(n)) for o, n in zip(self.orders, counts, strict=True))

    def check_masks(self, masks: Sequence[Mask]) -> Masks:
        """Validate keep masks against the groups (raises ValueError)."""
        return check_masks(masks, self.sizes.tolist())

    def compact(self, masks: Sequence[Mask]) -> nn.Module:
        """The compact network of keep masks, not yet recovered."""
        return self.compaction.network(self.check_masks(masks))

    # -- costs -------------------------------------------------------------------------------

    def values(
        self, masks: Sequence[Mask], network: nn.Module | None = None
    ) -> NDArray[np.float64]:
        """Every budget of keep masks, in its unit, (n_budgets,) float64.

        Args:
            masks: one keep mask per group.
            network: their compact network where it exists already; black-box budgets are called
                once each with it.
        """
        return self.cost_model.values(self.check_masks(masks), network)

    def costs(self, masks: Sequence[Mask], network: nn.Module | None = None) -> NDArray[np.float64]:
        """Every cost of keep masks, (n_budgets,) float64, 1.0 = nothing removed; see `values`."""
        return self.cost_model.costs(self.check_masks(masks), network)

    def counted_costs(self, counts: Counts) -> NDArray[np.float64]:
        """Costs by kept filters per group, in microseconds and without a network.

        A black-box budget cannot be known so cheaply; the share of parameters stands in for it.

        Args:
            counts: (..., n_groups) kept filters.

        Returns:
            (..., n_budgets) float64.
        """
        return self.cost_model.counted_costs(counts)

    def feasible(self, costs: NDArray[np.float64]) -> bool:
        """Whether every cost, (n_budgets,), is within its limit (no tolerance)."""
        return self.constraint.is_met(costs)

    def check_reachable(self, smallest: Counts, limits: Sequence[float] | None = None) -> None:
        """Raise unless the network with ``smallest`` filters per group is within every limit.

        Args:
            smallest: (n_groups,) kept filters.
            limits: (n_budgets,); None = the problem's.

        Raises:
            InfeasibleLimitError: names each budget that is out of reach and its floor.
        """
        floors = self.costs(self.masks_of(smallest))
        broken = over_limits(self.budgets, limits or self.limits, floors, self.unpruned_values)
        if broken:
            raise InfeasibleLimitError(
                f"{'; '.join(broken)} (the smallest network that can be reached). "
                "Choose a limit at or above the floor."
            )

    # -- judging -----------------------------------------------------------------------------

    @property
    def evaluator(self) -> Evaluator:
        """What judges networks: made at first use, once, by whichever thread comes first."""
        with _MAKING:
            return self._evaluator

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self)

    def evaluate(
        self, masks: Sequence[Mask], *, seed: int = 0, recovery_steps: int | None = None
    ) -> Outcome:
        """Compact, recover, judge.

        Args:
            masks: one keep mask per group, (n_filters,) bool, True = stays.
            seed: of a recovery that draws random numbers.
            recovery_steps: overrides the problem's.

        Raises:
            ValueError: masks that do not fit the groups.
            BudgetError: a budget raised or gave nonsense.
        """
        return self.evaluator.evaluate(masks, seed=seed, recovery_steps=recovery_steps)

    def recover(self, network: nn.Module, *, seed: int = 0, steps: int | None = None) -> nn.Module:
        """Repair a compact network in place, as an episode does; returns it."""
        steps = self.recovery_steps if steps is None else steps
        return recover(network, self.recovery, self.data.train, seed=seed, steps=steps)

    def accuracy(self, network: nn.Module, split: Split | None = None) -> float:
        """Accuracy of a network on the validation split, or (the plain way) on another."""
        return self.evaluator.accuracy(network) if split is None else accuracy(network, split)
