"""Wrappers around single environments: a cost for any of them, and constraints put into rewards.

`FixedPenalty` and `SauteBudget` pay another reward than the environment does, for algorithms that
know of no constraint, from whatever library. What the environment paid stays in
``info["reward"]`` and what it charged in ``info["cost"]``, so that evaluation is unpenalised; a
``Monitor`` logs unpenalised returns if it is inside: ``FixedPenalty(Monitor(env), 1.0)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from agents.costs import check_cost_limit, read_cost, read_cost_limit
from agents.errors import InvalidTypeError, InvalidValueError
from agents.multipliers.checks import check_number

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
# (observation, action, reward, info) -> cost
CostFunction = Callable[[Any, Any, float, dict[str, Any]], float]


class AddCost(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Make an environment a constrained one: ``info["cost"]`` and ``cost_limit``.

    Every step's info gets the cost of the step; at reset it is 0.0. A cost that is there already is
    replaced; the function finds it in ``info``.

    >>> def effort(observation, action, reward, info):
    ...     return float(abs(action[0]))
    >>> env = AddCost(gym.make("Pendulum-v1"), effort, cost_limit=50.0)
    >>> _ = env.reset(seed=0)
    >>> env.step(np.array([-0.5], dtype=np.float32))[4]
    {'cost': 0.5}

    Args:
        env: Any environment.
        cost: Called as ``cost(observation, action, reward, info)`` after every step, with what the
            step returned; gives a finite number.
        cost_limit: Largest allowed mean of the episodic sum of costs.

    Attributes:
        cost_limit: As given.

    Raises:
        InvalidTypeError: If ``cost`` cannot be called.
        InvalidValueError: If ``cost_limit``, or later a cost, is not a finite number.
    """

    def __init__(self, env: gym.Env[Any, Any], cost: CostFunction, cost_limit: float) -> None:
        RecordConstructorArgs.__init__(
            self, cost=cost, cost_limit=cost_limit, _disable_deepcopy=True
        )
        super().__init__(env)
        if not callable(cost):
            raise InvalidTypeError(
                f"cost is {cost!r}; it must be a function (observation, action, reward, info) -> "
                "number. For a constant cost: lambda *_: 1.0."
            )
        self.cost_limit = check_cost_limit(cost_limit)
        self._cost = cost

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; nothing is charged."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, {**info, "cost": 0.0}

    def step(self, action: Any) -> Step:
        """Step and charge for it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        cost: Any = self._cost(observation, action, float(reward), info)
        if not isinstance(cost, Real | np.bool_) or not math.isfinite(cost):
            name = getattr(self._cost, "__name__", type(self._cost).__name__)
            raise InvalidValueError(
                f"cost function {name!r} returned {cost!r}; it must return a finite number, "
                "e.g. float(...) of an array's one entry, and 0.0 where nothing is charged."
            )
        return observation, reward, terminated, truncated, {**info, "cost": float(cost)}


class _Repaid(gym.Wrapper[Any, Any, Any, Any]):
    """Pays another reward; the environment's own stays in ``info["reward"]``, 0.0 at reset."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        inner: Any = env
        while isinstance(inner, gym.Wrapper):
            if isinstance(inner, _Repaid):
                raise InvalidValueError(
                    f"env is penalised by {type(inner).__name__} already, whose rewards "
                    f"{type(self).__name__} would take for the environment's. Use one of them."
                )
            inner = inner.env
        super().__init__(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; nothing is paid."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin()
        return self._observe(observation), {**info, "reward": 0.0}

    def step(self, action: Any) -> Step:
        """Step; pay by reward and cost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        earned = float(reward)
        paid = self._pay(earned, read_cost(info))
        return self._observe(observation), paid, terminated, truncated, {**info, "reward": earned}

    def _begin(self) -> None:
        """Begin an episode."""

    def _pay(self, reward: float, cost: float) -> float:
        raise NotImplementedError

    def _observe(self, observation: Any) -> Any:
        return observation


class FixedPenalty(_Repaid, RecordConstructorArgs):
    """Pay ``(reward - multiplier * cost) / (1 + multiplier)``.

    A Lagrange multiplier that never moves, for libraries without constraints. The division keeps
    rewards of one size whatever the multiplier. Which multiplier meets the limit has to be found by
    trying; the agents of this package find it while they learn.

    >>> from agents import BudgetToyEnv
    >>> env = FixedPenalty(BudgetToyEnv(cost_limit=0.25), multiplier=1.0)
    >>> _ = env.reset(seed=0)
    >>> _, reward, _, _, info = env.step(np.array([-0.5], dtype=np.float32))
    >>> reward, info["reward"], info["cost"]
    (0.015625, 0.0625, 0.03125)

    Args:
        env: A constrained environment.
        multiplier: Price of cost in units of reward, 0 or above.

    Raises:
        InvalidValueError: If ``multiplier`` is not a finite number >= 0, the environment is
            penalised already, or later if a step has no cost.
    """

    def __init__(self, env: gym.Env[Any, Any], multiplier: float) -> None:
        RecordConstructorArgs.__init__(self, multiplier=multiplier)
        super().__init__(env)
        check_number("multiplier", multiplier, low=0.0)
        self.multiplier = float(multiplier)

    def _pay(self, reward: float, cost: float) -> float:
        return (reward - self.multiplier * cost) / (1.0 + self.multiplier)


class SauteBudget(_Repaid, RecordConstructorArgs):
    """Show what is left of the budget, and pay a constant once it is spent (Saute RL).

    The constraint becomes part of the task, so that any algorithm can learn it, and it is meant for
    every episode, not for their mean.

    - Paper (https://arxiv.org/abs/2202.06558): state ``(s, z)`` with ``z_0 = 1`` and
      ``z' = (z - cost / limit) / gamma_c``; the reward where ``z >= 0``, else a constant that
      stands in for minus infinity.
    - Ours: ``z = 1 - (costs of the episode so far) / cost_limit``; ``reward`` where ``z' >= 0``
      after the step, else ``unsafe_reward``.
    - Deviations: ``gamma_c = 1``, since the limit is on the undiscounted sum. The reward asks for
      ``z'``, not ``z``: a last step that breaks the limit would go unpunished. What is observed is
      ``z`` clipped to [-1, 1], so that the space is bounded; inside it is not clipped.

    The fraction is one more entry at the end of a flat ``Box`` observation, or the key
    ``"budget_left"`` of a ``Dict``. A cost that is charged at the last step only leaves it at 1
    until the episode is over, too late to act on: charge costs where they arise
    (``cost_mode="dense"`` of a pruning environment).

    >>> from agents import BudgetToyEnv
    >>> env = SauteBudget(BudgetToyEnv(cost_limit=0.2))
    >>> _ = env.reset(seed=0)
    >>> for _ in range(2):
    ...     observation, reward, _, _, info = env.step(np.array([1.0], dtype=np.float32))
    ...     print(observation, reward, info["reward"], info["cost"])
    [0.125 0.375] 0.125 0.125 0.125
    [ 0.25 -0.25] -1.0 0.125 0.125

    Args:
        env: A constrained environment, its observations a flat ``Box`` or a ``Dict``.
        unsafe_reward: Paid at *every* step while the limit is broken, also at the one that breaks
            it. Choose less than any step of the environment pays, so that no episode gains by
            breaking the limit: -1 is right for rewards of 0 or above. With 0, the usual choice
            elsewhere, an episode that is rewarded at its end alone would lose only that one reward,
            and a broken limit would be no worse than a useless result.
        cost_limit: Budget of an episode, positive; read from the environment if left out.

    Attributes:
        cost_limit: The budget.

    Raises:
        InvalidValueError: If the limit is not positive, ``unsafe_reward`` is not finite,
            observations are neither a flat ``Box`` nor a ``Dict``, the environment is penalised
            already, or later if a step has no cost.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        unsafe_reward: float = -1.0,
        cost_limit: float | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, unsafe_reward=unsafe_reward, cost_limit=cost_limit)
        super().__init__(env)
        self.unsafe_reward = _checked_reward(unsafe_reward)
        limit = read_cost_limit(env) if cost_limit is None else check_cost_limit(cost_limit)
        if limit <= 0.0:
            raise InvalidValueError(
                f"cost_limit is {limit!r}; a budget of which fractions can be left must be > 0. "
                "Shift costs and limit to positive ones, or use FixedPenalty."
            )
        self.cost_limit = limit
        self.observation_space = _with_budget(env.observation_space)
        self._spent = 0.0

    def _begin(self) -> None:
        self._spent = 0.0

    def _pay(self, reward: float, cost: float) -> float:
        self._spent += cost  # compared as a sum, so that reaching the limit exactly is safe
        return reward if self._spent <= self.cost_limit else self.unsafe_reward

    def _observe(self, observation: Any) -> Any:
        left = min(1.0, max(-1.0, 1.0 - self._spent / self.cost_limit))
        if isinstance(self.observation_space, spaces.Dict):
            return {**observation, "budget_left": np.array([left], dtype=np.float32)}
        return np.append(observation, left).astype(self.observation_space.dtype)


def _checked_reward(unsafe_reward: Any) -> float:
    if not isinstance(unsafe_reward, Real) or not math.isfinite(unsafe_reward):
        raise InvalidValueError(
            f"unsafe_reward is {unsafe_reward!r}; it must be a finite number, less than any step "
            "of the environment pays. Leave it out for -1.0."
        )
    return float(unsafe_reward)


def _with_budget(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The observation space with one more number, in [-1, 1]."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        dtype: Any = np.result_type(space.dtype, np.float32)  # a fraction is no whole number
        low, high = np.append(space.low, -1.0), np.append(space.high, 1.0)
        return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)
    if isinstance(space, spaces.Dict):
        if "budget_left" in space.spaces:
            raise InvalidValueError(
                'env has an observation "budget_left" already, under which SauteBudget would put '
                "its own. Rename it."
            )
        return spaces.Dict({**space.spaces, "budget_left": spaces.Box(-1.0, 1.0, (1,), np.float32)})
    raise InvalidValueError(
        f"env has the observation space {space}; SauteBudget adds to a flat Box or a Dict. "
        "Wrap it in gymnasium.wrappers.FlattenObservation first."
    )
