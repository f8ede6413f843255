"""Gymnasium environments: thin shells around a `PruningProblem`."""

from __future__ import annotations

from prune_gym.envs.base import PruneEnv
from prune_gym.envs.filter import FilterPruneEnv
from prune_gym.envs.layer import LayerPruneEnv, NetworkPruneEnv, make_env

__all__ = ["FilterPruneEnv", "LayerPruneEnv", "NetworkPruneEnv", "PruneEnv", "make_env"]
