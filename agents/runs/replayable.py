"""Environments that can be brought back to the middle of an episode.

Nothing of an environment is pickled: what is remembered is how its random numbers stood when the
episode began, and the actions since. Whoever has an environment of the same kind starts it there
and steps the same actions again.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.env_checker import data_equivalence

Generators = dict[tuple[int, str], Any]  # (layer, attribute) -> state


class EpisodeMismatchError(ValueError):
    """The same actions did not lead to the same place."""


@dataclass(frozen=True)
class EpisodeState:
    """Where an environment stands.

    Attributes:
        begun: States of the random generators before the reset that began the episode.
        seed: Seed of that reset.
        options: Options of that reset.
        actions: The actions since.
        rewards: What they earned.
        observation: The last observation.
        now: States of the random generators now.
    """

    begun: Generators
    seed: int | None
    options: dict[str, Any] | None
    actions: tuple[Any, ...]
    rewards: tuple[float, ...]
    observation: Any
    now: Generators


class Replayable(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Remember the running episode, so that another environment of the kind can be brought there.

    This is the outermost wrapper. It asks of the environment inside that an episode is a function
    of its random generators (``np_random``, and every other ``numpy.random.Generator`` that is an
    attribute of the environment or of a wrapper) at the reset, and of the actions. What does not
    fit: environments that learn from episode to episode, draw from global generators, or measure
    the time. `restore_episode` notices where observations or rewards differ. It takes as long as
    the episode did.

    >>> from agents import BudgetToyEnv
    >>> env, other = Replayable(BudgetToyEnv()), Replayable(BudgetToyEnv())
    >>> _ = env.reset(seed=0), env.step(np.array([0.5])), env.step(np.array([-0.5]))
    >>> other.restore_episode(env.episode_state())
    >>> (other.step(np.array([0.1]))[0] == env.step(np.array([0.1]))[0]).all()
    np.True_
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._beginning: tuple[Generators, int | None, dict[str, Any] | None] | None = None
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._observation: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and a new memory."""
        self._beginning = (_states(self.env), seed, copy.deepcopy(options))
        self._actions, self._rewards = [], []
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and remember the action."""
        self._actions.append(copy.deepcopy(action))
        result = self.env.step(action)
        self._observation = result[0]
        self._rewards.append(float(result[1]))
        return result

    def episode_state(self) -> EpisodeState:
        """Return where the running episode stands.

        Raises:
            ValueError: If no episode has begun.
        """
        if self._beginning is None:
            raise ValueError("no episode has begun; call reset first.")
        begun, seed, options = self._beginning
        return EpisodeState(
            begun,
            seed,
            options,
            tuple(self._actions),
            tuple(self._rewards),
            copy.deepcopy(self._observation),
            _states(self.env),
        )

    def restore_episode(self, state: EpisodeState) -> None:
        """Bring the environment to where another one stood.

        Raises:
            EpisodeMismatchError: If the environment does not get there.
        """
        try:
            _set_states(self.env, state.begun)
            self.reset(seed=state.seed, options=state.options)
            for action in state.actions:
                self.step(action)
            same = (
                data_equivalence(self._observation, state.observation, exact=True)
                and self._rewards == list(state.rewards)
                and pickle.dumps(_states(self.env)) == pickle.dumps(state.now)
            )
        except (KeyError, TypeError) as error:  # generators that are not there
            raise EpisodeMismatchError(_mismatch(self.env, len(state.actions))) from error
        if not same:
            raise EpisodeMismatchError(_mismatch(self.env, len(state.actions)))


def _mismatch(env: gym.Env[Any, Any], n_actions: int) -> str:
    return (
        f"{env} cannot be brought back to the middle of its episode: after the same random state "
        f"and the same {n_actions} actions its observation, rewards or random numbers differ. "
        "Either it was made with other arguments, or it is not a function of its np_random and its "
        "actions (it draws global random numbers, measures time, or learns between episodes). A "
        "training can begin new episodes instead: python -m agents.train --resume RUN "
        "--new-episodes."
    )


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    layer: gym.Env[Any, Any] = env
    while isinstance(layer, gym.Wrapper):
        yield layer
        layer = layer.env
    yield layer


def _generators(env: gym.Env[Any, Any]) -> dict[tuple[int, str], np.random.Generator]:
    _ = env.unwrapped.np_random  # made on first use
    return {
        (depth, name): value
        for depth, layer in enumerate(_layers(env))
        for name, value in vars(layer).items()
        if isinstance(value, np.random.Generator)
    }


def _states(env: gym.Env[Any, Any]) -> Generators:
    generators = _generators(env)
    return {place: copy.deepcopy(one.bit_generator.state) for place, one in generators.items()}


def _set_states(env: gym.Env[Any, Any], states: Generators) -> None:
    generators = _generators(env)
    for place, state in states.items():
        generators[place].bit_generator.state = copy.deepcopy(state)
