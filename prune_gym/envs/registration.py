"""The registered ids; ``import prune_gym`` makes them known to Gymnasium and loads nothing else."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym

ENTRY_POINT = "prune_gym.envs:make_env"
VECTOR_ENTRY_POINT = "prune_gym.envs:make_vector_env"

# A bound that no episode reaches: it has one step per filter group (or one at all), and how many
# groups there are depends on the arguments, which are not known yet.
MAX_EPISODE_STEPS = 1000

# name -> default arguments of both entry points, of both versions
_FAMILIES: dict[str, dict[str, Any]] = {
    "PruneVGG": {"granularity": "layer"},
    "PruneVGGFilters": {"granularity": "filter"},
    "PruneVGGLatency": {"granularity": "layer", "budgets": {"latency_ms": 0.5}},
    "PruneVGGAnyLimit": {"granularity": "layer", "limit_range": (0.05, 0.4)},
    "Prune": {"granularity": "layer", "needs_network": True},
    **{
        f"Prune{title}-CIFAR10": {
            "granularity": "layer",
            "network": title.lower(),
            "dataset": "cifar10",
        }
        for title in ("VGG11", "VGG16", "VGG19", "ResNet18", "ResNet50", "ResNet56")
    },
}

# v0 decides prune ratios, as the paper does; v1 decides beside the sensitivity scan's network
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    **{f"{name}-v0": own for name, own in _FAMILIES.items()},
    **{f"{name}-v1": {"decision": "prior", **own} for name, own in _FAMILIES.items()},
}

# id -> entry points of one environment and of many, and their default arguments
TABLE_ENVIRONMENTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "PruneFamily-v1": ("prune_gym.tables.family:make_family", None, {}),
    "PruneTable-v1": (
        "prune_gym.tables.env:TablePruneEnv",
        "prune_gym.tables.vector:TableVectorEnv",
        {},
    ),
}

# those whose budgets are measured: equal actions do not give equal costs in another process
NONDETERMINISTIC = ("PruneVGGLatency-v0", "PruneVGGLatency-v1")


def register_envs() -> None:
    """Register every environment id with Gymnasium; calling it again changes nothing.

    Gymnasium calls an id out of date as soon as there is a later version. Here v0 is the paper's
    decision, which stays beside v1, so that this one warning is left out.
    """
    warnings.filterwarnings("ignore", r"(?s).*\bPrune[\w-]*-v0 is out of date", DeprecationWarning)
    live: dict[str, tuple[str, str | None, dict[str, Any]]] = {
        env_id: (ENTRY_POINT, VECTOR_ENTRY_POINT, own) for env_id, own in ENVIRONMENTS.items()
    }
    for env_id, (single, vector, defaults) in {**live, **TABLE_ENVIRONMENTS}.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=single,
                vector_entry_point=vector,
                kwargs=dict(defaults),
                max_episode_steps=MAX_EPISODE_STEPS,
                nondeterministic=env_id in NONDETERMINISTIC,
            )
