"""The base environment: the CMDP contract in one place. A granularity overrides one hook."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from prune_gym.envs.checks import (
    check_action,
    check_choice,
    check_dense,
    check_schedule,
    check_structure,
    resolve_problem,
)
from prune_gym.envs.costs import Ledger, check_limit, check_limit_range, draw_limit
from prune_gym.envs.observation import Observer
from prune_gym.problem.costs import Constraint
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import SharedProblem
from prune_gym.pruning.masks import Mask, Masks, kept_count, top_mask

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
        limit_range: lowest and highest limit of an episode, e.g. ``(0.05, 0.4)``. The limit of the
            one budget is then drawn at each reset, evenly on a log scale, and observed, and
            ``info["cost"]`` is relative to it. None = the problem's limits, always.
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
        limit_range: Sequence[float] | None = None,
        render_mode: str | None = None,
        **problem_arguments: Any,
    ) -> None:
        self.problem = resolve_problem(problem, problem_arguments)
        check_choice("cost_mode", cost_mode, COST_MODES)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        check_structure(self.problem, self.granularity, self.structures)
        check_dense(self.problem, cost_mode)
        self.cost_mode = cost_mode
        self.render_mode = render_mode
        self.limit_range = check_limit_range(limit_range, self.problem)
        self.observer = Observer(self.problem, self.limit_range)
        self.observation_space = spaces.Box(0.0, 1.0, (self.observer.size,), np.float32)
        self._window: Any = None
        self._outcome: Outcome | None = None  # of this episode, once it is finished
        self._last: Outcome | None = None  # of the last finished episode
        self._last_masks: Masks = ()
        self._schedule: dict[str, Any] = {
            "recovery_steps": self.problem.recovery_steps,
            "limit": None,
        }
        self.set_schedule(max_ratio=max_ratio)
        self._begin({} if self.limit_range is None else {"limit": self.limit_range[1]})

    # -- the constraint ----------------------------------------------------------------------

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the budgets."""
        return self.problem.names

    @property
    def cost_limits(self) -> NDArray[np.float64]:
        """Limit of each cost, (n_budgets,) float64; with ``limit_range``, of this episode."""
        return np.array(self._drawn_limits() or self.problem.limits, dtype=np.float64)

    @property
    def cost_limit(self) -> float:
        """Limit of the episodic sum of ``info["cost"]``; with ``limit_range`` always 1.0."""
        return self._constraint.limit

    # -- Gymnasium ---------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start a new episode with the unpruned network.

        Args:
            seed: of ``np_random``.
            options: ``max_ratio``, ``recovery_steps`` and, with ``limit_range``, ``limit`` for
                this episode only.
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
        self._ledger.charge(self._owed())
        reward = self._outcome.accuracy if self._outcome else 0.0
        if self.render_mode == "human":
            self.render()
        return self._observe(), reward, terminated, False, self._info()

    def render(self) -> Any:
        """A picture (or text) of what each layer keeps so far.

        Returns:
            str for ``"ansi"``; (height, width, 3) uint8 for ``"rgb_array"``; None for ``"human"``.
        """
        from prune_gym.envs import rendering

        if self.render_mode is None:
            gym.logger.warn("render() without render_mode: gym.make(..., render_mode='ansi').")
            return None
        masks = self._last_masks if self._masks is None else self._masks
        rows = [
            (group.name, group.n_filters, masks[index] if index < len(masks) else None)
            for index, group in enumerate(self.problem.groups)
        ]
        costs = self.problem.counted_costs(self._counts)
        accuracy = self._outcome.accuracy if self._outcome else None
        title = rendering.title(self.cost_names, costs, self.cost_limits, accuracy)
        picture, self._window = rendering.render(self.render_mode, rows, title, self._window)
        return picture

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
        """The last finished episode's compact network, recovered (RuntimeError if none is)."""
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
        """Change ``max_ratio``, ``recovery_steps`` or ``limit`` from the next episode on.

        For training schedules: call it from a callback, e.g. ``vec_env.env_method("set_schedule",
        max_ratio=0.95)``. Nothing in the environment changes by itself. ``limit=None`` draws limits
        again.
        """
        self._schedule = {**self._schedule, **self._checked_schedule(settings)}

    # -- what would be -----------------------------------------------------------------------

    def would_keep(self, action: NDArray[np.float32]) -> Masks:
        """Keep masks of the groups that `step` would decide by this action; nothing changes."""
        if self._masks is None:
            raise RuntimeError("the episode has ended: call reset() first.")
        decisions = self._decide(check_action(action, self.action_space.shape))
        return tuple(mask for mask, _ in decisions)

    def floor_counts(self, masks: Sequence[Mask] = ()) -> NDArray[np.int64]:
        """Filters per group, (n_groups,), of the smallest network that could still be reached.

        Args:
            masks: of the groups that are next in turn, as if they were decided so.
        """
        decided = len(self._ratios)
        counts = np.where(np.arange(len(self._counts)) < decided, self._counts, self._minimum)
        counts[decided : decided + len(masks)] = [np.count_nonzero(mask) for mask in masks]
        return counts

    def floor_masks(self, masks: Sequence[Mask] = ()) -> Masks:
        """Keep masks of the network of `floor_counts`."""
        known = (*(self._masks or ()), *masks)
        return (*known, *self.problem.masks_of(self._minimum)[len(known) :])

    def floor_costs(self, masks: Sequence[Mask] = ()) -> NDArray[np.float64]:
        """Costs of the network of `floor_counts`, (n_budgets,); black boxes measure it."""
        if all(budget.counted is not None for budget in self.problem.budgets):
            return self.problem.counted_costs(self.floor_counts(masks))
        return self.problem.costs(self.floor_masks(masks))

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
        if self.limit_range is not None and self._now["limit"] is None:
            self._now["limit"] = draw_limit(self.limit_range, self.np_random)
        self._minimum = self._smallest(self._now["max_ratio"])
        self._masks: list[Mask] | None = []
        self._ratios: list[float] = []
        self._counts = self.problem.sizes.copy()
        self._outcome = None
        self._ledger = Ledger(self._constraint)

    def _finish(self) -> None:
        masks, self._masks = tuple(self._masks or ()), None  # over, even if a budget raises
        seed = int(self.np_random.integers(2**31))
        outcome = self.problem.evaluate(
            masks, seed=seed, recovery_steps=int(self._now["recovery_steps"])
        )
        limits = self._drawn_limits()
        outcome = outcome if limits is None else outcome.judged_by(limits)
        self._outcome = self._last = outcome
        self._last_masks = masks

    def _owed(self) -> NDArray[np.float64] | None:
        """What the episode owes so far, (n_budgets,); None = nothing before its end."""
        if self._outcome is not None:
            return self._outcome.cost_array
        return self.floor_costs() if self.cost_mode == "dense" else None

    @property
    def _constraint(self) -> Constraint:
        """Of this episode."""
        limits = self._drawn_limits()
        return self.problem.constraint if limits is None else Constraint(limits, is_relative=True)

    def _drawn_limits(self) -> tuple[float, ...] | None:
        return None if self.limit_range is None else (float(self._now["limit"]),)

    def _observe(self) -> NDArray[np.float32]:
        state = self._counts, self._minimum, len(self._ratios), self._ratios
        return self.observer(*state, self.cost_limits)

    def _info(self) -> Info:
        """The same keys and types at every step; results are zero until the last one."""
        outcome = self._outcome
        kept = self._counts / self.problem.sizes
        info: Info = {
            "cost": float(self._ledger.cost),
            "costs": self._ledger.costs.astype(np.float32),
            "accuracy": outcome.accuracy if outcome else 0.0,
            "feasible": outcome.feasible if outcome else False,
            "kept": kept.astype(np.float32),
        }
        if self.limit_range is not None:
            info["limit"] = float(self._now["limit"])
        for index, name in enumerate(self.cost_names):
            info[f"cost_{name}"] = float(self._ledger.costs[index])
            info[name] = outcome.values[name] if outcome else 0.0
        return info

    def _smallest(self, max_ratio: float) -> NDArray[np.int64]:
        """Fewest filters per group that actions can reach."""
        return self.problem.kept_counts(np.full(len(self.problem.groups), max_ratio))

    def _checked_schedule(self, settings: dict[str, Any]) -> dict[str, Any]:
        check_schedule(settings)
        check_limit(settings.get("limit"), self.limit_range)
        if settings.get("max_ratio") not in (None, self._schedule.get("max_ratio")):
            lowest = None if self.limit_range is None else self.limit_range[:1]
            self.problem.check_reachable(self._smallest(settings["max_ratio"]), lowest)
        return dict(settings)
