"""Wrappers: other action spaces, the best network found, the episode's cost."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray
from torch import nn

from prune_gym.search.archive import Archive

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class DiscreteRatios(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Prune ratios from a grid: ``Discrete(n)`` (``MultiDiscrete`` with granularity "network").

    Args:
        env: an environment that takes prune ratios.
        n: number of ratios, evenly spaced in [0, ``max_ratio``]; 2 at least.
    """

    def __init__(self, env: gym.Env[Any, Any], n: int = 11) -> None:
        RecordConstructorArgs.__init__(self, n=n)
        super().__init__(env)
        if isinstance(n, bool) or not isinstance(n, int) or n < 2:
            raise ValueError(f"n={n!r} must be a whole number of at least 2.")
        shape = _box_shape(env)
        if env.unwrapped.granularity == "filter":  # type: ignore[attr-defined]
            raise ValueError(
                "DiscreteRatios: granularity='filter' takes no ratios; use BinaryFilters."
            )
        self.n = n
        self.action_space = (
            spaces.Discrete(n) if shape == (1,) else spaces.MultiDiscrete([n] * shape[0])
        )

    def action(self, action: Any) -> NDArray[np.float32]:
        """Grid index -> action in [-1, 1]."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}.")
        return np.atleast_1d(2.0 * np.asarray(action) / (self.n - 1) - 1.0).astype(np.float32)


class BinaryFilters(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Keep (1) or drop (0) each filter: ``MultiBinary`` in place of a box.

    Args:
        env: an environment with granularity ``"filter"``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if env.unwrapped.granularity != "filter":  # type: ignore[attr-defined]
            raise ValueError("BinaryFilters needs granularity='filter'; use DiscreteRatios.")
        self.action_space = spaces.MultiBinary(_box_shape(env)[0])

    def action(self, action: Any) -> NDArray[np.float32]:
        """Bits -> action in {-1, 1}."""
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}.")
        return (2.0 * np.asarray(action) - 1.0).astype(np.float32)


class RecordBest(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keep the best feasible network of all episodes.

    Args:
        env: a pruning environment.
        archive: where outcomes go; share one among several environments of a process.

    Attributes:
        archive: every episode's outcome, and the best feasible one (``archive.best``).
    """

    def __init__(self, env: gym.Env[Any, Any], archive: Archive | None = None) -> None:
        RecordConstructorArgs.__init__(self, archive=archive, _disable_deepcopy=True)
        super().__init__(env)
        self.archive = Archive() if archive is None else archive

    def step(self, action: Any) -> Step:
        """Step; a finished episode goes to the archive."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            base: Any = self.env.unwrapped
            self.archive.add(base.last_masks(), base.last_outcome())
        return observation, reward, terminated, truncated, info

    def best_network(self) -> nn.Module:
        """The best feasible compact network so far, built and recovered anew.

        Raises:
            NothingFeasibleError: no episode met every limit.
        """
        problem: Any = self.env.unwrapped.problem  # type: ignore[attr-defined]
        network: nn.Module = problem.recover(problem.compact(self.archive.feasible_masks()))
        return network


class RecordEpisodeCost(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Put the episode's cost so far into ``info["episode_cost"]``, float, at every step.

    It stands in the terminal info as well, where Stable-Baselines3's ``Monitor`` reads it:
    ``Monitor(RecordEpisodeCost(env), info_keywords=("episode_cost",))``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._sum = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; the episode's cost starts anew."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._sum = _cost(info)
        return observation, {**info, "episode_cost": self._sum}

    def step(self, action: Any) -> Step:
        """Step; add this step's cost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._sum += _cost(info)
        return observation, reward, terminated, truncated, {**info, "episode_cost": self._sum}


def _cost(info: dict[str, Any]) -> float:
    if "cost" not in info:
        raise ValueError(
            "RecordEpisodeCost: the environment gives no info['cost']; wrap a constrained one."
        )
    return float(info["cost"])


def _box_shape(env: gym.Env[Any, Any]) -> tuple[int, ...]:
    if not isinstance(env.action_space, spaces.Box):
        raise ValueError(f"expected a Box action space, got {env.action_space}; wrap it only once.")
    return env.action_space.shape
