"""RLlib: the ids for its configurations, and an episode's cost among its metrics.

RLlib has no constrained algorithm; what it trains maximises the reward and reports the cost. It
stands on one release of Gymnasium exactly; pip finds it: ``pip install "ray[rllib]"``.

    from ray.rllib.algorithms.ppo import PPOConfig
    from prune_gym.adapters.rllib import log_cost, register
    register()
    config = PPOConfig().environment("PruneVGG-v0", env_config={"budgets": {"params": 0.25}})
    algorithm = config.callbacks(on_episode_end=log_cost).build_algo()
    algorithm.train()["env_runners"]["episode_cost"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym

from prune_gym.adapters.base import registered_ids, require

INSTALL = '"ray[rllib]"'
WINDOW = 100  # episodes that a metric is the mean of, as RLlib's own


def make_env(env_id: str, config: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The environment of an id; ``config`` (RLlib's ``env_config``) are its arguments."""
    return gym.make(env_id, **dict(config))


def register(*env_ids: str) -> None:
    """Make ids known to RLlib and its worker processes.

    Args:
        env_ids: registered with Gymnasium, in worker processes as well; default: every id that
            makes a pruning environment.

    Raises:
        MissingLibraryError: Ray is missing; says how to install it.
    """
    registry = require("ray.tune.registry", "Ray", INSTALL)
    for env_id in env_ids or registered_ids():
        registry.register_env(env_id, partial(make_env, env_id))


def log_cost(
    *,
    episode: Any,
    metrics_logger: Any,
    env: Any,
    env_index: int,
    prev_episode_chunks: Sequence[Any] | None = None,
    **_: Any,
) -> None:
    """Log an episode's cost: ``config.callbacks(on_episode_end=log_cost)``.

    Among the metrics of ``env_runners``, means of the same episodes as ``episode_return_mean``:
    ``episode_cost`` (the sum of ``info["cost"]``), ``episode_cost_over_limit`` (cost / limit) and
    ``episode_violation`` (the fraction of episodes with a cost above the limit).

    Args:
        episode: the one that has ended, or its last chunk.
        metrics_logger: RLlib's.
        env: the vector environment.
        env_index: whose episode it is.
        prev_episode_chunks: the chunks before, where RLlib cut the episode.
    """
    chunks = [*(prev_episode_chunks or []), episode]
    cost = sum(chunk_cost(chunk.get_infos()) for chunk in chunks)
    limit = float(env.unwrapped.get_attr("cost_limit")[env_index])
    metrics_logger.log_value("episode_cost", cost, window=WINDOW)
    metrics_logger.log_value("episode_cost_over_limit", cost / limit, window=WINDOW)
    metrics_logger.log_value("episode_violation", float(cost > limit), window=WINDOW)


def chunk_cost(infos: Sequence[Mapping[str, Any]]) -> float:
    """Cost of the steps of a chunk.

    Its first info is that of the reset, where the cost is 0, or the last one of the chunk before.

    >>> chunk_cost([{"cost": 0.5}, {"cost": 0.25}, {"cost": 0.125}])
    0.375
    """
    return float(sum(info["cost"] for info in infos[1:]))
