"""What a training may return, and how a policy is played."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from agents.arguments import shown
from agents.errors import BenchmarkError

Env = gym.Env[Any, Any]
Wrap = Callable[[Env], Env]


def _as_it_is(env: Env) -> Env:
    return env


class Policy:
    """A policy as the benchmark plays it.

    Args:
        given: An object with the ``predict`` of Stable-Baselines3, or a function observation ->
            action.
        wrap: Gives an environment the observations and actions of the policy.
    """

    def __init__(self, given: Any, wrap: Wrap = _as_it_is) -> None:
        self.given, self.wrap = given, wrap
        self._predict = getattr(given, "predict", None)
        self._takes = _parameters(self._predict)

    def wrapped(self, env: Env) -> Env:
        """Give an environment as the policy takes it.

        Raises:
            BenchmarkError: What ``wrap`` gave is no environment.
        """
        found = self.wrap(env)
        if not isinstance(found, gym.Env):
            raise BenchmarkError(
                f"wrap(env) gave {shown(found)}; it must give an environment, env in a wrapper."
            )
        return found

    def play(
        self,
        env: Env,
        *,
        deterministic: bool,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Play one episode.

        Args:
            env: Wrapped by ``wrap``.
            deterministic: Whether it takes its most likely actions, where it can.
            seed: Of the reset.
            options: Of the reset.

        Raises:
            BenchmarkError: An action that the environment cannot take.
        """
        observation, _ = env.reset(seed=seed, options=options)
        state, first, ended = None, True, False
        while not ended:
            action, state = self._act(env, observation, state, first, deterministic)
            observation, _, terminated, truncated, _ = env.step(action)
            first, ended = False, bool(terminated or truncated)

    def _act(
        self, env: Env, observation: Any, state: Any, first: bool, deterministic: bool
    ) -> tuple[Any, Any]:
        if self._predict is None:
            found = self.given(observation)
        else:
            arguments: dict[str, Any] = {
                "state": state,
                "episode_start": np.array([first]),
                "deterministic": deterministic,
            }
            if "**" not in self._takes:
                arguments = {name: arguments[name] for name in arguments if name in self._takes}
            if "action_masks" in self._takes:
                arguments["action_masks"] = env.get_wrapper_attr("action_masks")()
            answer = self._predict(observation, **arguments)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise BenchmarkError(
                    f"predict gave {shown(answer)}; it must give a pair (action, state), as that "
                    "of Stable-Baselines3 does."
                )
            found, state = answer
        return _fitting(found, env.action_space), state


class Plan:
    """A policy that plays the same actions in every episode, whatever it observes.

    Args:
        actions: One for every step.
    """

    def __init__(self, actions: Sequence[Any]) -> None:
        self.actions = list(actions)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[Any, Any]:
        """The action of the next step; the state is its number."""
        step = 0 if state is None or np.any(episode_start) else int(state)
        return self.actions[min(step, len(self.actions) - 1)], step + 1


def as_policy(returned: Any) -> Policy | None:
    """The policy that a training returned.

    Raises:
        BenchmarkError: Something that is none.
    """
    given, wrap = returned, _as_it_is
    if isinstance(returned, tuple) and len(returned) == 2 and callable(returned[1]):
        given, wrap = returned
    if given is None:
        return None
    is_policy = callable(getattr(given, "predict", None)) or callable(given)
    if isinstance(given, type) or not is_policy:
        raise BenchmarkError(
            f"train returned {shown(returned)}; it must return None, an object with predict as in "
            "Stable-Baselines3, a function observation -> action, or a pair (policy, wrap) where "
            "wrap(env) gives the environment as the policy takes it."
        )
    return Policy(given, wrap)


def _fitting(action: Any, space: gym.Space[Any]) -> Any:
    """An action in the form of the space."""
    try:
        if isinstance(space, gym.spaces.Discrete):
            return int(np.asarray(action).item())
        array = np.asarray(action, dtype=space.dtype).reshape(space.shape or ())
    except (TypeError, ValueError) as error:
        raise BenchmarkError(
            f"the policy gave the action {shown(action)}; it must be one of {space}."
        ) from error
    return array


def _parameters(function: Any) -> set[str]:
    """Names of what a function takes; "**" among them where it takes any."""
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of compiled functions, which do not say
        return {"**"}
    return {"**" if one.kind is one.VAR_KEYWORD else name for name, one in found.items()}
