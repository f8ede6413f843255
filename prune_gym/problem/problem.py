"""The pruning problem: masks in, `Outcome` out. The contract that everything else stands on.

A `PruningProblem` is a trained network, its filter groups, data, budgets with their limits, and the
way a compact network is repaired and judged. It is frozen and pure: `PruningProblem.evaluate` maps
keep masks to an outcome and never changes the network it was given. Environments, searches, the
command line and tests are shells around it.

Cost is a budget of the compact network divided by the same budget of the unpruned network:
dimensionless, 1.0 = nothing removed. Limits are in the same unit, in (0, 1]. With several budgets
the scalar cost is the worst of costs / limits and the scalar limit is 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import Budget, over_limits
from prune_gym.datasets import Dataset, Split
from prune_gym.errors import InfeasibleLimitError, InvalidValueError
from prune_gym.problem.outcome import Outcome, OutcomeMemory, digest
from prune_gym.pruning.compact import Compaction, zero_weights
from prune_gym.pruning.groups import FilterGroup
from prune_gym.pruning.inference import InferenceForm
from prune_gym.pruning.masks import Mask, Masks, check_masks, kept_count, kept_per_group, top_mask
from prune_gym.pruning.sizes import TensorSizes
from prune_gym.training.evaluation import Exam, accuracy
from prune_gym.training.recovery import Recovery, is_fixed

Counts = NDArray[np.int64]  # (n_groups,) kept filters per group


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
        recovery: what repairs a compact network before it is judged.
        recovery_steps: optimizer steps of a recovery that trains.
        structure: ``"filter"`` (real removal) or ``"weight"`` (single weights set to zero).
        round_to: kept filters of a group come in multiples of it (or all stay).
        form: how networks are judged.
        batch_size: images a forward when networks are judged; None = measured.
        arguments: of `prune_gym.make_problem`, where all of them can be written down; else None.
    """

    network: nn.Module
    groups: tuple[FilterGroup, ...]
    scores: tuple[NDArray[np.float64], ...]
    data: Dataset
    budgets: tuple[Budget, ...]
    limits: tuple[float, ...]
    recovery: Recovery
    recovery_steps: int = 32
    structure: str = "filter"
    round_to: int = 1
    form: InferenceForm = field(default_factory=InferenceForm)
    batch_size: int | None = None
    arguments: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        """Short, so that an error message that holds a problem stays readable."""
        limits = ", ".join(f"{n} {x:g}" for n, x in zip(self.names, self.limits, strict=True))
        name = type(self.network).__name__
        return f"PruningProblem({name} on {self.data.name}, {len(self.groups)} groups, {limits})"

    # -- what is fixed once ------------------------------------------------------------------

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of filters per group, (n_groups,)."""
        return np.array([group.n_filters for group in self.groups], dtype=np.int64)

    @property
    def example(self) -> torch.Tensor:
        """One input of the network, (1, ...)."""
        return self.data.train.batch(slice(1))

    @cached_property
    def dense_values(self) -> NDArray[np.float64]:
        """Every budget of the unpruned network, in its unit, (n_budgets,)."""
        values = np.array([budget(self.network, self.example) for budget in self.budgets])
        for budget, value in zip(self.budgets, values, strict=True):
            if value <= 0.0:
                raise InvalidValueError(
                    f"budget {budget.name!r} of the unpruned network is {value}; costs are "
                    "relative to it, so it must be above 0."
                )
        return values

    @cached_property
    def orders(self) -> tuple[NDArray[np.int64], ...]:
        """Filters per group, most important first; ties keep the lower index first."""
        return tuple(np.argsort(-scores, kind="stable") for scores in self.scores)

    @cached_property
    def tensor_sizes(self) -> TensorSizes:
        """Elements per tensor as a function of kept filters per group."""
        return TensorSizes.of(self.network, self.groups)

    @cached_property
    def exam(self) -> Exam:
        """The validation split, made ready once; its batch size is measured where none is given.

        It is measured on a network that keeps a third of every group's filters.
        """
        exam = Exam.of(self.data.validation, self.form, self.batch_size)
        if self.batch_size is not None:
            return exam
        third = self.masks_of(np.maximum(1, self.sizes // 3))
        return exam.fastest(self.compact(third))

    @cached_property
    def memory(self) -> OutcomeMemory:
        """Outcomes of earlier decisions; stays empty where a recovery draws or trains.

        What a budget measured is remembered, too: noise would make two costs of one decision.
        """
        return OutcomeMemory()

    @cached_property
    def _compaction(self) -> Compaction:
        return Compaction(self.network, self.groups, training=False)

    def prepare(self) -> None:
        """Make ready what all evaluations share; to be called before threads do."""
        _ = self.exam, self.memory, self._compaction, self._counted, self.dense_values

    @cached_property
    def _counted(self) -> list[NDArray[np.float64] | None]:
        """Weight of an element of each tensor, per budget; None for black boxes."""
        return [
            None
            if budget.counted is None
            else self.tensor_sizes.weights(budget.counted(self.network, self.example))
            for budget in self.budgets
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the budgets."""
        return tuple(budget.name for budget in self.budgets)

    @property
    def cost_limit(self) -> float:
        """The scalar limit: the budget's own, or 1.0 with several budgets."""
        return self.limits[0] if len(self.limits) == 1 else 1.0

    # -- masks -------------------------------------------------------------------------------

    def kept_counts(self, prune_ratios: Sequence[float] | NDArray[np.float64]) -> Counts:
        """Filters that stay per group, (n_groups,), when ``prune_ratios`` in [0, 1] are removed."""
        pairs = zip(prune_ratios, self.sizes, strict=True)
        counts = [kept_count(float(ratio), int(size), self.round_to) for ratio, size in pairs]
        return np.array(counts, dtype=np.int64)

    def masks_of(self, counts: Sequence[int] | Counts) -> Masks:
        """Keep masks that keep the ``counts`` most important filters of each group."""
        return tuple(top_mask(o, int(n)) for o, n in zip(self.orders, counts, strict=True))

    def check_masks(self, masks: Sequence[Mask]) -> Masks:
        """Validate keep masks against the groups (raises ValueError)."""
        return check_masks(masks, [int(size) for size in self.sizes])

    # -- the way of the data -----------------------------------------------------------------

    def compact(self, masks: Sequence[Mask]) -> nn.Module:
        """The compact network of keep masks, not yet recovered."""
        masks = self.check_masks(masks)
        if self.structure == "weight":
            return zero_weights(self.network, self.groups, masks).eval()
        return self._compaction.network(masks)

    def costs(self, masks: Sequence[Mask], network: nn.Module | None = None) -> NDArray[np.float64]:
        """Every cost of keep masks, (n_budgets,) float64, 1.0 = nothing removed; see `values`."""
        return self.values(masks, network) / self.dense_values

    def values(
        self, masks: Sequence[Mask], network: nn.Module | None = None
    ) -> NDArray[np.float64]:
        """Every budget of keep masks, in its unit, (n_budgets,) float64.

        Args:
            masks: one keep mask per group.
            network: their compact network where it exists already; black-box budgets are called
                once each with it.
        """
        counts = kept_per_group(masks)
        values = np.zeros(len(self.budgets))
        for index, (budget, weights) in enumerate(zip(self.budgets, self._counted, strict=True)):
            if weights is not None:
                values[index] = self.tensor_sizes.count(counts) @ weights
            else:
                network = self.compact(masks) if network is None else network
                dense = float(self.dense_values[index])
                values[index] = budget.relative(network, self.network, self.example, dense)
        return values

    def counted_costs(self, counts: Counts) -> NDArray[np.float64]:
        """Costs by kept filters per group, in microseconds and without a network.

        A black-box budget cannot be known so cheaply; the share of parameters stands in for it.

        Args:
            counts: (..., n_groups) kept filters.

        Returns:
            (..., n_budgets) float64.
        """
        kept = self.tensor_sizes.count(counts)
        costs = [
            self.tensor_sizes.share(kept) if weights is None else (kept @ weights) / dense
            for weights, dense in zip(self._counted, self.dense_values, strict=True)
        ]
        return np.stack(costs, axis=-1)

    def scalar_cost(self, costs: NDArray[np.float64]) -> float:
        """One number of all costs: the cost itself, or the worst of costs / limits."""
        return float(costs[0] if len(self.limits) == 1 else np.max(costs / np.array(self.limits)))

    def feasible(self, costs: NDArray[np.float64]) -> bool:
        """Whether every cost is within its limit (no tolerance)."""
        return bool(np.all(costs <= np.array(self.limits)))

    def recover(self, network: nn.Module, *, seed: int = 0, steps: int | None = None) -> nn.Module:
        """Repair a compact network in place, as an episode does; returns it."""
        generator = torch.Generator().manual_seed(seed)
        steps = self.recovery_steps if steps is None else steps
        self.recovery(network, self.data.train, generator=generator, steps=steps)
        return network if is_fixed(self.recovery) else network.eval()

    def accuracy(self, network: nn.Module, split: Split | None = None) -> float:
        """Accuracy of a network on the validation split, or (the plain way) on another."""
        return self.exam.accuracy(network) if split is None else accuracy(network, split)

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
        masks = self.check_masks(masks)
        key = digest(masks) if is_fixed(self.recovery) else None
        known = None if key is None else self.memory.get(key)
        if known is not None:
            own = tuple(mask.copy() for mask in masks)
            build = partial(self._recovered, own, seed, recovery_steps)
            return self._outcome(masks, *known, build, remembered=True)
        network = self._recovered(masks, seed, recovery_steps)
        judged = self.accuracy(network), self.values(masks, network)
        if key is not None:
            self.memory.put(key, *judged)
        return self._outcome(masks, *judged, lambda: network)

    def _recovered(self, masks: Masks, seed: int, steps: int | None) -> nn.Module:
        return self.recover(self.compact(masks), seed=seed, steps=steps)

    def _outcome(
        self,
        masks: Masks,
        score: float,
        values: NDArray[np.float64],
        build: Callable[[], nn.Module],
        remembered: bool = False,
    ) -> Outcome:
        costs = values / self.dense_values
        return Outcome(
            accuracy=score,
            costs={name: float(cost) for name, cost in zip(self.names, costs, strict=True)},
            values={name: float(value) for name, value in zip(self.names, values, strict=True)},
            feasible=self.feasible(costs),
            cost=self.scalar_cost(costs),
            kept=(kept_per_group(masks) / self.sizes).astype(np.float32),
            build=build,
            remembered=remembered,
        )

    def check_reachable(self, smallest: Counts, limits: Sequence[float] | None = None) -> None:
        """Raise unless the network with ``smallest`` filters per group is within every limit.

        Args:
            smallest: (n_groups,) kept filters.
            limits: (n_budgets,); None = the problem's.

        Raises:
            InfeasibleLimitError: names each budget that is out of reach and its floor.
        """
        floors = self.costs(self.masks_of(smallest))
        broken = over_limits(self.budgets, limits or self.limits, floors, self.dense_values)
        if broken:
            raise InfeasibleLimitError(
                f"{'; '.join(broken)} (the smallest network that can be reached). "
                "Choose a limit at or above the floor."
            )
