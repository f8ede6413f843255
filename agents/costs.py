"""The one reader of cost: everything in this package that needs a cost or a limit asks here.

The bridge between a constrained environment and an agent is small: a number under
``info["cost"]`` on every step, and an attribute ``cost_limit`` on the environment. The sum of
the costs of an episode, undiscounted, is what is held against the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

FloatArray = npt.NDArray[np.float64]


def read_cost(info: Mapping[str, Any], env_index: int = 0) -> float:
    """Return the cost of one step; a missing or unusable cost is an error, never a zero.

    Args:
        info: The info dict of one environment's step.
        env_index: Which environment of the vector it came from; named in the error.

    Raises:
        ValueError: If ``info`` has no ``"cost"`` or it is not a finite number.
    """
    if "cost" not in info:
        raise ValueError(
            f'info["cost"] is missing from the step info of env {env_index} '
            f'(its keys: {sorted(map(str, info))}). Put a finite number under "cost" into the '
            "info of every step, 0.0 where nothing is charged."
        )
    cost = info["cost"]
    if not isinstance(cost, Real) or not math.isfinite(cost):
        raise ValueError(
            f'info["cost"] of env {env_index} is {cost!r}; it must be a finite number. '
            "Return a python float from the environment's step."
        )
    return float(cost)


def read_costs(infos: Sequence[Mapping[str, Any]]) -> FloatArray:
    """Return the costs of one step of a vectorised environment.

    Args:
        infos: One info dict per environment, as a Stable-Baselines3 ``VecEnv`` returns them.

    Returns:
        Costs, float64 of shape (n_envs,).

    Raises:
        ValueError: If an info has no ``"cost"`` or it is not a finite number.
    """
    return np.array([read_cost(info, i) for i, info in enumerate(infos)], dtype=np.float64)


def check_cost_limit(cost_limit: Any) -> float:
    """Return ``cost_limit`` as a float.

    Raises:
        ValueError: If it is not a finite number.
    """
    if not isinstance(cost_limit, Real) or not math.isfinite(cost_limit):
        raise ValueError(
            f"cost_limit is {cost_limit!r}; it must be one finite number, in the unit of the "
            'episodic sum of info["cost"]. Set the environment\'s cost_limit or pass '
            "cost_limit=... to such a number."
        )
    return float(cost_limit)


def read_cost_limit(env: gym.Env[Any, Any] | VecEnv) -> float:
    """Return the limit on the mean episodic cost that an environment declares.

    Args:
        env: An environment, or a vector of environments that agree on their limit; wrapped or not.

    Raises:
        ValueError: If there is no ``cost_limit``, it is not a finite number, or a vector's
            environments disagree.
    """
    if isinstance(env, VecEnv):
        values = env.get_attr("cost_limit") if env.has_attr("cost_limit") else []
    else:
        found = env.has_wrapper_attr("cost_limit")
        values = [env.get_wrapper_attr("cost_limit")] if found else []
    if not values:
        raise ValueError(
            f"cost_limit: {env} has no attribute of this name. Give the environment one (the "
            'largest allowed mean of the episodic sum of info["cost"]), or pass cost_limit=...'
        )
    limits = [check_cost_limit(value) for value in values]
    if len(set(limits)) > 1:
        raise ValueError(
            f"cost_limit differs between the environments of the vector: {limits}. One agent "
            "holds one limit: build them alike, or pass cost_limit=..."
        )
    return limits[0]


class EpisodeCosts:
    """Running episodic cost of every environment of a vector.

    Args:
        n_envs: Number of environments.
    """

    def __init__(self, n_envs: int) -> None:
        self.running: FloatArray = np.zeros(n_envs)

    def reset(self, where: npt.NDArray[np.bool_] | None = None) -> None:
        """Forget what was charged so far, in all environments or only ``where`` (n_envs,)."""
        self.running[slice(None) if where is None else where] = 0.0

    def add(self, costs: FloatArray, dones: npt.NDArray[np.bool_]) -> list[float | None]:
        """Charge one step.

        Args:
            costs: Costs of the step, shape (n_envs,).
            dones: Whether the step ended the episode, shape (n_envs,).

        Returns:
            Per environment the cost of the episode this step ended, or None.
        """
        self.running += costs
        totals = [
            float(total) if done else None for total, done in zip(self.running, dones, strict=True)
        ]
        self.reset(np.asarray(dones, dtype=bool))
        return totals
