"""Budgets: black-box functions of a network, and their limits."""

from __future__ import annotations

from prune_gym.budgets.activations import activation_bytes
from prune_gym.budgets.base import BUDGETS, Budget
from prune_gym.budgets.command import CommandSpec, command_budget
from prune_gym.budgets.counted import count, energy_uj, macs, params, size_bytes
from prune_gym.budgets.cuda import cuda_latency_ms, cuda_memory_bytes
from prune_gym.budgets.latency import latency_ms
from prune_gym.budgets.limits import (
    Amount,
    Limit,
    amount,
    fractions,
    over_limits,
    parse_limit,
    relative,
)
from prune_gym.budgets.onnx_latency import onnx_latency_ms
from prune_gym.budgets.resolve import (
    BudgetKey,
    as_budget,
    budget_key,
    budgets_from_json,
    budgets_to_json,
)
from prune_gym.errors import BudgetError

__all__ = [
    "BUDGETS",
    "Amount",
    "Budget",
    "BudgetError",
    "BudgetKey",
    "CommandSpec",
    "Limit",
    "activation_bytes",
    "amount",
    "as_budget",
    "budget_key",
    "budgets_from_json",
    "budgets_to_json",
    "command_budget",
    "count",
    "cuda_latency_ms",
    "cuda_memory_bytes",
    "energy_uj",
    "fractions",
    "latency_ms",
    "macs",
    "onnx_latency_ms",
    "over_limits",
    "params",
    "parse_limit",
    "relative",
    "size_bytes",
]
