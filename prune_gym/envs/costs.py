"""What an episode is charged, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ledger:
    """Charges an episode so that the sum of its steps is what it owes in the end.

    Attributes:
        costs: charged at the last step, (n_budgets,) float64.
        cost: the same as one number.
        total_costs: charged since the reset, (n_budgets,) float64.
        total_cost: the same as one number.
    """

    costs: NDArray[np.float64]
    cost: float
    total_costs: NDArray[np.float64]
    total_cost: float

    @classmethod
    def empty(cls, n_budgets: int) -> Ledger:
        """The ledger of an episode that begins."""
        return cls(np.zeros(n_budgets), 0.0, np.zeros(n_budgets), 0.0)

    def charge(self, owed_costs: NDArray[np.float64], owed_cost: float) -> Ledger:
        """Charge what is owed since the reset, less what was charged before.

        Args:
            owed_costs: (n_budgets,) float64.
            owed_cost: the same as one number.
        """
        step = owed_costs - self.total_costs, owed_cost - self.total_cost
        return Ledger(*step, owed_costs, owed_cost)

    def charge_nothing(self) -> Ledger:
        """A step that costs nothing."""
        return replace(self, costs=np.zeros_like(self.costs), cost=0.0)
