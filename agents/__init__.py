"""Agents for constrained reinforcement learning, on top of Stable-Baselines3.

They know environments by Gymnasium's interface, ``info["cost"]`` on every step, and the attribute
``cost_limit``; nothing else. Names are imported when they are first used, so that
``import agents`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.callbacks import ConstrainedEvalCallback
    from agents.checkpoint import Checkpoint, Checkpoints
    from agents.constraint import Constrained
    from agents.cost_critic import CostCriticPolicy
    from agents.costs import read_cost_limit, read_costs
    from agents.evaluation import Evaluation, evaluate
    from agents.focops import FOCOPS
    from agents.lagrangian import constrain, constrained
    from agents.multipliers import (
        AdamMultiplier,
        FixedMultiplier,
        GradientMultiplier,
        Multiplier,
        PIDMultiplier,
        VectorMultiplier,
    )
    from agents.penalties import BarrierMultiplier, PenaltyMultiplier
    from agents.replay import CostReplayBuffer
    from agents.replayable import Replayable
    from agents.runs import RunConfig
    from agents.table import AGENTS, AgentSpec
    from agents.toy import BudgetToyEnv
    from agents.training import Training
    from agents.trust_region import CPO, TRPOLagrangian
    from agents.two_critics import A2CLagrangian, PPOLagrangian, TwoCritics
    from agents.wrappers import AddCost, FixedPenalty, SauteBudget
    from agents.zoo import make_agent

__all__ = [
    "AGENTS",
    "CPO",
    "FOCOPS",
    "A2CLagrangian",
    "AdamMultiplier",
    "AddCost",
    "AgentSpec",
    "BarrierMultiplier",
    "BudgetToyEnv",
    "Checkpoint",
    "Checkpoints",
    "Constrained",
    "ConstrainedEvalCallback",
    "CostCriticPolicy",
    "CostReplayBuffer",
    "Evaluation",
    "FixedMultiplier",
    "FixedPenalty",
    "GradientMultiplier",
    "Multiplier",
    "PIDMultiplier",
    "PPOLagrangian",
    "PenaltyMultiplier",
    "Replayable",
    "RunConfig",
    "SauteBudget",
    "TRPOLagrangian",
    "Training",
    "TwoCritics",
    "VectorMultiplier",
    "constrain",
    "constrained",
    "evaluate",
    "make_agent",
    "read_cost_limit",
    "read_costs",
]

_MODULES = {
    "callbacks": ("ConstrainedEvalCallback",),
    "checkpoint": ("Checkpoint", "Checkpoints"),
    "constraint": ("Constrained",),
    "cost_critic": ("CostCriticPolicy",),
    "costs": ("read_cost_limit", "read_costs"),
    "evaluation": ("Evaluation", "evaluate"),
    "focops": ("FOCOPS",),
    "lagrangian": ("constrain", "constrained"),
    "multipliers": (
        "AdamMultiplier",
        "FixedMultiplier",
        "GradientMultiplier",
        "Multiplier",
        "PIDMultiplier",
        "VectorMultiplier",
    ),
    "penalties": ("BarrierMultiplier", "PenaltyMultiplier"),
    "replay": ("CostReplayBuffer",),
    "replayable": ("Replayable",),
    "runs": ("RunConfig",),
    "table": ("AGENTS", "AgentSpec"),
    "toy": ("BudgetToyEnv",),
    "training": ("Training",),
    "trust_region": ("CPO", "TRPOLagrangian"),
    "two_critics": ("A2CLagrangian", "PPOLagrangian", "TwoCritics"),
    "wrappers": ("AddCost", "FixedPenalty", "SauteBudget"),
    "zoo": ("make_agent",),
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
