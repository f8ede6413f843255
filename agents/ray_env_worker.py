"""What a worker of a `RayVecEnv` runs, and what brings a new one to where another was.

It travels by value, as `agents.ray_machines` does, so that a machine without these packages can say
so: they are imported where a worker needs them.
"""

from __future__ import annotations

import copy
import pickle
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agents.ray_machines import PACKAGES, versions

if TYPE_CHECKING:
    import gymnasium as gym


@dataclass
class Past:
    """What brings a new environment to where another one is.

    Attributes:
        settings: Changes of earlier episodes: of each kind the last.
        start: How its episode began; None before the first.
        log: Actions since then, and changes in between.
        last: Observation, reward and end of the latest step, or reset; None before the first.
        seconds: That its worker took for what is in ``log``.
    """

    settings: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    start: Any = None
    log: list[tuple[str, Any]] = field(default_factory=list)
    last: tuple[Any, float, bool] | None = None
    seconds: float = 0.0

    def begin(self, start: Any, observation: Any) -> None:
        """An episode begins."""
        for way, given in self.log:
            if way == "step":
                continue
            kind: tuple[Any, ...] = (way, given[0])
            if way == "method":
                kind = (*kind, len(given[1]), frozenset(given[2]))
            self.settings.pop(kind, None)  # it is the last one now
            self.settings[kind] = way, given
        self.start, self.log, self.seconds = start, [], 0.0
        self.last = observation, 0.0, False

    def step(self, action: Any, observation: Any, reward: float) -> None:
        """An episode goes on."""
        self.log.append(("step", (action,)))
        self.last = observation, reward, False


class EnvWorker:
    """What a worker runs: some environments, stepped one after another."""

    def __init__(self) -> None:
        self._envs: list[gym.Env[Any, Any]] = []

    def versions(self) -> dict[str, str]:
        """See `agents.ray_machines.versions`."""
        return versions(PACKAGES)

    def open(self, env_fns: bytes) -> tuple[Any, Any, str | None]:
        """Make the environments; of the first its spaces, and how it shows itself.

        Raises:
            ImportError: If this machine lacks code that they need.
        """
        try:
            for make in pickle.loads(env_fns):
                self._envs.append(make())  # one by one, so that all that are made can be closed
        except ImportError as error:
            raise ImportError(
                f"machine {platform.node()} lacks code that they need: {error}."
            ) from error
        env = self._envs[0]
        return env.observation_space, env.action_space, env.render_mode

    def close(self) -> list[str]:
        """Close all; gives what they raised, in words."""
        failed = []
        for env in self._envs:
            try:
                env.close()
            except Exception as error:  # the others are closed all the same
                failed.append(f"{type(error).__name__}: {error}")
        return failed

    def reset(self, given: list[tuple[int | None, Any]]) -> list[tuple[Any, Any, Any]]:
        """Reset all, each with a seed and options; observation, info and how it began."""
        return [self._begun(env, *one) for env, one in zip(self._envs, given, strict=True)]

    def step(self, actions: list[Any]) -> list[Any]:
        """Step all; those that have ended begin anew."""
        return [self._stepped(env, one) for env, one in zip(self._envs, actions, strict=True)]

    def restore(self, past: list[Past]) -> list[str]:
        """Bring environments to where others were: the same random numbers, the same actions.

        Args:
            past: Of each.

        Returns:
            For each, what its last step gave otherwise than the other's, in a word, or nothing.
        """
        return [self._restored(index, one) for index, one in enumerate(past)]

    def _restored(self, index: int, past: Past) -> str:
        for way, given in past.settings.values():
            getattr(self, way)(index, *given)
        env, last = self._envs[index], past.last
        if past.start is not None:
            state, seed, options = past.start
            env.reset()
            env.unwrapped.np_random.bit_generator.state = state
            last = copy.deepcopy(self._begun(env, seed, options)[0]), 0.0, False
        for way, given in past.log:
            if way == "step":
                observation, reward, terminated, truncated, _ = env.step(*given)
                # a copy, as an environment may write the next one into the same array
                last = copy.deepcopy(observation), float(reward), bool(terminated or truncated)
            else:
                getattr(self, way)(index, *given)
        return _differing(last, past.last)

    def unpacked(self, way: str, given: bytes) -> Any:
        """Do what another method does, with pickled arguments."""
        return getattr(self, way)(*pickle.loads(given))

    def get(self, index: int, name: str) -> Any:
        """An attribute."""
        return self._envs[index].get_wrapper_attr(name)

    def set(self, index: int, name: str, value: Any) -> None:
        """Set an attribute."""
        setattr(self._envs[index], name, value)

    def method(self, index: int, name: str, args: Any, kwargs: Any) -> Any:
        """Call a method."""
        return self._envs[index].get_wrapper_attr(name)(*args, **kwargs)

    def is_wrapped(self, index: int, wrapper: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        """Whether one is wrapped so."""
        from stable_baselines3.common.env_util import is_wrapped

        return is_wrapped(self._envs[index], wrapper)

    @staticmethod
    def _begun(env: gym.Env[Any, Any], seed: int | None, options: Any) -> tuple[Any, Any, Any]:
        state = env.unwrapped.np_random.bit_generator.state
        observation, info = env.reset(seed=seed, **({"options": options} if options else {}))
        return observation, info, (state, seed, options)

    def _stepped(self, env: gym.Env[Any, Any], action: Any) -> Any:
        observation, reward, terminated, truncated, info = env.step(action)
        done, begun = terminated or truncated, None
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, reset_info, start = self._begun(env, None, None)
            begun = reset_info, start
        return observation, float(reward), done, info, begun


def _differing(one: tuple[Any, float, bool] | None, other: tuple[Any, float, bool] | None) -> str:
    """What of two steps differs; nothing where there was none."""
    if one is None or other is None:
        return ""
    names = ("observation", "reward", "end of the episode")
    pairs = zip(names, one, other, strict=True)
    return next((name for name, *values in pairs if not _is_same(*values)), "")


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values of a space are the same, but for last digits, in which machines differ."""
    import numpy as np

    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype.kind == other.dtype.kind == "f" and one.shape == other.shape:
        return np.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
    return np.array_equal(one, other)
