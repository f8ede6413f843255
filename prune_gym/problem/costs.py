"""What networks cost: budgets by keep masks, and the one number that a constraint is about.

Cost is a budget of the compact network divided by the same budget of the unpruned one:
dimensionless, 1.0 = nothing removed. Limits are in the same unit.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune_gym.budgets import Budget
from prune_gym.errors import InvalidValueError
from prune_gym.pruning.compact import CompactionPlan
from prune_gym.pruning.masks import Mask, kept_per_group
from prune_gym.pruning.sizes import TensorSizes

Counts = NDArray[np.int64]  # (n_groups,) kept filters per group
_MEASURING = threading.RLock()


@dataclass(frozen=True)
class Constraint:
    """Limits of costs, and the rule that makes one cost and one limit of them.

    One budget: the scalar cost is its cost, the scalar limit its limit. Several: the scalar cost is
    the worst of costs / limits, the scalar limit 1.0.

    Attributes:
        limits: (n_budgets,) in (0, 1].
        is_relative: whether the rule for several is that for one as well, as where each episode has
            a limit of its own.
    """

    limits: tuple[float, ...]
    is_relative: bool = False

    @property
    def _is_ratio(self) -> bool:
        return self.is_relative or len(self.limits) > 1

    @property
    def limit(self) -> float:
        """The scalar limit."""
        return 1.0 if self._is_ratio else self.limits[0]

    def cost(self, costs: NDArray[np.float64]) -> float:
        """The scalar cost of costs, (n_budgets,)."""
        return float(np.max(costs / np.array(self.limits)) if self._is_ratio else costs[0])

    def is_met(self, costs: NDArray[np.float64]) -> bool:
        """Whether every cost, (n_budgets,), is within its limit (no tolerance)."""
        return bool(np.all(costs <= np.array(self.limits)))


class CostModel:
    """The budgets of one network's compact networks, by their keep masks.

    What is counted takes microseconds and no network; a black box is called with the compact one.

    Args:
        network: the unpruned network.
        example: one input of it, (1, ...).
        plan: how it is compacted.
        sizes: elements of its tensors by kept filters.
        budgets: what is asked.
        unpruned_values: (n_budgets,) of the unpruned network, above 0; see `measure_unpruned`.
    """

    def __init__(
        self,
        network: nn.Module,
        example: Any,
        plan: CompactionPlan,
        sizes: TensorSizes,
        budgets: Sequence[Budget],
        unpruned_values: NDArray[np.float64],
    ) -> None:
        self._network, self._example = network, example
        self._plan, self.sizes = plan, sizes
        self.budgets, self.unpruned_values = tuple(budgets), unpruned_values
        # of an element of each tensor, per budget; None for black boxes
        self._weights = [
            None if budget.counted is None else _Weights(budget, network, example, plan, sizes)
            for budget in budgets
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the budgets."""
        return tuple(budget.name for budget in self.budgets)

    def of_budgets(self, budgets: Sequence[Budget]) -> CostModel:
        """The same of other budgets; they are measured on the unpruned network now."""
        unpruned = measure_unpruned(budgets, self._network, self._example)
        shared = self._network, self._example, self._plan, self.sizes
        return CostModel(*shared, budgets, unpruned)

    def values(
        self, masks: Sequence[Mask], network: nn.Module | None = None
    ) -> NDArray[np.float64]:
        """Every budget of keep masks, in its unit, (n_budgets,).

        Args:
            masks: one valid keep mask per group.
            network: their compact network where it exists already; black boxes are called with it.
        """
        kept = kept_per_group(masks)
        elements = self.sizes.count(kept)
        values = np.zeros(len(self.budgets))
        for index, weights in enumerate(self._weights):
            if weights is not None:
                values[index] = weights.total(elements, kept)
            else:
                network = self._plan.network(masks) if network is None else network
                values[index] = self.measure(index, network)
        return values

    def measure(self, index: int, network: nn.Module) -> float:
        """Budget ``index`` of a compact network, in its unit, measured now.

        One at a time: black boxes may count, measure time, or use a device.
        """
        unpruned_value = float(self.unpruned_values[index])
        budget, shown = self.budgets[index], (self._network, self._example)
        with _MEASURING:
            return budget.relative(network, *shown, unpruned_value)

    def costs(self, masks: Sequence[Mask], network: nn.Module | None = None) -> NDArray[np.float64]:
        """Every cost of keep masks, (n_budgets,), 1.0 = nothing removed; see `values`."""
        return self.values(masks, network) / self.unpruned_values

    def counted_costs(self, counts: Counts) -> NDArray[np.float64]:
        """Costs by kept filters per group, without a network.

        A black-box budget cannot be known so cheaply; the share of parameters stands in for it.

        Args:
            counts: (..., n_groups) kept filters.

        Returns:
            (..., n_budgets).
        """
        elements = self.sizes.count(counts)
        costs = np.empty((*elements.shape[:-1], len(self.budgets)))
        for index, weights in enumerate(self._weights):
            costs[..., index] = (
                self.sizes.share(elements)
                if weights is None
                else weights.total(elements, counts) / self.unpruned_values[index]
            )
        return costs


