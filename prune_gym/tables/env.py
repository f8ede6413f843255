"""`TablePruneEnv`: `LayerPruneEnv` on a table, some thousand times as fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.base import Info
from prune_gym.envs.checks import check_action
from prune_gym.envs.episode import Decision, Episode, Schedule, draw_limit
from prune_gym.envs.layer import LayerPruneEnv
from prune_gym.envs.observation import Observer
from prune_gym.errors import UsageError
from prune_gym.problem.outcome import Outcome
from prune_gym.pruning.masks import top_mask
from prune_gym.tables.dynamics import Dynamics
from prune_gym.tables.episode import Lists, TableEpisode
from prune_gym.tables.problem import TabularProblem, resolve_tabular
from prune_gym.tables.table import PruneTable

DEFAULT_TABLE = "small-digits-l1"


class TablePruneEnv(LayerPruneEnv):
    """`LayerPruneEnv` whose networks are all judged already: an episode takes microseconds.

    Spaces, observations, rewards, infos, options and methods are those of `LayerPruneEnv`, to the
    bit those of ``LayerPruneEnv(problem)`` with the same `TabularProblem`. Of each group the
    nearest level of the table stays, where the live environment keeps any number of filters.

    ## Action space
    ``Box(-1, 1, (1,), float32)``, as of `LayerPruneEnv`.

    ## Arguments
    ``table`` (a name of `prune_gym.shipped_tables`, a file, or a `PruneTable`) and ``budgets``, or
    ``problem`` (a `TabularProblem`); ``cost_mode``, ``max_ratio``, ``limit_range``, ``history``,
    ``render_mode`` as of `PruneEnv`.

    ## Version history
    * v1: first version.
    """

    def __init__(
        self,
        table: PruneTable | Path | str = DEFAULT_TABLE,
        *,
        problem: TabularProblem | None = None,
        budgets: Mapping[Any, float | str] | None = None,
        cost_mode: str = "terminal",
        max_ratio: float = 1.0,
        limit_range: Sequence[float] | None = None,
        history: bool = False,
        render_mode: str | None = None,
    ) -> None:
        tabular = resolve_tabular(problem, table, budgets)
        self._lists: dict[float, Lists] = {}  # by the largest prune ratio
        self._running_episode: TableEpisode | None = None  # None = it is over
        self._ended: TableEpisode | None = None  # the last one that was finished
        super().__init__(
            problem=tabular,
            cost_mode=cost_mode,
            max_ratio=max_ratio,
            limit_range=limit_range,
            history=history,
            render_mode=render_mode,
        )
        self._running_episode = self._untouched_episode()

    # -- Gymnasium ---------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start a new episode; see `PruneEnv.reset`."""
        gym.Env.reset(self, seed=seed)
        schedule = self._schedule
        if options:
            schedule = {**schedule, **self._checked(options)}
        limit = schedule["limit"]
        if self.limit_range is not None and limit is None:
            limit = draw_limit(self.limit_range, self.np_random)
        episode = self._running_episode = self._start(schedule, limit)
        if self.render_mode == "human":
            self.render()
        return episode.observation(), episode.info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Decide the next group; see `PruneEnv.step`."""
        episode = self._running_episode
        if episode is None:
            raise UsageError("step() after the episode's end: call reset() first.")
        terminated = episode.decide(self._value(action))
        if terminated:
            self._running_episode, self._ended = None, episode
            if self.limit_range is not None:  # as the live environment, for a recovery's seed
                self.np_random.integers(2**31)
        if self.render_mode == "human":
            self.render()
        info = episode.info()
        return episode.observation(), info["accuracy"], terminated, False, info

    def close(self) -> None:
        """Close the window, and forget the last network."""
        super().close()
        self._ended = None

    # -- beyond `PruneEnv` ---------------------------------------------------------------------

    @property
    def tabular(self) -> TabularProblem:
        """The problem, as what it is here."""
        return cast(TabularProblem, self.problem)

    @property
    def schedule(self) -> Schedule:
        """Settings of the episodes to come; see `set_schedule`."""
        return self._schedule

    def checked(self, options: Mapping[str, Any]) -> Schedule:
        """Settings that `reset` takes (raises ValueError for others)."""
        return self._checked(options)

    def dynamics(self, max_ratio: float) -> Dynamics:
        """What decisions lead to where no prune ratio is above ``max_ratio``."""
        observer = Observer(self.tabular, self.limit_range, self.history)
        return Dynamics(self.tabular, observer, max_ratio)

    # -- what `PruneEnv` asks for --------------------------------------------------------------

    @property
    def cost_limits(self) -> NDArray[np.float64]:
        """Limit of each cost, (n_budgets,) float64; with ``limit_range``, of this episode."""
        return np.array(self._latest_episode.constraint.limits, dtype=np.float64)

    @property
    def cost_limit(self) -> float:
        """Limit of the episodic sum of ``info["cost"]``; with ``limit_range`` always 1.0."""
        return self._latest_episode.constraint.limit

    @property
    def steps_left(self) -> int:
        """Steps to the end of the episode, the last of which looks the network up; 0 after it."""
        episode = self._running_episode
        return 0 if episode is None else episode.lists.n_groups - episode.node.depth

    def _running(self, complaint: str) -> Episode:
        if self._running_episode is None:
            raise UsageError(f"{complaint}: call reset() first.")
        return self._replayed(self._running_episode)

    def _last_finished(self) -> tuple[Episode, Outcome]:
        if self._ended is None:
            raise UsageError("no finished episode (or closed): step until `terminated` is True.")
        episode = self._replayed(self._ended)
        outcome = self.problem.evaluate(episode.masks)
        if episode.limit is not None:
            outcome = outcome.judged_by((episode.limit,))
        return replace(episode, outcome=outcome), outcome

    @property
    def _latest(self) -> Episode:
        if self._running_episode is None and self._ended is not None:
            return self._last_finished()[0]
        return self._replayed(self._latest_episode)

    # -- inside ------------------------------------------------------------------------------

    @property
    def _latest_episode(self) -> TableEpisode:
        return self._running_episode or self._ended or self._untouched_episode()

    def _untouched_episode(self) -> TableEpisode:
        limit = None if self.limit_range is None else self.limit_range[1]
        return self._start(self._schedule, limit)

    def _start(self, schedule: Schedule, limit: float | None) -> TableEpisode:
        ratio = float(schedule["max_ratio"])
        if ratio not in self._lists:
            is_dense = self.cost_mode == "dense"
            dynamics = self.dynamics(ratio)
            self._lists[ratio] = Lists(self.tabular, dynamics, self.limit_range, is_dense)
        return TableEpisode(self._lists[ratio], schedule, limit)

    def _replayed(self, episode: TableEpisode) -> Episode:
        """The same decisions as an `Episode`, which other parts of the package know."""
        problem = self.tabular
        decisions = [
            Decision(top_mask(order, levels[level]), ratio)
            for order, levels, level, ratio in zip(
                problem.orders, problem.table.levels, episode.levels, episode.ratios, strict=False
            )
        ]
        same = Episode.begin(problem, episode.schedule, episode.limit)
        return same.after(decisions) if decisions else same

    def _value(self, action: Any) -> float:
        """The number of an action, within [-1, 1]; most actions need no further look."""
        if type(action) is np.ndarray and action.shape == (1,) and action.dtype == np.float32:
            value: float = action.item()
            if -1.0 <= value <= 1.0:
                return value
        return float(check_action(action, self.action_space.shape)[0])
