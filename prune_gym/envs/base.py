"""The base environment: the CMDP contract in one place. A granularity overrides one hook."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from prune_gym.envs.arguments import (
    check_action,
    check_choice,
    check_dense,
    check_schedule,
    check_structure,
    resolve_problem,
)
from prune_gym.envs.observation import Observer
from prune_gym.outcome import Outcome
from prune_gym.problem import PruningProblem
from prune_gym.pruning.masks import Mask, Masks, kept_count, top_mask
from prune_gym.sharing import SharedProblem

COST_MODES = ("terminal", "dense")
RENDER_MODES = ("ansi", "rgb_array", "human")

Info = dict[str, Any]


class PruneEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Decide filter group after filter group; the finished network is judged at the end.

    Subclasses give a docstring, an action space and `_decide`.

    Args:
        problem: a `PruningProblem`, or a handle of `prune_gym.share` on one; None builds one from
            ``problem_arguments``.
        cost_mode: ``"terminal"`` charges the cost at the last step; ``"dense"`` charges the growth
            of the floor (the cost if all undecided groups are cut to their minimum) at every step
            and sums to the same.
        max_ratio: largest prune ratio of a group, in (0, 1].
        render_mode: ``"ansi"``, ``"rgb_array"``, ``"human"`` or None.
        problem_arguments: what `prune_gym.make_problem` takes.

    Raises:
        ValueError: a bad argument, or a limit that cannot be reached (names the floor).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
    }
    granularity: ClassVar[str]
    structures: ClassVar[tuple[str, ...]] = ("filter", "weight")

    def __init__(
        self,
        problem: PruningProblem | SharedProblem | None = None,
        *,
        cost_mode: str = "terminal",
        max_ratio: float = 1.0,
        render_mode: str | None = None,
        **problem_arguments: Any,
    ) -> None:
        self.problem = resolve_problem(problem, problem_arguments)
        self.problem.prepare()
        check_choice("cost_mode", cost_mode, COST_MODES)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        check_structure(self.problem, self.granularity, self.structures)
        check_dense(self.problem, cost_mode)
        self.cost_mode = cost_mode
        self.render_mode = render_mode
        self.observer = Observer(self.problem)
        self.observation_space = spaces.Box(0.0, 1.0, (self.observer.size,), np.float32)
        self._window: Any = None
        self._outcome: Outcome | None = None  # of this episode, once it is finished
        self._last: Outcome | None = None  # of the last finished episode
        self._last_masks: Masks = ()
        self._schedule: dict[str, Any] = {"recovery_steps": self.problem.recovery_steps}
        self.set_schedule(max_ratio=max_ratio)
        self._begin({})

    # -- the constraint ----------------------------------------------------------------------

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the budgets."""
        return self.problem.names

    @property
    def cost_limits(self) -> NDArray[np.float64]:
        """Limit of each cost, (n_budgets,) float64."""
        return np.array(self.problem.limits, dtype=np.float64)

    @property
    def cost_limit(self) -> float:
        """Limit of the episodic sum of ``info["cost"]``."""
        return self.problem.cost_limit

    # -- Gymnasium ---------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start a new episode with the unpruned network.

        Args:
            seed: of ``np_random``.
            options: ``max_ratio`` and ``recovery_steps`` for this episode only.
        """
        super().reset(seed=seed)
        self._begin(self._checked_schedule(options or {}))
        if self.render_mode == "human":
            self.render()
        return self._observe(), self._info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Decide the next group (or all of them); judge the network after the last one."""
        if self._masks is None:
            raise RuntimeError("step() after the episode's end: call reset() first.")
        for mask, ratio in self._decide(check_action(action, self.action_space.shape)):
            self._counts[len(self._ratios)] = np.count_nonzero(mask)
            self._masks.append(mask)
            self._ratios.append(ratio)
        terminated = len(self._masks) == len(self.problem.groups)
        if terminated:
            self._finish()
        self._charge()
        reward = self._outcome.accuracy if self._outcome else 0.0
        if self.render_mode == "human":
            self.render()
        return self._observe(), reward, terminated, False, self._info()

    def render(self) -> Any:
        """A picture (or text) of what each layer keeps so far.

        Returns:
            str for ``"ansi"``; (height, width, 3) uint8 for ``"rgb_array"``; None for ``"human"``.
        """
        from prune_gym import rendering

        if self.render_mode is None:
            gym.logger.warn("render() without render_mode: gym.make(..., render_mode='ansi').")
            return None
        rows = [
            (group.name, group.n_filters, self._shown(index))
            for index, group in enumerate(self.problem.groups)
        ]
        title = self._title()
        if self.render_mode == "ansi":
            return rendering.as_text(rows, title)
        if self.render_mode == "rgb_array":
            return rendering.as_image(rows, title)
        self._window = rendering.show(rows, title, self._window)
        return None

    def close(self) -> None:
        """Free the last network and close the window."""
        if self._window is not None:
            self._window.close()
            self._window = None
        self._outcome, self._last = None, None

    @property
    def steps_left(self) -> int:
        """Steps to the end of the episode, the last of which judges the network."""
        return 0 if self._masks is None else len(self.problem.groups) - len(self._masks)

    # -- beyond Gymnasium --------------------------------------------------------------------

    def compact_network(self) -> nn.Module:
        """The compact network of the last finished episode, recovered, in evaluation mode.

        Raises:
            RuntimeError: no episode is finished.
        """
        return self.last_outcome().network

    def last_outcome(self) -> Outcome:
        """The outcome of the last finished episode (RuntimeError if there is none)."""
        if self._last is None:
            raise RuntimeError("no finished episode (or closed): step until `terminated` is True.")
        return self._last

    def last_masks(self) -> Masks:
        """Keep masks of the last finished episode (RuntimeError if there is none)."""
        self.last_outcome()
        return self._last_masks

    def set_schedule(self, **settings: Any) -> None:
        """Change ``max_ratio`` or ``recovery_steps`` from the next episode on.

        For training schedules: call it from a callback, e.g. ``vec_env.env_method("set_schedule",
        max_ratio=0.95)``. Nothing in the environment changes by itself.
        """
        self._schedule = {**self._schedule, **self._checked_schedule(settings)}

    # -- the hook ----------------------------------------------------------------------------

    @abstractmethod
    def _decide(self, action: NDArray[np.float32]) -> list[tuple[Mask, float]]:
        """Keep mask and prune ratio of each group that this action decides."""

    def _by_ratio(self, index: int, action: float) -> tuple[Mask, float]:
        """Mask and ratio of group ``index`` for an action in [-1, 1]."""
        ratio = 0.5 * (float(action) + 1.0) * float(self._now["max_ratio"])
        count = kept_count(ratio, int(self.problem.sizes[index]), self.problem.round_to)
        return top_mask(self.problem.orders[index], count), ratio

    # -- inside ------------------------------------------------------------------------------

    def _begin(self, options: dict[str, Any]) -> None:
        self._now = {**self._schedule, **options}
        self._minimum = self._smallest(self._now["max_ratio"])
        self._masks: list[Mask] | None = []
        self._ratios: list[float] = []
        self._counts = self.problem.sizes.copy()
        self._outcome = None
        self._charged = np.zeros(len(self.problem.budgets))
        self._charged_scalar = 0.0
        self._costs = np.zeros(len(self.problem.budgets))
        self._cost = 0.0

    def _finish(self) -> None:
        masks, self._masks = tuple(self._masks or ()), None  # over, even if a budget raises
        seed = int(self.np_random.integers(2**31))
        outcome = self.problem.evaluate(
            masks, seed=seed, recovery_steps=int(self._now["recovery_steps"])
        )
        self._outcome = self._last = outcome
        self._last_masks = masks

    def _charge(self) -> None:
        """Set this step's cost: what the episode owes so far minus what it was charged."""
        if self._outcome is not None:
            owed = np.array(list(self._outcome.costs.values()))
        elif self.cost_mode == "dense":
            open_ = np.arange(len(self._counts)) >= len(self._ratios)
            floor = np.where(open_, self._minimum, self._counts)
            owed = self._floor_costs(floor)
        else:
            owed = self._charged
        scalar = self.problem.scalar_cost(owed) if owed is not self._charged else 0.0
        self._costs, self._charged = owed - self._charged, owed
        self._cost, self._charged_scalar = scalar - self._charged_scalar, scalar

    def _floor_costs(self, floor: NDArray[np.int64]) -> NDArray[np.float64]:
        """Costs with so many filters per group, those of decided groups being the chosen ones."""
        if all(budget.counted is not None for budget in self.problem.budgets):
            return self.problem.counted_costs(floor)
        masks = (*(self._masks or ()), *self.problem.masks_of(floor)[len(self._ratios) :])
        return self.problem.costs(masks)

    def _observe(self) -> NDArray[np.float32]:
        return self.observer(self._counts, self._minimum, len(self._ratios), self._ratios)

    def _info(self) -> Info:
        """The same keys and types at every step; results are zero until the last one."""
        outcome = self._outcome
        kept = self._counts / self.problem.sizes
        info: Info = {
            "cost": float(self._cost),
            "costs": self._costs.astype(np.float32),
            "accuracy": outcome.accuracy if outcome else 0.0,
            "feasible": outcome.feasible if outcome else False,
            "kept": kept.astype(np.float32),
        }
        for index, name in enumerate(self.cost_names):
            info[f"cost_{name}"] = float(self._costs[index])
            info[name] = outcome.values[name] if outcome else 0.0
        return info

    def _smallest(self, max_ratio: float) -> NDArray[np.int64]:
        """Fewest filters per group that actions can reach."""
        return self.problem.kept_counts(np.full(len(self.problem.groups), max_ratio))

    def _checked_schedule(self, settings: dict[str, Any]) -> dict[str, Any]:
        check_schedule(settings)
        if settings.get("max_ratio") not in (None, self._schedule.get("max_ratio")):
            self.problem.check_reachable(self._smallest(settings["max_ratio"]))
        return dict(settings)

    def _shown(self, index: int) -> Mask | None:
        masks = self._last_masks if self._masks is None else self._masks
        return masks[index] if index < len(masks) else None

    def _title(self) -> str:
        costs = self.problem.counted_costs(self._counts)
        used = "  ".join(
            f"{name} {cost:.3f} of {limit:g}"
            for name, cost, limit in zip(self.cost_names, costs, self.problem.limits, strict=True)
        )
        return f"{used}  accuracy {self._outcome.accuracy:.3f}" if self._outcome else used
