"""Environments whose networks are counted, and which stop when all evaluations are spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

from agents.arguments import shown
from agents.benchmark.ledger import Judged, Ledger
from agents.benchmark.networks import choice_of, costs_of
from agents.costs import read_cost, read_cost_limit
from agents.errors import BenchmarkError, InvalidValueError

Env = gym.Env[Any, Any]
# names that Gymnasium gives them; its version 1.0 knows the first one only
AUTORESET_MODES = ("NextStep", "SameStep", "Disabled")


class CountedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """One environment whose networks are counted.

    Args:
        env: The environment.
        ledger: Where they are counted.
        seed: Of the first reset, where whoever resets gives none.
    """

    def __init__(self, env: Env, ledger: Ledger, seed: int | None = None) -> None:
        super().__init__(env)
        self._ledger, self._first_seed = ledger, seed
        self._steps, self._return, self._cost = 0, 0.0, 0.0
        self._inner_steps = _inner_steps(env)

    @property
    def cost_limit(self) -> float:
        """What the sum of ``info["cost"]`` over an episode is held against."""
        return float(read_cost_limit(self.env))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that was begun and not ended counts as an evaluation."""
        self._ledger.check_open()
        if self._steps:
            self._ledger.give_up()
        self._steps, self._return = 0, 0.0
        seed, self._first_seed = (self._first_seed if seed is None else seed), None
        observation, info = self.env.reset(seed=seed, options=options)
        self._cost = read_cost(info) if "cost" in info else 0.0
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            EvaluationsSpent: All evaluations are spent.
            InvalidValueError: An action with NaN or infinity in it.
        """
        self._ledger.check()
        check_action(action)
        observation, reward, terminated, truncated, info = _step_counted(
            self._inner_steps, self.env.step, action
        )
        self._ledger.open += not self._steps
        self._steps += 1
        self._return += float(reward)
        self._cost += read_cost(info)
        if terminated or truncated:
            self._steps = 0
            inner = self.env.unwrapped
            self._ledger.add(judged(self._return, self._cost, self.cost_limit, inner, info))
        return observation, reward, terminated, truncated, info


def judged(accuracy: float, cost: float, limit: float, env: Any, info: Mapping[str, Any]) -> Judged:
    """The network of an episode that has ended.

    Args:
        accuracy: Its return.
        cost: Its summed cost.
        limit: Of that.
        env: The unwrapped environment.
        info: Of the last step.
    """
    return Judged(
        accuracy=accuracy,
        cost=cost,
        cost_limit=limit,
        feasible=bool(info.get("feasible", cost <= limit)),
        costs=costs_of(env, info),
        problem=getattr(env, "problem", None),
        choice=choice_of(env, info),
    )


class InnerStep:
    """Takes the place of the ``step`` of an unwrapped environment, which is to be counted.

    Args:
        inner: The environment.

    Attributes:
        is_counted: Whether whoever steps counts; else it raises.
    """

    def __init__(self, inner: Any) -> None:
        self._step, self.is_counted = inner.step, False
        inner.step = self

    def __call__(self, action: Any) -> Any:
        """Take a step."""
        if not self.is_counted:
            raise BenchmarkError(
                "env.unwrapped is not stepped by itself: its networks would not be counted. Step "
                "the environment that make_env gave."
            )
        return self._step(action)


def _inner_steps(env: Any) -> list[InnerStep]:
    """Of all environments in one, or in a vector."""
    own = getattr(env.unwrapped, "envs", [env])
    every = [other for one in own for other in getattr(one, "in_turn", [one])]
    return [InnerStep(one.unwrapped) for one in every]


def _step_counted(steps: list[InnerStep], step: Callable[[Any], Any], action: Any) -> Any:
    for one in steps:
        one.is_counted = True
    try:
        return step(action)
    finally:
        for one in steps:
            one.is_counted = False


def check_action(action: Any) -> None:
    """Raise an InvalidValueError unless all numbers of an action are finite."""
    is_short = isinstance(action, np.ndarray) and action.size == 1
    if is_short and -1e9 < action.item() < 1e9:  # most actions need no further look
        return
    try:
        finite = bool(np.isfinite(np.asarray(action, dtype=np.float64)).all())
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise InvalidValueError(
            f"action is {shown(action)}; it must be finite numbers. A policy whose weights are "
            "NaN has diverged: lower its learning rate."
        )


class CountedVectorEnv(VectorWrapper):
    """A vector of environments whose networks are counted.

    Where a step judges more networks than evaluations are left, those that are left count, in the
    order of the environments, and `EvaluationsSpent` takes the place of what the step would
    return.

    Args:
        env: The vector, in any autoreset mode.
        ledger: Where networks are counted.
        seed: Of the first reset, where whoever resets gives none.
    """

    def __init__(self, env: VectorEnv, ledger: Ledger, seed: int) -> None:
        super().__init__(env)
        self._ledger, self._first_seed = ledger, seed
        self._steps = np.zeros(env.num_envs, dtype=np.int64)
        self._returns, self._costs = np.zeros(env.num_envs), np.zeros(env.num_envs)
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)
        mode = env.metadata.get("autoreset_mode", AUTORESET_MODES[0])
        self._mode = getattr(mode, "value", mode)
        self._inner_steps = _inner_steps(env)

    @property
    def cost_limits(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of every environment, (num_envs,), see `CountedEnv.cost_limit`."""
        inner: Any = self.env.unwrapped
        if hasattr(inner, "cost_limit"):  # drawn limits are part of the cost: all of them are one
            return np.full(self.num_envs, float(inner.cost_limit))
        return np.array([float(read_cost_limit(env)) for env in inner.envs])

    def reset(
        self,
        *,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; those that were begun and not ended count as evaluations."""
        self._ledger.check_open()
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], dtype=np.bool_)
        for _ in range(int((self._steps[mask] > 0).sum())):
            self._ledger.give_up()
        self._forget(mask)
        if seed is None and self._first_seed is not None:
            seed = self._first_seed
        self._first_seed = None  # type: ignore[assignment]
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in every environment; see `CountedEnv.step`."""
        self._ledger.check()
        check_action(actions)
        begun_anew = self._ended & (self._mode == "NextStep")
        self._forget(begun_anew)
        observations, rewards, terminations, truncations, infos = _step_counted(
            self._inner_steps, self.env.step, actions
        )
        self._ledger.open += int((~begun_anew & (self._steps == 0)).sum())
        self._steps += ~begun_anew
        ended = np.asarray(terminations | truncations)
        final = infos.get("final_info", infos)  # of those that were reset in this very step
        costs = np.where(ended, final["cost"], infos["cost"])
        self._returns += np.where(begun_anew, 0.0, rewards)
        self._costs += np.where(begun_anew, 0.0, costs)
        self._ended = ended
        for index in np.flatnonzero(ended).tolist():
            self._add(index, final)
        self._steps[ended] = 0
        if self._mode == "SameStep":
            self._forget(ended)
        return observations, rewards, terminations, truncations, infos

    # -- inside ------------------------------------------------------------------------------

    def _forget(self, mask: np.ndarray[Any, Any]) -> None:
        self._steps[mask], self._returns[mask], self._costs[mask] = 0, 0.0, 0.0
        self._ended = self._ended & ~mask

    def _add(self, index: int, infos: Mapping[str, Any]) -> None:
        own = {
            key: value[index]
            for key, value in infos.items()
            if isinstance(value, np.ndarray) and not key.startswith("_")
        }
        inner: Any = self.env.unwrapped
        one = inner.envs[index] if hasattr(inner, "envs") else inner
        one = getattr(one, "stepped", one)  # of environments in turn, the one that was decided
        limit = float(one.cost_limit if one is inner else read_cost_limit(one))
        cost, accuracy = float(self._costs[index]), float(self._returns[index])
        self._ledger.add(judged(accuracy, cost, limit, one.unwrapped, own))
