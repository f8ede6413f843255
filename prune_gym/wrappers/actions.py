"""Other action spaces: ratios from a grid, bits per filter, boxes for binary actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from prune_gym.envs.base import pruning_env
from prune_gym.errors import InvalidValueError


class DiscreteRatios(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Prune ratios from a grid: ``Discrete(n)`` (``MultiDiscrete`` with granularity "network").

    `action_masks` is what ``MaskablePPO`` of sb3-contrib asks for: with it no episode breaks a
    limit on a budget that is counted.

    >>> env = DiscreteRatios(gym.make("PruneVGG-v0", budgets={"params": 0.2}), n=5)
    >>> _ = env.reset(seed=0)
    >>> for _ in range(6):
    ...     _ = env.step(2)  # half of the group
    >>> env.action_masks()  # the next one has to lose half of its filters too
    array([False, False,  True,  True,  True])

    Args:
        env: an environment that takes prune ratios.
        n: number of ratios, evenly spaced in [0, ``max_ratio``]; 2 at least.

    Raises:
        ValueError: another ``n``, another action space, or granularity ``"filter"``.
        TypeError: no pruning environment.
    """

    def __init__(self, env: gym.Env[Any, Any], n: int = 11) -> None:
        RecordConstructorArgs.__init__(self, n=n)
        super().__init__(env)
        if isinstance(n, bool) or not isinstance(n, int) or n < 2:
            raise InvalidValueError(f"n={n!r} must be a whole number of at least 2.")
        shape = _box_shape(env)
        self._pruning = pruning_env(env, "DiscreteRatios")
        if self._pruning.granularity == "filter":
            raise InvalidValueError(
                "DiscreteRatios: granularity='filter' takes no ratios; use BinaryFilters."
            )
        self.n = n
        self.action_space = (
            spaces.Discrete(n) if shape == (1,) else spaces.MultiDiscrete([n] * shape[0])
        )

    def action(self, action: Any) -> NDArray[np.float32]:
        """Grid index -> action in [-1, 1]."""
        if not self.action_space.contains(action):
            raise InvalidValueError(f"action {action!r} is not in {self.action_space}.")
        return np.atleast_1d(2.0 * np.asarray(action) / (self.n - 1) - 1.0).astype(np.float32)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which ratios leave every limit within reach.

        A ratio is masked where a cost would exceed its limit even if all groups after this one
        were cut to their minimum. That can be told of budgets that are counted and monotone; others
        mask nothing, nor does granularity "network", whose groups are decided at once. If no ratio
        is left, the largest one stays allowed. With a `ProjectionWrapper` inside nothing is masked:
        what it makes of a ratio meets the limits.

        Returns:
            (n,) bool, True = allowed; (n * n_groups,) with granularity "network".
        """
        env, problem = self._pruning, self._pruning.problem
        if isinstance(self.action_space, spaces.MultiDiscrete):
            return np.ones(self.action_space.nvec.sum(), dtype=np.bool_)
        if env.steps_left == 0 or self.env.has_wrapper_attr("project"):
            return np.ones(self.n, dtype=np.bool_)
        actions = [self.action(index) for index in range(self.n)]
        counts = np.array([env.floor_counts(env.would_keep(a)) for a in actions])  # (n, n_groups)
        within: NDArray[np.bool_] = problem.counted_costs(counts) <= env.cost_limits
        told = [budget.counted is not None and budget.monotone for budget in problem.budgets]
        allowed: NDArray[np.bool_] = np.all(within[:, told], axis=1)  # (n,) of (n, n_budgets)
        allowed[-1] |= not allowed.any()
        return allowed


class BinaryFilters(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Keep (1) or drop (0) each filter: ``MultiBinary`` in place of a box.

    Args:
        env: an environment with granularity ``"filter"``.

    Raises:
        ValueError: another granularity or action space.
        TypeError: no pruning environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if pruning_env(env, "BinaryFilters").granularity != "filter":
            raise InvalidValueError("BinaryFilters needs granularity='filter'; use DiscreteRatios.")
        self.action_space = spaces.MultiBinary(_box_shape(env)[0])

    def action(self, action: Any) -> NDArray[np.float32]:
        """Bits -> action in {-1, 1}."""
        if not self.action_space.contains(action):
            raise InvalidValueError(f"action {action!r} is not in {self.action_space}.")
        return (2.0 * np.asarray(action) - 1.0).astype(np.float32)


class BinaryToBox(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """``Box(-1, 1)`` in place of ``MultiBinary``: 1 where an entry is >= 0.

    For algorithms that take boxes only, such as SAC and TD3, on any environment of binary actions.
    (The pruning environments take boxes as they are; without `BinaryFilters` they also see which of
    the entries are largest.)

    Args:
        env: an environment with a ``MultiBinary`` action space.

    Raises:
        ValueError: another action space.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.action_space, spaces.MultiBinary):
            raise InvalidValueError(
                f"BinaryToBox: expected a MultiBinary action space, got {env.action_space}; "
                "leave a Box as it is."
            )
        self.action_space = spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)

    def action(self, action: Any) -> NDArray[np.int8]:
        """Numbers -> bits."""
        numbers = np.asarray(action, dtype=np.float64)
        if numbers.shape != self.action_space.shape or np.isnan(numbers).any():
            raise InvalidValueError(
                f"action {action!r} must be numbers of shape {self.action_space.shape}, none of "
                "them NaN."
            )
        return (numbers >= 0.0).astype(np.int8)


def _box_shape(env: gym.Env[Any, Any]) -> tuple[int, ...]:
    if not isinstance(env.action_space, spaces.Box):
        raise InvalidValueError(
            f"expected a Box action space, got {env.action_space}; wrap it only once."
        )
    return env.action_space.shape
