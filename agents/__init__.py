"""Agents for constrained reinforcement learning, on top of Stable-Baselines3.

They know environments by Gymnasium's interface, ``info["cost"]`` on every step, and the attribute
``cost_limit``; nothing else. Names are imported when they are first used, so that
``import agents`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.cost_critic import CostCriticPolicy
    from agents.costs import read_cost_limit, read_costs
    from agents.evaluation import Evaluation, evaluate
    from agents.lagrangian import LagrangianCallback, LagrangianVecEnv
    from agents.multipliers import (
        FixedMultiplier,
        GradientMultiplier,
        Multiplier,
        PIDMultiplier,
    )
    from agents.ppo_lagrangian import PPOLagrangian
    from agents.toy import BudgetToyEnv
    from agents.zoo import AGENTS, AgentSpec, make_agent

__all__ = [
    "AGENTS",
    "AgentSpec",
    "BudgetToyEnv",
    "CostCriticPolicy",
    "Evaluation",
    "FixedMultiplier",
    "GradientMultiplier",
    "LagrangianCallback",
    "LagrangianVecEnv",
    "Multiplier",
    "PIDMultiplier",
    "PPOLagrangian",
    "evaluate",
    "make_agent",
    "read_cost_limit",
    "read_costs",
]

_MODULES = {
    "cost_critic": ("CostCriticPolicy",),
    "costs": ("read_cost_limit", "read_costs"),
    "evaluation": ("Evaluation", "evaluate"),
    "lagrangian": ("LagrangianCallback", "LagrangianVecEnv"),
    "multipliers": ("FixedMultiplier", "GradientMultiplier", "Multiplier", "PIDMultiplier"),
    "ppo_lagrangian": ("PPOLagrangian",),
    "toy": ("BudgetToyEnv",),
    "zoo": ("AGENTS", "AgentSpec", "make_agent"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
