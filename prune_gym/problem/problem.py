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

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import Budget, over_limits
from prune_gym.datasets import Dataset, Examples
from prune_gym.errors import InfeasibleLimitError
from prune_gym.problem.allocation import Allocation
from prune_gym.problem.costs import Constraint, CostModel, Counts
from prune_gym.problem.evaluator import Bar, Evaluator
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.sensitivity import Sensitivity, check_sensitivity, scan
from prune_gym.pruning.compact import Compaction, CompactionPlan, WeightZeroing
from prune_gym.pruning.groups import FilterGroup, checked_masks
from prune_gym.pruning.inference import InferenceLayout
from prune_gym.pruning.masks import Mask, Masks, kept_count, top_mask
from prune_gym.pruning.sizes import TensorSizes
from prune_gym.tasks.task import CLASSIFICATION, Task
from prune_gym.training.evaluation import measured
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
        round_to: kept filters of a group come in multiples of it (or all stay, or none).
        layout: in which networks are judged.
        batch_size: images a forward when networks are judged; None = measured.
        arguments: of `prune_gym.make_problem`, where all of them can be written down; else None.
        task: what is asked of networks: metric, loss, which outputs count, who fine-tunes.
        bar: of the race that `evaluate` is; None = none, every network is judged whole.
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
    task: Task = CLASSIFICATION
    bar: Bar | None = None

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
    def depth(self) -> bool:
        """Whether residual blocks can go whole."""
        return any(group.block is not None for group in self.groups)

    @property
    def example(self) -> Any:
        """One input of the network: a tensor (1, ...), or what its data holds in its place."""
        return self.data.train.example

    @property
    def device(self) -> torch.device:
        """Where networks are judged."""
        return self.data.train.device

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

    def kept_count(self, index: int, prune_ratio: float) -> int:
        """Filters that stay of group ``index`` when ``prune_ratio`` in [0, 1] is removed."""
        group = self.groups[index]
        return kept_count(prune_ratio, group.n_filters, self.round_to, group.fewest)

    def kept_counts(self, prune_ratios: Sequence[float] | NDArray[np.float64]) -> Counts:
        """Filters that stay per group, (n_groups,), when ``prune_ratios`` in [0, 1] are removed.

        Each group is counted by itself: where one of a residual block that can go whole keeps none,
        the others of it go as well, whatever is said of them here.
        """
        pairs = zip(range(len(self.groups)), prune_ratios, strict=True)
        return np.array([self.kept_count(i, float(ratio)) for i, ratio in pairs], dtype=np.int64)

    def masks_of(self, counts: Sequence[int] | Counts) -> Masks:
        """Keep masks that keep the ``counts`` most important filters of each group."""
        return tuple(top_mask(o, int(n)) for o, n in zip(self.orders, counts, strict=True))

    def check_masks(self, masks: Sequence[Mask]) -> Masks:
        """Validate keep masks against the groups (raises ValueError).

        Of a residual block that goes whole they keep nothing in any of its groups.
        """
        return checked_masks(self.groups, masks)

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
                f"{self._holding(smallest)}Choose a limit at or above the floor."
            )

    def _holding(self, smallest: Counts) -> str:
        """The layers that hold most parameters of the smallest network, in a sentence."""
        sizes = self.cost_model.sizes
        counted = sizes.count(smallest) * sizes.is_parameter
        held: dict[str, float] = {}
        for name, share in zip(sizes.names, counted / counted.sum(), strict=True):
            layer = name.rpartition(".")[0] or name
            held[layer] = held.get(layer, 0.0) + float(share)
        most = sorted(held.items(), key=lambda row: -row[1])[:3]
        named = ", ".join(f"{layer!r} ({share:.0%})" for layer, share in most if share >= 0.1)
        return f"Most of its parameters lie in {named}. " if named else ""

    # -- what a search can start from --------------------------------------------------------

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """What is lost where one filter group alone is cut; judged at first use (`scan`)."""
        return scan(self)

    @cached_property
    def allocation(self) -> Allocation:
        """How many filters each group keeps within limits, by the sensitivity."""
        return Allocation(self, self.sensitivity)

    def knowing(
        self, sensitivity: Sensitivity, allocation: Allocation | None = None
    ) -> PruningProblem:
        """The same problem, with the same evaluator and a sensitivity that was found before.

        Args:
            sensitivity: of the same filter groups.
            allocation: by it, with what was measured for it; None = it is found anew.

        Raises:
            ValueError: it is of other filter groups.
        """
        _ = self.evaluator  # made here: there is one for both
        known = copy.copy(self)
        vars(known).pop("allocation", None)
        vars(known)["sensitivity"] = check_sensitivity(self, sensitivity)
        if allocation is not None:
            vars(known)["allocation"] = allocation
        return known

    # -- judging -----------------------------------------------------------------------------

    @property
    def evaluator(self) -> Evaluator:
        """What judges networks: made at first use, once, by whichever thread comes first."""
        with _MAKING:
            return self._evaluator

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self)

    @contextmanager
    def judged_by(self, evaluator: Evaluator) -> Iterator[None]:
        """While the block lasts, another evaluator judges the networks of this problem."""
        before = self.evaluator
        vars(self)["_evaluator"] = evaluator
        try:
            yield
        finally:
            vars(self)["_evaluator"] = before

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
        return self.evaluator.evaluate(
            masks, seed=seed, recovery_steps=recovery_steps, bar=self.bar
        )

    def racing(self, bar: Bar) -> PruningProblem:
        """The same problem, with the same evaluator, whose `evaluate` is a race.

        A network that would hardly exceed the bar any more after a part of the validation images is
        judged no further; its outcome says so (`Outcome.judged`). See `prune_gym.training.racing`
        for the error rate. Only accuracies of plain classes race; other metrics, and what needs no
        judging, stay whole.

        Args:
            bar: gives the accuracy that a network has to exceed, of its keep masks and its budgets
                (n_budgets,) in their units; None = it is judged whole. `prune_gym.problem.rivals`
                has one.
        """
        _ = self.evaluator  # made here: there is one for both
        raced = copy.copy(self)
        vars(raced)["bar"] = bar
        return raced

    def recover(self, network: nn.Module, *, seed: int = 0, steps: int | None = None) -> nn.Module:
        """Repair a compact network in place, as an episode does; returns it."""
        steps = self.recovery_steps if steps is None else steps
        train = self.data.train
        return recover(network, self.recovery, train, seed=seed, steps=steps, task=self.task)

    def accuracy(self, network: nn.Module, split: Examples | None = None) -> float:
        """Reward of a network on the validation split, or (the plain way) on another.

        For classification it is the accuracy, in [0, 1]; see `prune_gym.tasks.metrics`.
        """
        if split is None:
            return self.evaluator.accuracy(network)
        return self.task.metric.reward(measured(network, split, self.task))

    def judge(self, network: nn.Module, split: Examples | None = None) -> float:
        """The metric of a network, in its unit, on the validation split or on another."""
        return self.task.metric.value(self.accuracy(network, split))
