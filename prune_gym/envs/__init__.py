"""Gymnasium environments: thin shells around a `PruningProblem`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.lazy import lazy_names

if TYPE_CHECKING:
    from prune_gym.envs.base import PruneEnv
    from prune_gym.envs.family import FamilyPruneEnv
    from prune_gym.envs.filter import FilterPruneEnv
    from prune_gym.envs.layer import LayerPruneEnv, NetworkPruneEnv
    from prune_gym.envs.make import GRANULARITIES, make_env, make_vector_env
    from prune_gym.envs.prior import (
        PriorFilterPruneEnv,
        PriorLayerPruneEnv,
        PriorNetworkPruneEnv,
    )
    from prune_gym.envs.vector import PruneVectorEnv

__all__ = [
    "GRANULARITIES",
    "FamilyPruneEnv",
    "FilterPruneEnv",
    "LayerPruneEnv",
    "NetworkPruneEnv",
    "PriorFilterPruneEnv",
    "PriorLayerPruneEnv",
    "PriorNetworkPruneEnv",
    "PruneEnv",
    "PruneVectorEnv",
    "make_env",
    "make_vector_env",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FamilyPruneEnv": ".family",
        "FilterPruneEnv": ".filter",
        "GRANULARITIES": ".make",
        "LayerPruneEnv": ".layer",
        "NetworkPruneEnv": ".layer",
        "PriorFilterPruneEnv": ".prior",
        "PriorLayerPruneEnv": ".prior",
        "PriorNetworkPruneEnv": ".prior",
        "PruneEnv": ".base",
        "PruneVectorEnv": ".vector",
        "make_env": ".make",
        "make_vector_env": ".make",
    },
)
