"""`TableVectorEnv`: thousands of episodes on a table at once, in NumPy."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from prune_gym.envs.checks import check_action, check_max_episode_steps
from prune_gym.envs.episode import Schedule, draw_limit
from prune_gym.errors import InvalidTypeError, InvalidValueError, UsageError
from prune_gym.tables.dynamics import N_FACTS, N_LAYER, Dynamics
from prune_gym.tables.env import DEFAULT_TABLE, TablePruneEnv
from prune_gym.tables.problem import TabularProblem
from prune_gym.tables.table import PruneTable
from prune_gym.utils.arguments import MOST_ENVS, whole_number
from prune_gym.utils.registry import unknown_name

AUTORESET_MODES = ("NextStep", "SameStep", "Disabled")  # names that Gymnasium gives them
Infos = dict[str, Any]
Rows = NDArray[np.int64]


class TableVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """A vector of `TablePruneEnv`: equal to Gymnasium's `SyncVectorEnv` of them, but for the time.

    Args:
        num_envs: number of environments.
        table: see `TablePruneEnv`.
        autoreset_mode: when an episode that has ended begins anew: ``"NextStep"``, ``"SameStep"``
            (its last observation and info are in ``infos["final_obs"]`` and
            ``infos["final_info"]``) or ``"Disabled"`` (at ``reset(options={"reset_mask": ...})``),
            or Gymnasium's `AutoresetMode`.
        max_episode_steps: after which an episode is truncated, as by Gymnasium's `TimeLimit`; None
            = never.
        arguments: of `TablePruneEnv`: ``problem``, ``budgets``, ``cost_mode``, ``max_ratio``,
            ``limit_range``, ``history``.

    Raises:
        ValueError: a bad argument.

    >>> envs = TableVectorEnv(1000, "tiny_vgg-shapes-taylor")
    >>> observations, infos = envs.reset(seed=0)
    >>> actions = np.zeros((1000, 1), dtype=np.float32)
    >>> for _ in range(6):
    ...     observations, rewards, terminations, truncations, infos = envs.step(actions)
    >>> bool(terminations.all()), observations.shape
    (True, (1000, 14))
    """

    def __init__(
        self,
        num_envs: int = 1,
        table: PruneTable | Path | str = DEFAULT_TABLE,
        *,
        autoreset_mode: Any = "NextStep",
        problem: TabularProblem | None = None,
        budgets: Mapping[Any, float | str] | None = None,
        cost_mode: str = "terminal",
        max_ratio: float = 1.0,
        limit_range: Sequence[float] | None = None,
        history: bool = False,
        render_mode: None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        whole_number("num_envs", num_envs, 1, MOST_ENVS)
        mode = getattr(autoreset_mode, "value", autoreset_mode)
        if mode not in AUTORESET_MODES:
            raise unknown_name("autoreset_mode", mode, list(AUTORESET_MODES))
        self.single = TablePruneEnv(
            table,
            problem=problem,
            budgets=budgets,
            cost_mode=cost_mode,
            max_ratio=max_ratio,
            limit_range=limit_range,
            history=history,
            render_mode=render_mode,
        )
        self.num_envs, self.problem = int(num_envs), self.single.problem
        self.single_observation_space = self.single.observation_space
        self.single_action_space = self.single.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.metadata = {**self.single.metadata, "autoreset_mode": _as_gymnasium_says(mode)}
        self._mode = mode
        self._generators: dict[int, np.random.Generator] = {}  # of rows that draw limits
        self._state = _State(self.num_envs, self.single)
        # steps after which an episode is truncated; no episode has so many where there is no limit
        self._most_steps = check_max_episode_steps(max_episode_steps) or self._state.n_groups + 1

    @property
    def cost_limit(self) -> float:
        """Limit of the episodic sum of ``info["cost"]`` of each environment."""
        return self.single.cost_limit

    # -- Gymnasium ---------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], Infos]:
        """Reset all environments, or those of ``options["reset_mask"]``, (num_envs,) bool.

        Args:
            seed: as of `SyncVectorEnv`: one number (counted up from environment to environment), or
                one each. It matters with ``limit_range`` only: nothing else is drawn.
            options: of `PruneEnv.reset`, for all that are reset.
        """
        options = dict(options or {})
        mask = _checked_mask(options.pop("reset_mask", None), self.num_envs)
        self._seed(seed, mask)
        rows = np.flatnonzero(mask)
        self._begin(rows, {**self.single.schedule, **self.single.checked(options)})
        return self._state.observations(), self._state.infos(mask)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], Infos]:
        """Decide the next group of every environment; as `SyncVectorEnv` does."""
        state = self._state
        values = _checked_actions(actions, (self.num_envs, 1))
        over = self._is_done()
        if over.any() and self._mode != "NextStep":
            raise UsageError(
                f"step() after the end of {int(over.sum())} episodes: reset those first, "
                'reset(options={"reset_mask": terminations | truncations}).'
            )
        if over.any():
            self._begin(np.flatnonzero(over), self.single.schedule)
        going = np.flatnonzero(~over)
        state.decide(going, values[going])
        ended, truncations = state.is_over(), state.position >= self._most_steps
        done = ended | truncations
        if self.single.cost_mode == "dense":
            state.charge(np.flatnonzero(~over & ~ended))
        state.judge(np.flatnonzero(ended))
        rewards, infos = state.accuracy.copy(), {}
        every = np.ones(self.num_envs, dtype=np.bool_)
        if self.single.limit_range is not None:
            self._draw_as_live(np.flatnonzero(ended))
        if done.any() and self._mode == "SameStep":
            infos = state.final(done)
            self._begin(np.flatnonzero(done), self.single.schedule)
        infos.update(state.infos(every))
        return state.observations(), rewards, ended, truncations, infos

    # -- inside ------------------------------------------------------------------------------

    def _is_done(self) -> NDArray[np.bool_]:
        """Which episodes were terminated or truncated."""
        state = self._state
        found: NDArray[np.bool_] = state.is_over() | (state.position >= self._most_steps)
        return found

    def _begin(self, rows: Rows, schedule: Schedule) -> None:
        limit_range, limit = self.single.limit_range, schedule["limit"]
        limits = None
        if limit_range is not None:
            drawn = limit is None
            limits = np.array(
                [
                    draw_limit(limit_range, self._generator(row)) if drawn else limit
                    for row in rows.tolist()
                ]
            )
        self._state.begin(rows, self.single.dynamics(float(schedule["max_ratio"])), limits)

    def _seed(self, seed: Any, mask: NDArray[np.bool_]) -> None:
        seeds = _checked_seeds(seed, self.num_envs)
        if self.single.limit_range is None:
            return
        for row in np.flatnonzero(mask).tolist():
            if seeds[row] is not None:
                self._generators[row] = seeding.np_random(seeds[row])[0]

    def _generator(self, row: int) -> np.random.Generator:
        if row not in self._generators:
            self._generators[row] = seeding.np_random()[0]
        return self._generators[row]

    def _draw_as_live(self, rows: Rows) -> None:
        """A finished episode draws a recovery's seed in the live environment."""
        for row in rows.tolist():
            self._generator(row).integers(2**31)


