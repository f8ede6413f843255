"""The names that options take, out of the registries, which are imported when these are called."""

from __future__ import annotations


def environments() -> list[str]:
    """Ids of environments that a search takes: those with one limit."""
    from prune_gym import ENVIRONMENTS

    return [name for name, defaults in ENVIRONMENTS.items() if "limit_range" not in defaults]


def networks() -> list[str]:
    """Registered networks."""
    from prune_gym.networks import NETWORKS

    return list(NETWORKS)


def datasets() -> list[str]:
    """Registered datasets that need no path."""
    from prune_gym.datasets import DATASETS

    return [name for name in DATASETS if name != "folder"]


def algorithms() -> list[str]:
    """Agents and baselines that search."""
    from prune_gym.searches.algorithms import algorithms

    return list(algorithms())


def criteria() -> list[str]:
    """Registered criteria."""
    from prune_gym.criteria import CRITERIA

    return list(CRITERIA)


def metrics() -> list[str]:
    """Registered metrics."""
    from prune_gym.tasks.named_metrics import METRICS

    return list(METRICS)


def recoveries() -> list[str]:
    """Registered recoveries."""
    from prune_gym.training.recovery import RECOVERIES

    return list(RECOVERIES)


def structures() -> list[str]:
    """What can be removed."""
    from prune_gym.problem.checks import STRUCTURES

    return list(STRUCTURES)


def precisions() -> list[str]:
    """In which networks can be judged."""
    from prune_gym.pruning.inference import PRECISIONS

    return list(PRECISIONS)


def training_precisions() -> list[str]:
    """In which networks can be trained."""
    from prune_gym.cli.pretrain import PRECISIONS

    return list(PRECISIONS)


def formats() -> list[str]:
    """Files that a network can be exported to."""
    from prune_gym.cli.export import FORMATS

    return list(FORMATS)


def devices() -> list[str]:
    """Devices that networks are usually judged on."""
    return ["cpu", "cuda", "auto"]
