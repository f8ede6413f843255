"""Gymnasium environments: thin shells around a `PruningProblem`."""

from __future__ import annotations

from prune_gym.envs.base import PruneEnv
from prune_gym.envs.coarse import LayerPruneEnv, NetworkPruneEnv, make_env
from prune_gym.envs.fine import FilterPruneEnv

__all__ = ["FilterPruneEnv", "LayerPruneEnv", "NetworkPruneEnv", "PruneEnv", "make_env"]