def _checked_seeds(seed: Any, n: int) -> list[int | None]:
    """Seeds of all environments: one number is counted up."""
    try:
        if seed is None or not isinstance(seed, Iterable):
            return [None if seed is None else operator.index(seed) + i for i in range(n)]
        seeds = [None if one is None else operator.index(one) for one in seed]
    except TypeError:
        raise InvalidValueError(
            f"seed={seed!r}: expected a whole number, {n} of them, or None."
        ) from None
    if len(seeds) != n:
        raise InvalidValueError(f"seed has {len(seeds)} numbers for {n} environments.")
    return seeds


class _State:
    """All episodes, one a row.

    Args:
        n: how many there are.
        single: an environment like each of them.
    """

    def __init__(self, n: int, single: TablePruneEnv) -> None:
        self.single, self.n = single, n
        problem = single.tabular
        self.table, self.names = problem.table, problem.names
        self.unpruned, self.limits_of_all = problem.unpruned_values, np.array(problem.limits)
        n_groups, n_budgets = len(problem.groups), len(problem.budgets)
        self.n_groups, self.n_budgets = n_groups, n_budgets
        self.position = np.zeros(n, dtype=np.int64)
        self.number = np.zeros(n, dtype=np.int64)
        self.smallest = np.zeros((n, n_groups), dtype=np.int64)  # numbers of the floor's levels
        self.most = np.zeros((n, n_groups))
        self.max_ratio = np.ones(n)
        self.ratio, self.sum_ratios = np.zeros(n), np.zeros(n)
        self.kept = np.ones((n, n_groups), dtype=np.float32)
        self.last_kept = np.ones(n)
        self.floor, self.ceiling = np.zeros((n, n_budgets)), np.zeros((n, n_budgets))
        self.floor_linear = np.zeros((n, n_budgets, n_groups))
        self.linear = np.zeros((n, n_budgets, n_groups))
        self.limits = np.tile(self.limits_of_all, (n, 1))
        self.limit, self.shown_limit = np.zeros(n), np.zeros(n)
        self.cost, self.total_cost = np.zeros(n), np.zeros(n)
        self.costs, self.total_costs = np.zeros((n, n_budgets)), np.zeros((n, n_budgets))
        self.accuracy, self.feasible = np.zeros(n), np.zeros(n, dtype=np.bool_)
        self.values = np.zeros((n, n_budgets))
        self.fixed = single.dynamics(1.0)  # what does not depend on the largest ratio
        self.dropped, self.share = _padded(self.fixed.dropped), _padded(self.fixed.share)
        self.level = _padded(self.fixed.level)
        self.sizes = problem.sizes.astype(np.float64)
        self.begin(np.arange(n), self.fixed, None)

    def is_over(self) -> NDArray[np.bool_]:
        """Which episodes have ended."""
        found: NDArray[np.bool_] = self.position == self.n_groups
        return found

    def begin(self, rows: Rows, dynamics: Dynamics, limits: NDArray[np.float64] | None) -> None:
        """Begin episodes anew."""
        self.position[rows] = self.number[rows] = 0
        self.smallest[rows] = np.array(dynamics.smallest) * dynamics.stride
        self.most[rows], self.max_ratio[rows] = dynamics.most, dynamics.max_ratio
        self.ratio[rows] = self.sum_ratios[rows] = 0.0
        self.kept[rows] = 1.0
        self.last_kept[rows] = 1.0
        self.floor[rows], self.ceiling[rows] = dynamics.floor, dynamics.constant
        self.floor_linear[rows], self.linear[rows] = dynamics.floor_linear, dynamics.linear
        for charged in (self.cost, self.total_cost, self.costs, self.total_costs, self.values):
            charged[rows] = 0.0
        self.accuracy[rows], self.feasible[rows] = 0.0, False
        if limits is not None and self.single.limit_range is not None:
            low, high = self.single.limit_range
            self.limit[rows], self.limits[rows, 0] = limits, limits
            self.shown_limit[rows] = (np.log(limits / low) / np.log(high / low)).clip(0.0, 1.0)

    def decide(self, rows: Rows, values: NDArray[np.float64]) -> None:
        """Decide the next group of episodes by numbers of actions, (n_rows,) in [-1, 1]."""
        fixed, group = self.fixed, self.position[rows]
        ratio = 0.5 * (values + 1.0) * self.max_ratio[rows]
        wanted = np.rint((1.0 - ratio) * self.sizes[group]).astype(np.int64)
        level = self.level[group, wanted].astype(np.int64)
        dropped, most = self.dropped[group, level], self.most[rows, group]
        less = (dropped - most)[:, None]
        square = fixed.diagonal[:, group].T  # (n_rows, n_budgets)
        here = np.take_along_axis(self.floor_linear[rows], group[:, None, None], axis=2)[..., 0]
        self.floor[rows] += less * (here + square * (dropped + most)[:, None])
        here = np.take_along_axis(self.linear[rows], group[:, None, None], axis=2)[..., 0]
        self.ceiling[rows] += dropped[:, None] * (here + square * dropped[:, None])
        pairs = fixed.pairs[:, group].transpose(1, 0, 2)  # (n_rows, n_budgets, n_groups)
        self.floor_linear[rows] += pairs * less[:, :, None]
        self.linear[rows] += pairs * dropped[:, None, None]
        self.number[rows] += level * np.array(fixed.stride)[group]
        self.smallest[rows, group] = 0
        share = self.share[group, level]
        self.kept[rows, group] = share
        self.last_kept[rows] = share
        self.ratio[rows] = ratio
        self.sum_ratios[rows] += ratio
        self.position[rows] += 1
        self.cost[rows] = 0.0
        self.costs[rows] = 0.0

    def charge(self, rows: Rows) -> None:
        """Charge what episodes owe since their reset, less what was charged."""
        numbers = self.number[rows] + self.smallest[rows].sum(axis=1)
        values = self.floor[rows]
        for budget, name in enumerate(self.names):
            if name in self.table.measured:
                values[:, budget] = self.table.measured[name].flat[numbers]
        owed = values / self.unpruned  # (n_rows, n_budgets)
        is_ratio = self.single.limit_range is not None or self.n_budgets > 1
        cost = (owed / self.limits[rows]).max(axis=1) if is_ratio else owed[:, 0]
        self.values[rows] = values
        self.cost[rows], self.costs[rows] = (
            cost - self.total_cost[rows],
            owed - self.total_costs[rows],
        )
        self.total_cost[rows], self.total_costs[rows] = cost, owed

    def judge(self, rows: Rows) -> None:
        """Look finished networks up, and charge them."""
        if rows.size:
            right = self.table.right_of(self.number[rows])
            self.accuracy[rows] = right / self.table.n_examples[0]
            self.charge(rows)
            self.feasible[rows] = (self.total_costs[rows] <= self.limits[rows]).all(axis=1)

    def observations(self) -> NDArray[np.float32]:
        """(n, n_features) float32; see `prune_gym.envs.observation`."""
        fixed, position = self.fixed, self.position
        found = fixed.rows[position]
        begun = position > 0
        found[begun, N_FACTS] = self.ratio[begun]
        found[begun, N_FACTS + 1] = self.last_kept[begun]
        found[begun, N_FACTS + 2] = self.sum_ratios[begun] / self.n_groups
        group = np.minimum(position, self.n_groups - 1)
        most = self.most[np.arange(self.n), group][:, None]
        slope = np.take_along_axis(self.linear, group[:, None, None], axis=2)[..., 0]
        slope += fixed.diagonal[:, group].T * most
        floor, top = self.floor / fixed.constant, self.ceiling / fixed.constant
        weight = top - (self.ceiling + most * slope) / fixed.constant
        weight[position == self.n_groups] = 0.0
        columns = floor, np.minimum(1.0, floor / self.limits), top, top - floor, weight
        n = 5 * self.n_budgets
        found[:, N_LAYER : N_LAYER + n] = np.stack(columns, axis=-1).reshape(self.n, n)
        if self.single.limit_range is not None:
            found[:, N_LAYER + n] = self.shown_limit
        found[:, fixed.shown] = self.kept[:, : fixed.shown.stop - fixed.shown.start]
        return found

    def infos(self, mask: NDArray[np.bool_]) -> Infos:
        """Infos of the episodes of a mask, as Gymnasium's vectors give them."""
        over = self.is_over()
        columns: Infos = {
            "cost": self.cost,
            "costs": self.costs.astype(np.float32),
            "accuracy": self.accuracy,
            "feasible": self.feasible,
            "kept": self.kept,
        }
        if self.single.limit_range is not None:
            columns["limit"] = self.limit
        for budget, name in enumerate(self.names):
            columns[f"cost_{name}"] = self.costs[:, budget]
            columns[name] = np.where(over, self.values[:, budget], 0.0)
        found: Infos = {}
        for name, column in columns.items():
            found[name] = column.copy()
            found[name][~mask] = 0
            found[f"_{name}"] = mask.copy()
        return found

    def final(self, ended: NDArray[np.bool_]) -> Infos:
        """Last observations and infos of episodes that begin anew in the same step."""
        last = np.full(self.n, None, dtype=object)
        observations = self.observations()
        for row in np.flatnonzero(ended).tolist():
            last[row] = observations[row]
        infos = self.infos(ended)
        return {
            **{"final_obs": last, "_final_obs": ended.copy()},
            **{"final_info": infos, "_final_info": ended.copy()},
        }


def _padded(rows: list[NDArray[Any]]) -> NDArray[Any]:
    """Rows of unequal lengths as one array, zeros behind the shorter ones."""
    found = np.zeros((len(rows), max(map(len, rows))), dtype=np.result_type(*rows))
    for row, own in zip(found, rows, strict=True):
        row[: len(own)] = own
    return found


def _as_gymnasium_says(mode: str) -> Any:
    """A member of Gymnasium's `AutoresetMode`; 1.0 has none, and knows ``"NextStep"`` only."""
    modes = getattr(gymnasium.vector, "AutoresetMode", None)
    return mode if modes is None else modes(mode)


def _checked_mask(mask: Any, n: int) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(n, dtype=np.bool_)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n,):
        raise InvalidTypeError(f"reset_mask={mask!r}: expected a bool array of shape ({n},).")
    if not mask.any():
        raise InvalidValueError("reset_mask names no environment; give one at least.")
    return mask


def _checked_actions(actions: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers of actions, (n,) float64 in [-1, 1]."""
    return check_action(actions, shape)[:, 0].astype(np.float64)
