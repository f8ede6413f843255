"""Agents for constrained reinforcement learning, on top of Stable-Baselines3.

They know environments by Gymnasium's interface, ``info["cost"]`` on every step, and the attribute
``cost_limit``; nothing else. Names are imported when they are first used, so that
``import agents`` costs nothing.
"""

from agents import search_path as search_path  # isort: split

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.lazy import lazy_names
from agents.stopping import is_command, take_over

if is_command():  # before imports that take a while
    take_over()

if TYPE_CHECKING:
    from agents.algorithms.constrained import Constrained
    from agents.algorithms.cost_critic import CostCriticPolicy
    from agents.algorithms.focops import FOCOPS
    from agents.algorithms.lagrangian import constrain, constrained
    from agents.algorithms.penalty_loss import IPO, P3O
    from agents.algorithms.replay_buffer import CostReplayBuffer
    from agents.algorithms.trust_region import CPO, TRPOLagrangian
    from agents.algorithms.two_critics import A2CLagrangian, PPOLagrangian, TwoCritics
    from agents.benchmark.leaderboard import Leaderboard, leaderboard
    from agents.costs import read_cost_limit, read_costs
    from agents.errors import AgentsError
    from agents.evaluation import Evaluation, evaluate
    from agents.multipliers.penalties import BarrierMultiplier, PenaltyMultiplier
    from agents.multipliers.rules import (
        AdamMultiplier,
        FixedMultiplier,
        GradientMultiplier,
        Multiplier,
        PIDMultiplier,
        VectorMultiplier,
    )
    from agents.runs.eval_callback import ConstrainedEvalCallback
    from agents.runs.folder import RunConfig
    from agents.runs.training import Training
    from agents.toy import BudgetToyEnv
    from agents.wrappers import AddCost, FixedPenalty, SauteBudget
    from agents.zoo.make import load_pretrained, make_agent
    from agents.zoo.table import AGENTS, AgentSpec

__version__ = "0.1.0"  # of all that is installed with it

__all__ = [
    "AGENTS",
    "CPO",
    "FOCOPS",
    "IPO",
    "P3O",
    "A2CLagrangian",
    "AdamMultiplier",
    "AddCost",
    "AgentSpec",
    "AgentsError",
    "BarrierMultiplier",
    "BudgetToyEnv",
    "Constrained",
    "ConstrainedEvalCallback",
    "CostCriticPolicy",
    "CostReplayBuffer",
    "Evaluation",
    "FixedMultiplier",
    "FixedPenalty",
    "GradientMultiplier",
    "Leaderboard",
    "Multiplier",
    "PIDMultiplier",
    "PPOLagrangian",
    "PenaltyMultiplier",
    "RayVecEnv",
    "RunConfig",
    "SauteBudget",
    "TRPOLagrangian",
    "Training",
    "TwoCritics",
    "VectorMultiplier",
    "constrain",
    "constrained",
    "evaluate",
    "leaderboard",
    "load_pretrained",
    "make_agent",
    "read_cost_limit",
    "read_costs",
]

_MODULES = {
    "runs.eval_callback": ("ConstrainedEvalCallback",),
    "algorithms.constrained": ("Constrained",),
    "algorithms.cost_critic": ("CostCriticPolicy",),
    "benchmark.leaderboard": ("Leaderboard", "leaderboard"),
    "costs": ("read_cost_limit", "read_costs"),
    "errors": ("AgentsError",),
    "evaluation": ("Evaluation", "evaluate"),
    "algorithms.focops": ("FOCOPS",),
    "algorithms.lagrangian": ("constrain", "constrained"),
    "algorithms.penalty_loss": ("IPO", "P3O"),
    "multipliers.rules": (
        "AdamMultiplier",
        "FixedMultiplier",
        "GradientMultiplier",
        "Multiplier",
        "PIDMultiplier",
        "VectorMultiplier",
    ),
    "multipliers.penalties": ("BarrierMultiplier", "PenaltyMultiplier"),
    "algorithms.replay_buffer": ("CostReplayBuffer",),
    "runs.folder": ("RunConfig",),
    "zoo.table": ("AGENTS", "AgentSpec"),
    "toy": ("BudgetToyEnv",),
    "runs.training": ("Training",),
    "algorithms.trust_region": ("CPO", "TRPOLagrangian"),
    "algorithms.two_critics": ("A2CLagrangian", "PPOLagrangian", "TwoCritics"),
    "ray_vec_env": ("RayVecEnv",),
    "wrappers": ("AddCost", "FixedPenalty", "SauteBudget"),
    "zoo.make": ("load_pretrained", "make_agent"),
}
_HOME = {name: f".{module}" for module, names in _MODULES.items() for name in names}
_get, __dir__ = lazy_names(__name__, _HOME)


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name == "benchmark":  # a package that can be called
        return import_module("agents.benchmark")
    return _get(name)
