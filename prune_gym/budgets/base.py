"""What a budget is: a function of a network that gives a number with a unit."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from prune_gym.registry import Registry

Measure = Callable[[nn.Module], float]
CountedTensors = Callable[[nn.Module, torch.Tensor], Mapping[str, float]]


class BudgetError(ValueError):
    """A budget that raised, or returned something that cannot be a cost; names the budget."""


@dataclass(frozen=True)
class Budget:
    """A function network -> number, and what is known about it.

    Args:
        name: what it is called in infos, logs and reports.
        measure: called with a compact network in evaluation mode; never more than once per
            finished episode with ``cost_mode="terminal"``.
        unit: of the number, e.g. ``"ms"``.
        monotone: whether removing filters never raises the number; ``cost_mode="dense"`` needs it.
        counted: for budgets that are weighted counts of tensor elements: the weight of one element
            of each tensor, by name. They are evaluated without building a network.
        deterministic: whether equal networks give equal numbers (``counted`` ones do). Then a
            decision that was judged before is remembered, and ``measure`` is not called for it.
    """

    name: str
    measure: Measure | None = None
    unit: str = ""
    monotone: bool = False
    counted: CountedTensors | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Exactly one way of evaluation is needed."""
        if (self.measure is None) == (self.counted is None):
            raise ValueError(f"budget {self.name!r}: give `measure` or `counted`, one of them.")

    @property
    def is_deterministic(self) -> bool:
        """Whether equal networks are known to give equal numbers."""
        return self.deterministic or self.counted is not None

    def __call__(self, network: nn.Module, example: torch.Tensor) -> float:
        """The budget of a network, in its unit.

        Args:
            network: in evaluation mode.
            example: one input batch of the network, (n, ...).

        Raises:
            BudgetError: it raised, or gave NaN, infinity, a negative number or no number.
        """
        if self.counted is not None:
            weights = self.counted(network, example)
            tensors = network.state_dict()
            return float(sum(w * tensors[name].numel() for name, w in weights.items()))
        try:
            value: Any = self.measure(network) if self.measure else None
        except Exception as error:
            raise BudgetError(
                f"budget {self.name!r} raised {type(error).__name__}: {error}"
            ) from error
        return self._checked(value)

    def _checked(self, value: Any) -> float:
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise BudgetError(
                f"budget {self.name!r} returned {value!r} ({type(value).__name__}); expected a "
                "number, 0 or above."
            )
        number = float(value)
        if not math.isfinite(number) or number < 0.0:
            raise BudgetError(
                f"budget {self.name!r} returned {number!r}; expected a finite number, 0 or above."
            )
        return number


BUDGETS: Registry[Callable[..., Any]] = Registry("budget")


def as_budget(budget: str | Budget | Measure) -> Budget:
    """A budget from its registered name, a ``"module:function"``, a callable, or itself.

    Raises:
        UnknownNameError: no such name, or nothing to import.
        TypeError: something that is no budget.
    """
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        found = BUDGETS.get(budget)
        if budget in BUDGETS:
            made: Budget = found()
            return made
        return found if isinstance(found, Budget) else Budget(budget, found)
    if callable(budget):
        name = getattr(budget, "__name__", type(budget).__name__)
        return Budget("custom" if name == "<lambda>" else name, budget)
    raise TypeError(
        f"budget {budget!r}: expected one of {', '.join(BUDGETS)}, 'module:function', a callable "
        "(network) -> number, or a Budget."
    )
