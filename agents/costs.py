"""The one reader of cost: everything in this package that needs a cost or a limit asks here.

The bridge between a constrained environment and an agent is small: a number under
``info["cost"]`` on every step, and an attribute ``cost_limit`` on the environment. The sum of
the costs of an episode, undiscounted, is what is held against the limit. Environments with
several costs also have a vector ``info["costs"]``, ``cost_limits`` and ``cost_names``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from agents.errors import CostError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

FloatArray = npt.NDArray[np.float64]


def read_cost(info: Mapping[str, Any], env_index: int = 0) -> float:
    """Return the cost of one step; a missing or unusable cost is an error, never a zero.

    Args:
        info: The info dict of one environment's step.
        env_index: Which environment of the vector it came from; named in the error.

    Raises:
        CostError: If ``info`` has no ``"cost"`` or it is not a finite number.
    """
    if "cost" not in info:
        raise CostError(
            f'info["cost"] is missing from the step info of env {env_index} '
            f'(its keys: {sorted(map(str, info))}). Put a finite number under "cost" into the '
            "info of every step, 0.0 where nothing is charged; agents.AddCost(env, cost, "
            "cost_limit) does that for an environment of somebody else."
        )
    cost = info["cost"]
    if not isinstance(cost, Real) or not math.isfinite(cost):
        raise CostError(
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
        CostError: If an info has no ``"cost"`` or it is not a finite number.
    """
    return np.array([read_cost(info, i) for i, info in enumerate(infos)], dtype=np.float64)


def check_cost_limit(cost_limit: Any) -> float:
    """Return ``cost_limit`` as a float.

    Raises:
        CostError: If it is not a finite number.
    """
    if not isinstance(cost_limit, Real) or not math.isfinite(cost_limit):
        raise CostError(
            f"cost_limit is {cost_limit!r}; it must be one finite number, in the unit of the "
            'episodic sum of info["cost"]. Set the environment\'s cost_limit or pass '
            "cost_limit=... to such a number."
        )
    return float(cost_limit)


def read_cost_vectors(infos: Sequence[Mapping[str, Any]], n_costs: int) -> FloatArray:
    """Return all costs of one step of a vectorised environment.

    Args:
        infos: One info dict per environment.
        n_costs: How many numbers ``info["costs"]`` is to hold.

    Returns:
        Costs, float64 of shape (n_envs, n_costs).

    Raises:
        CostError: If an info has no ``"costs"``, not so many, or they are not finite numbers.
    """
    rows = []
    for index, info in enumerate(infos):
        if "costs" not in info:
            raise CostError(
                f'info["costs"] is missing from the step info of env {index} (its keys: '
                f"{sorted(map(str, info))}). Several multipliers need the vector of all costs on "
                'every step; with one multiplier, info["cost"] is enough.'
            )
        row = _floats(info["costs"])
        if row.shape != (n_costs,) or not np.isfinite(row).all():
            raise CostError(
                f'info["costs"] of env {index} is {info["costs"]!r}; it must be {n_costs} finite '
                "numbers, one for every multiplier."
            )
        rows.append(row)
    return np.array(rows)


def read_cost_limit(env: gym.Env[Any, Any] | VecEnv) -> float:
    """Return the limit on the mean episodic cost that an environment declares.

    Args:
        env: An environment, or a vector of environments that agree on their limit; wrapped or not.

    Raises:
        CostError: If there is no ``cost_limit``, it is not a finite number, or a vector's
            environments disagree.
    """
    values = _attributes(env, "cost_limit")
    if not values:
        raise CostError(
            f"cost_limit: {env} has no attribute of this name. Give the environment one (the "
            'largest allowed mean of the episodic sum of info["cost"]; agents.AddCost(env, cost, '
            "cost_limit) adds it from outside), or pass cost_limit=..."
        )
    limits = [check_cost_limit(value) for value in values]
    if len(set(limits)) > 1:
        raise CostError(
            f"cost_limit differs between the environments of the vector: {limits}. One agent "
            "holds one limit: build them alike, or pass cost_limit=..."
        )
    return limits[0]


def read_cost_limits(env: gym.Env[Any, Any] | VecEnv, n_costs: int) -> FloatArray:
    """Return the limits of all costs that an environment declares.

    Args:
        env: As in `read_cost_limit`.
        n_costs: How many there are to be.

    Returns:
        Limits, float64 of shape (n_costs,).

    Raises:
        CostError: If there are no ``cost_limits``, not so many, or a vector's environments
            disagree.
    """
    values = _attributes(env, "cost_limits")
    if not values:
        raise CostError(
            f"cost_limits: {env} has no attribute of this name. Several multipliers need one limit "
            "for each cost on the environment; pass a single multiplier for a single cost."
        )
    limits = check_cost_limits(values[0], n_costs)
    if any(not np.array_equal(limits, value) for value in values[1:]):
        raise CostError(
            f"cost_limits differ between the environments of the vector: {values}. Build them "
            "alike, or pass cost_limit=[...]."
        )
    return limits


def check_cost_limits(cost_limits: Any, n_costs: int) -> FloatArray:
    """Return ``cost_limits`` as a float64 array of shape (n_costs,).

    Raises:
        CostError: If they are not so many finite numbers.
    """
    limits = np.atleast_1d(_floats(cost_limits))
    if limits.shape != (n_costs,) or not np.isfinite(limits).all():
        raise CostError(
            f"cost limits are {cost_limits!r}; they must be {n_costs} finite numbers, one for "
            "every multiplier."
        )
    return limits


def read_cost_names(env: gym.Env[Any, Any] | VecEnv, n_costs: int) -> tuple[str, ...]:
    """Return the names of an environment's costs, or numbers where it has none."""
    values = _attributes(env, "cost_names")
    if values and len(values[0]) == n_costs:
        return tuple(str(name) for name in values[0])
    return tuple(str(index) for index in range(n_costs))


def _floats(values: Any) -> FloatArray:
    """Return ``values`` as an array; a NaN, which no check lets pass, where they are no numbers."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array(math.nan)


def _attributes(env: gym.Env[Any, Any] | VecEnv, name: str) -> list[Any]:
    """Return an attribute of every environment, wrapped or not; nothing if there is none."""
    if isinstance(env, gym.Env):
        return [env.get_wrapper_attr(name)] if env.has_wrapper_attr(name) else []
    return list(env.get_attr(name)) if env.has_attr(name) else []


class EpisodeCosts:
    """Running episodic costs of every environment of a vector.

    Args:
        n_envs: Number of environments.
        n_costs: Number of costs of each.
    """

    def __init__(self, n_envs: int, n_costs: int = 1) -> None:
        self.running: FloatArray = np.zeros((n_envs, n_costs))

    def add(self, costs: FloatArray, dones: npt.NDArray[np.bool_]) -> list[FloatArray]:
        """Charge one step.

        Args:
            costs: Costs of the step, shape (n_envs, n_costs).
            dones: Whether the step ended the episode, shape (n_envs,).

        Returns:
            The costs, each of shape (n_costs,), of the episodes that this step ended.
        """
        self.running += costs
        where = np.flatnonzero(dones)
        totals = [self.running[index].copy() for index in where]
        self.running[where] = 0.0
        return totals
