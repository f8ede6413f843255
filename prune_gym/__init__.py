"""Neural network pruning as a constrained reinforcement-learning problem.

``import prune_gym`` registers the environments; ``gym.make("PruneVGG-v0")`` makes one.
"""

from __future__ import annotations

from agents import search_path as search_path  # isort: split

from typing import TYPE_CHECKING

from agents.lazy import lazy_names
from agents.stopping import Stopped as Stopped  # first: a command is stopped while it imports, too
from prune_gym.envs.registration import ENVIRONMENTS as ENVIRONMENTS
from prune_gym.envs.registration import NONDETERMINISTIC as NONDETERMINISTIC
from prune_gym.envs.registration import register_envs

if TYPE_CHECKING:
    from prune_gym.budgets import (
        BUDGETS,
        Budget,
        command_budget,
        count,
        latency_ms,
        onnx_latency_ms,
    )
    from prune_gym.cluster.workers import RayWorkers
    from prune_gym.criteria import CRITERIA, Evidence
    from prune_gym.datasets import DATASETS, Dataset, Split
    from prune_gym.errors import (
        BudgetError,
        CheckpointError,
        ClusterError,
        CriterionError,
        ExportError,
        InfeasibleLimitError,
        TableError,
        TrustError,
        UnsupportedNetworkError,
        WorkerError,
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
    from prune_gym.tables.files import load_table, save_table, shipped_tables
    from prune_gym.tables.make import make_table
    from prune_gym.tables.problem import TabularProblem
    from prune_gym.tables.table import PruneTable
    from prune_gym.tasks.metrics import Metric
    from prune_gym.training.recovery import RECOVERIES
    from prune_gym.wrappers import (
        BinaryFilters,
        BinaryToBox,
        DiscreteRatios,
        FixedPenalty,
        ProjectionWrapper,
        RecordBest,
        RecordEpisodeCost,
        RecordEpisodeCostVector,
        SauteBudget,
    )

__version__ = "0.1.0"

# public name -> module, imported when the name is first used
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
    "FixedPenalty": ".wrappers",
    "InfeasibleLimitError": ".errors",
    "LossError": ".errors",
    "Metric": ".tasks.metrics",
    "MetricError": ".errors",
    "NETWORKS": ".networks",
    "Outcome": ".problem.outcome",
    "ProjectionWrapper": ".wrappers",
    "PruneGymError": ".errors",
    "PruneTable": ".tables.table",
    "PrunedNetwork": ".searches.result",
    "PruningProblem": ".problem.problem",
    "ClusterError": ".errors",
    "RayWorkers": ".cluster.workers",
    "WorkerError": ".errors",
    "RECOVERIES": ".training.recovery",
    "RecordBest": ".wrappers",
    "RecordEpisodeCost": ".wrappers",
    "RecordEpisodeCostVector": ".wrappers",
    "SauteBudget": ".wrappers",
    "SearchResult": ".searches.result",
    "SharedProblem": ".problem.sharing",
    "Split": ".datasets",
    "TableError": ".errors",
    "TabularProblem": ".tables.problem",
    "TrustError": ".errors",
    "TrainerError": ".errors",
    "UnsupportedNetworkError": ".errors",
    "command_budget": ".budgets",
    "count": ".budgets",
    "export_network": ".networks.formats",
    "latency_ms": ".budgets",
    "load_pruned": ".problem.saving",
    "load_table": ".tables.files",
    "make_problem": ".problem.make",
    "make_table": ".tables.make",
    "onnx_latency_ms": ".budgets",
    "save_pruned": ".problem.saving",
    "save_table": ".tables.files",
    "search": ".searches.search",
    "search_in_rounds": ".searches.rounds",
    "share": ".problem.sharing",
    "shipped_tables": ".tables.files",
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
    "ClusterError",
    "CriterionError",
    "Dataset",
    "DiscreteRatios",
    "Evidence",
    "ExportError",
    "FilterGroup",
    "FixedPenalty",
    "InfeasibleLimitError",
    "LossError",
    "Metric",
    "MetricError",
    "Outcome",
    "ProjectionWrapper",
    "PruneGymError",
    "PruneTable",
    "PrunedNetwork",
    "PruningProblem",
    "RayWorkers",
    "RecordBest",
    "RecordEpisodeCost",
    "RecordEpisodeCostVector",
    "SauteBudget",
    "SearchResult",
    "SharedProblem",
    "Split",
    "TableError",
    "TabularProblem",
    "TrainerError",
    "TrustError",
    "UnsupportedNetworkError",
    "WorkerError",
    "command_budget",
    "count",
    "export_network",
    "latency_ms",
    "load_pruned",
    "load_table",
    "make_problem",
    "make_table",
    "onnx_latency_ms",
    "register_envs",
    "save_pruned",
    "save_table",
    "search",
    "search_in_rounds",
    "share",
    "shipped_tables",
]

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)

register_envs()
