"""Neural network pruning as a constrained reinforcement-learning problem.

``import prune_gym`` registers the environments; ``gym.make("PruneVGG-v0")`` makes one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from agents.wrappers import FixedPenalty, SauteBudget
    from prune_gym.budgets import (
        BUDGETS,
        Budget,
        command_budget,
        count,
        latency_ms,
        onnx_latency_ms,
    )
    from prune_gym.criteria import CRITERIA, Evidence
    from prune_gym.datasets import DATASETS, Dataset, Split
    from prune_gym.errors import (
        BudgetError,
        CheckpointError,
        CriterionError,
        ExportError,
        InfeasibleLimitError,
        UnsupportedNetworkError,
    )
    from prune_gym.networks import NETWORKS
    from prune_gym.networks.formats import export_network
    from prune_gym.problem.make import make_problem
    from prune_gym.problem.outcome import Outcome
    from prune_gym.problem.problem import PruningProblem
    from prune_gym.problem.saving import load_pruned, save_pruned
    from prune_gym.problem.sharing import SharedProblem, share
    from prune_gym.pruning.groups import FilterGroup
    from prune_gym.searches.result import PrunedNetwork, SearchResult
    from prune_gym.searches.search import search
    from prune_gym.training.recovery import RECOVERIES
    from prune_gym.wrappers import (
        BinaryFilters,
        BinaryToBox,
        DiscreteRatios,
        RecordBest,
        RecordEpisodeCost,
        RecordEpisodeCostVector,
    )
    from prune_gym.wrappers.projection import ProjectionWrapper

__version__ = "0.1.0"

# Public name -> module (a dot: of this package); imported when first used, so that
# `import prune_gym` stays cheap.
_PUBLIC = {
    "BUDGETS": ".budgets",
    "BinaryFilters": ".wrappers",
    "BinaryToBox": ".wrappers",
    "Budget": ".budgets",
    "BudgetError": ".errors",
    "CRITERIA": ".criteria",
    "CheckpointError": ".errors",
    "CriterionError": ".errors",
    "DATASETS": ".datasets",
    "Dataset": ".datasets",
    "DiscreteRatios": ".wrappers",
    "Evidence": ".criteria",
    "ExportError": ".errors",
    "FilterGroup": ".pruning.groups",
    "FixedPenalty": "agents.wrappers",
    "InfeasibleLimitError": ".errors",
    "NETWORKS": ".networks",
    "Outcome": ".problem.outcome",
    "ProjectionWrapper": ".wrappers.projection",
    "PruneGymError": ".errors",
    "PrunedNetwork": ".searches.result",
    "PruningProblem": ".problem.problem",
    "RECOVERIES": ".training.recovery",
    "RecordBest": ".wrappers",
    "RecordEpisodeCost": ".wrappers",
    "RecordEpisodeCostVector": ".wrappers",
    "SauteBudget": "agents.wrappers",
    "SearchResult": ".searches.result",
    "SharedProblem": ".problem.sharing",
    "Split": ".datasets",
    "UnsupportedNetworkError": ".errors",
    "command_budget": ".budgets",
    "count": ".budgets",
    "export_network": ".networks.formats",
    "latency_ms": ".budgets",
    "load_pruned": ".problem.saving",
    "make_problem": ".problem.make",
    "onnx_latency_ms": ".budgets",
    "save_pruned": ".problem.saving",
    "search": ".searches.search",
    "share": ".problem.sharing",
}

__all__ = [
    "BUDGETS",
    "CRITERIA",
    "DATASETS",
    "NETWORKS",
    "RECOVERIES",
    "BinaryFilters",
    "BinaryToBox",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "CriterionError",
    "Dataset",
    "DiscreteRatios",
    "Evidence",
    "ExportError",
    "FilterGroup",
    "FixedPenalty",
    "InfeasibleLimitError",
    "Outcome",
    "ProjectionWrapper",
    "PruneGymError",
    "PrunedNetwork",
    "PruningProblem",
    "RecordBest",
    "RecordEpisodeCost",
    "RecordEpisodeCostVector",
    "SauteBudget",
    "SearchResult",
    "SharedProblem",
    "Split",
    "UnsupportedNetworkError",
    "command_budget",
    "count",
    "export_network",
    "latency_ms",
    "load_pruned",
    "make_problem",
    "onnx_latency_ms",
    "register_envs",
    "save_pruned",
    "search",
    "share",
]

# id -> default arguments of `prune_gym.envs:make_env`
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "PruneVGG-v0": {"granularity": "layer"},
    "PruneVGGFilters-v0": {"granularity": "filter"},
    "PruneVGGLatency-v0": {"granularity": "layer", "budgets": {"latency_ms": 0.5}},
    "PruneVGGAnyLimit-v0": {"granularity": "layer", "limit_range": (0.05, 0.4)},
    "Prune-v0": {"granularity": "layer", "own": True},
    **{
        f"Prune{title}-CIFAR10-v0": {
            "granularity": "layer",
            "network": title.lower(),
            "dataset": "cifar10",
        }
        for title in ("VGG11", "VGG16", "VGG19", "ResNet18", "ResNet50", "ResNet56")
    },
}

# those whose budgets are measured: equal actions do not give equal costs in another process
NONDETERMINISTIC = ("PruneVGGLatency-v0",)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'prune_gym' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def register_envs() -> None:
    """Register every environment id with Gymnasium; calling it again changes nothing."""
    for env_id, defaults in ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="prune_gym.envs:make_env",
                vector_entry_point="prune_gym.envs.vector:make_vector_env",
                kwargs=dict(defaults),
                nondeterministic=env_id in NONDETERMINISTIC,
            )


register_envs()
