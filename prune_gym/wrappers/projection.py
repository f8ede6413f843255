"""The wrapper that keeps limits for certain, whatever the agent does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from prune_gym.envs.base import pruning_env
from prune_gym.envs.checks import check_choice
from prune_gym.errors import InvalidValueError
from prune_gym.problem.feasibility import (
    STEPS,
    Costs,
    along_line,
    check_monotone,
    first_feasible,
    with_fewer,
)
from prune_gym.pruning.masks import kept_per_group

Action = NDArray[np.float32]
MODES = ("clip", "scale")


class ProjectionWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Moves actions that would put a limit out of reach, so that every episode keeps every limit.

    An action is let through as it is where the floor it leaves (the cost if all groups after it
    were cut to their minimum) is within every limit. Else it is moved as little as possible:

    * granularity ``"layer"``: to a prune ratio that keeps as many filters as the limits allow.
      (Which of the ratios that keep so many depends on the action; ``last_ratio`` of the
      observation tells it);
    * ``"filter"``: the fewest further filters go, those with the lowest entries first. Where even
      the one with the highest entry costs too much (a black box may depend on which filters stay),
      the criterion's most important filters stay instead, as few as can be: the floor's own, which
      were found to meet the limits before;
    * ``"network"``: all prune ratios move towards the largest by the same, smallest fraction of
      what is left to it.

    ``info["projected"]`` (bool) says whether the action was moved, ``info["executed"]`` (float32,
    shape of the action) what was done instead; both are there in reset as well (False, zeros).

    Budgets that are counted cost microseconds. A black box has to be declared monotone; it then
    measures some compact networks, not recovered, before each decision (about log2 of the group's
    filters where the action is moved, else one), and keeps its limit if it gives equal networks
    equal numbers and is monotone by the structure of a network, not by the values of weights that a
    recovery changes: the floor is measured before the recovery, the finished network after it.
    Put it inside `DiscreteRatios` and `BinaryFilters`.

    >>> env = ProjectionWrapper(gym.make("PruneVGG-v0", budgets={"params": 0.1}))
    >>> _ = env.reset(seed=0)
    >>> for _ in range(8):
    ...     *_, info = env.step(np.array([-1.0], dtype=np.float32))  # keep everything
    >>> info["feasible"], info["projected"]
    (True, True)

    Args:
        env: a pruning environment that takes a box of numbers.
        mode: ``"clip"`` moves infeasible actions only. ``"scale"`` (granularity ``"layer"``) moves
            all of them: -1 becomes what ``"clip"`` makes of it, 1 is the largest prune ratio, and
            what is between is spread evenly, so that no two actions come to the same prune ratio
            and a policy always learns from what it does. It is easier to learn with where limits
            are tight.

    Raises:
        ValueError: a budget that is not monotone, another action space, or an unknown mode.
        TypeError: no pruning environment.
    """

    def __init__(self, env: gym.Env[Any, Any], mode: str = "clip") -> None:
        RecordConstructorArgs.__init__(self, mode=mode)
        super().__init__(env)
        self._pruning = pruning_env(env, "ProjectionWrapper")
        if not isinstance(env.action_space, spaces.Box):
            raise InvalidValueError(
                f"ProjectionWrapper: expected a Box action space, got {env.action_space}; put it "
                "inside the wrapper that changes the actions, e.g. "
                "DiscreteRatios(ProjectionWrapper(env))."
            )
        check_choice("mode", mode, MODES)
        if mode == "scale" and self._pruning.granularity != "layer":
            raise InvalidValueError(
                f"ProjectionWrapper: mode='scale' with granularity={self._pruning.granularity!r}; "
                "it needs one prune ratio a step, granularity='layer'. Use mode='clip'."
            )
        self.mode = mode
        check_monotone(self._pruning.problem, "ProjectionWrapper")
        self._costs = Costs(self._pruning.problem)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; nothing is projected yet."""
        observation, info = self.env.reset(seed=seed, options=options)
        nothing = np.zeros(self._pruning.action_space.shape or (), dtype=np.float32)
        return observation, {**info, "projected": False, "executed": nothing}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step by the projected action."""
        executed, projected = self.project(action)
        observation, reward, terminated, truncated, info = self.env.step(executed)
        more = {"projected": projected, "executed": np.array(executed, dtype=np.float32)}
        return observation, reward, terminated, truncated, {**info, **more}

    def project(self, action: Any) -> tuple[Any, bool]:
        """The action that `step` would execute instead, and whether it is another one."""
        if self.mode == "clip":
            return self._clip(action)
        least = self._clip(np.full_like(np.asarray(action, dtype=np.float32), -1.0))[0]
        share = (np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) + 1.0) / 2.0
        scaled = self._clip((least + share * (1.0 - least)).astype(np.float32))[0]
        return scaled, not np.array_equal(scaled, action)

    def _clip(self, action: Any) -> tuple[Any, bool]:
        feasible, n_kept = self._look(action)
        if feasible:
            return action, False
        given = np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)
        if self._pruning.granularity == "filter":
            index = len(self._pruning.problem.groups) - self._pruning.steps_left
            least = min(1, int(self._pruning.floor_counts()[index]))
            moved, last = self._fewer_filters(given, n_kept), n_kept - least
            if not self._look(moved(last))[0]:
                return self._filters_of_floor(given), True
        else:
            moved, last = partial(along_line, given), STEPS
        return moved(first_feasible(lambda step: self._look(moved(step)), last)), True

    def _look(self, action: Any) -> tuple[bool, int]:
        """Whether the floor that an action leaves meets every limit; how many filters it keeps."""
        env = self._pruning
        masks = env.would_keep(action)
        costs = self._costs(env.floor_counts(masks), lambda: env.floor_masks(masks))
        n_kept = int(kept_per_group(masks).sum())
        return bool(np.all(costs <= env.cost_limits)), n_kept

    def _fewer_filters(self, action: Action, n_kept: int) -> Callable[[int], Action]:
        """By step, the action that keeps ``n_kept - step`` filters: those with highest entries."""
        n_filters = len(self._pruning.would_keep(action)[0])
        ranked = np.argsort(-action[:n_filters], kind="stable")
        return lambda step: with_fewer(action, ranked[: n_kept - step].tolist())

    def _filters_of_floor(self, action: Action) -> Action:
        """The action that keeps what the floor keeps of the group: the floor stays where it is."""
        env = self._pruning
        index = len(env.problem.groups) - env.steps_left
        n_kept = int(env.floor_counts()[index])
        return with_fewer(action, range(n_kept))  # entries are in order of importance
