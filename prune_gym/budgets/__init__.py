"""Budgets: black-box functions of a network, and their limits."""

from __future__ import annotations

from prune_gym.budgets.base import BUDGETS, Budget, BudgetError, as_budget
from prune_gym.budgets.counted import count, macs, params, size_bytes

__all__ = [
    "BUDGETS",
    "Budget",
    "BudgetError",
    "as_budget",
    "count",
    "macs",
    "params",
    "size_bytes",
]