class _Weights:
    """What one element of each tensor counts for, in compact networks of any size.

    Mostly the same in all of them. Where a layer runs along an axis whose length falls with what is
    removed (over the tokens of every channel, say), its weights are used less often.

    Args:
        budget: one that counts.
        network: the unpruned network.
        example: one input of it, (1, ...).
        plan: how it is compacted.
        sizes: elements of its tensors by kept filters.
    """

    def __init__(
        self,
        budget: Budget,
        network: nn.Module,
        example: Any,
        plan: CompactionPlan,
        sizes: TensorSizes,
    ) -> None:
        self._n_filters = sizes.n_filters
        self._unpruned = sizes.weights(budget.element_weights(network, example))
        # (group, (n_tensors,) share of the uses that goes with each of its filters)
        self._falls: list[tuple[int, NDArray[np.float64]]] = []
        if sizes.single.any() or not sizes.width.any():  # single weights: all layers stay
            return

        def uses(groups: Sequence[int]) -> NDArray[np.float64]:
            """Relative to the unpruned network's, with half of some groups."""
            masks = [
                np.arange(n) >= (n // 2 if group in groups else 0)
                for group, n in enumerate(self._n_filters.tolist())
            ]
            found = sizes.weights(budget.element_weights(plan.network(masks), example))
            ratio = np.ones_like(found)
            return np.divide(found, self._unpruned, out=ratio, where=self._unpruned > 0.0)

        everything = range(len(self._n_filters))
        if not np.allclose(uses(everything), 1.0, rtol=0.0, atol=1e-9):
            for group in everything:
                lost = 1.0 - uses([group])
                if np.abs(lost).max() > 1e-9:
                    self._falls.append((group, lost / (self._n_filters[group] // 2)))

    def total(self, elements: NDArray[np.float64], kept: Counts) -> Any:
        """The budget, (...), of elements, (..., n_tensors), and kept filters, (..., n_groups)."""
        for group, lost in self._falls:
            dropped = (self._n_filters[group] - kept[..., group]).astype(np.float64)
            elements = elements * (1.0 - dropped[..., None] * lost)
        return elements @ self._unpruned


def measure_unpruned(
    budgets: Sequence[Budget],
    network: nn.Module,
    example: Any,
    known: Mapping[str, float] | None = None,
) -> NDArray[np.float64]:
    """Every budget of the unpruned network, in its unit, (n_budgets,).

    Args:
        budgets: what is asked.
        network: the unpruned network, in evaluation mode.
        example: one input of it, (1, ...).
        known: values by name that are not to be measured again.

    Raises:
        ValueError: a value that is not above 0: costs are relative to it.
        BudgetError: a budget raised or gave nonsense.
    """
    values = []
    for budget in budgets:
        value = (known or {}).get(budget.name) or budget(network, example)
        if value <= 0.0:
            raise InvalidValueError(
                f"budget {budget.name!r} of the unpruned network is {value}; costs are relative "
                "to it, so it must be above 0."
            )
        values.append(float(value))
    return np.array(values)
