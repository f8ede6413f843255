"""A constrained problem with a known answer, to prove an agent on.

``gym.make("agents.toy:BudgetToy-v0")``, or the class itself.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from agents.errors import InvalidValueError

Observation = npt.NDArray[np.float32]


class BudgetToyEnv(gym.Env[Observation, Any]):
    """Spend a budget evenly over eight steps.

    Every step keeps a fraction ``k = (action + 1) / 2``, earns ``sqrt(k) / 8`` and costs ``k / 8``.
    The square root is concave, so the best policy keeps the same fraction at every step:
    ``k = cost_limit``. The Lagrangian ``sqrt(k) - multiplier * k`` is stationary there at
    ``multiplier = 0.5 / sqrt(cost_limit)``. From ``cost_limit = 1`` on the constraint is slack.

    Action space: ``Box(-1, 1, (1,))``; the discrete twin has ``Discrete(n_actions)`` and keeps
    ``k = action / (n_actions - 1)``. It has the same optimum where the limit is on its grid, and
    there any multiplier between the slopes to both neighbours belongs to it; ``optimal_multiplier``
    lies between them. Its ``action_masks()`` allow everything.

    Observation space: ``Box(0, 1, (1,))``, the fraction of the episode that has passed. An episode
    is terminated after eight steps; it is never truncated. ``info["cost"]`` is there on reset (0.0)
    and on every step.

    Args:
        cost_limit: Largest allowed mean of the episodic sum of costs, positive.
        n_actions: Number of actions of the discrete twin, at least 2; None for the box.

    Attributes:
        cost_limit: As given.
        optimal_fraction: The fraction that the best policy keeps at every step.
        optimal_return: The episodic return of the best policy.
        optimal_multiplier: The Lagrange multiplier at the optimum.
    """

    n_steps: ClassVar[int] = 8

    def __init__(self, cost_limit: float = 0.25, n_actions: int | None = None) -> None:
        if not (math.isfinite(cost_limit) and cost_limit > 0.0):
            raise InvalidValueError(
                f"cost_limit is {cost_limit!r}; it must be a finite number > 0."
            )
        if n_actions is not None and (not isinstance(n_actions, int) or n_actions < 2):
            raise InvalidValueError(
                f"n_actions is {n_actions!r}; it must be an integer >= 2, or None."
            )
        self.n_actions = n_actions
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = (
            gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
            if n_actions is None
            else gym.spaces.Discrete(n_actions)
        )
        self.cost_limit = float(cost_limit)
        self.optimal_fraction = min(self.cost_limit, 1.0)
        self.optimal_return = math.sqrt(self.optimal_fraction)
        self.optimal_multiplier = 0.5 / self.optimal_return if self.cost_limit < 1.0 else 0.0
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        self._step = 0
        return self._observe(), {"cost": 0.0}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Keep a fraction, earn and pay for it."""
        if self.n_actions is None:
            fraction = (float(np.clip(action[0], -1.0, 1.0)) + 1.0) / 2.0
        else:
            fraction = int(action) / (self.n_actions - 1)
        self._step += 1
        info = {"cost": fraction / self.n_steps}
        reward = math.sqrt(fraction) / self.n_steps
        return self._observe(), reward, self._step >= self.n_steps, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Return which actions of the discrete twin are allowed: all, (n_actions,) bool."""
        return np.ones(self.n_actions or 0, dtype=bool)

    def _observe(self) -> Observation:
        return np.array([self._step / self.n_steps], dtype=np.float32)


if "BudgetToy-v0" not in gym.registry:
    gym.register("BudgetToy-v0", entry_point="agents.toy:BudgetToyEnv")
