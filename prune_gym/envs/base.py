"""The base environment: the CMDP contract in one place. A granularity overrides two hooks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from prune_gym.envs import rendering
from prune_gym.envs.arguments import ProblemArguments, resolve_problem, shows_keywords_of
from prune_gym.envs.checks import (
    check_action,
    check_choice,
    check_dense,
    check_flag,
    check_limit,
    check_limit_range,
    check_schedule,
    check_structure,
)
from prune_gym.envs.episode import Decision, Episode, Schedule, draw_limit, smallest_counts
from prune_gym.envs.observation import Observer
from prune_gym.envs.prior_observation import PriorObserver
from prune_gym.errors import InvalidTypeError, UsageError
from prune_gym.problem.make import make_problem
from prune_gym.problem.outcome import Outcome
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import SharedProblem
from prune_gym.pruning.masks import Mask, Masks

if TYPE_CHECKING:
    from typing_extensions import Unpack

COST_MODES = ("terminal", "dense")
RENDER_MODES = ("ansi", "rgb_array", "human")

Info = dict[str, Any]


class PruneEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Decide filter group after filter group; the finished network is judged at the end.

    Subclasses give a docstring, `_action_size` and `_decide`.

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
        history: observe the fractions kept of all groups so far, too: (n_groups,) numbers more,
            without which two episodes that look alike may end differently.
        render_mode: ``"ansi"``, ``"rgb_array"``, ``"human"`` or None.
        problem_arguments: what `prune_gym.make_problem` takes (``network``, ``dataset``,
            ``budgets``, ``criterion``, ...), where no ``problem`` is given.

    Raises:
        ValueError: a bad argument, or a limit that cannot be reached (names the floor).
        TypeError: an argument that there is not, or a ``problem`` that is none.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it so
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
    }
    granularity: ClassVar[str]
    decision: ClassVar[str] = "ratio"
    structures: ClassVar[tuple[str, ...]] = ("filter", "weight")

    @shows_keywords_of(make_problem)
    def __init__(
        self,
        problem: PruningProblem | SharedProblem | None = None,
        *,
        cost_mode: str = "terminal",
        max_ratio: float = 1.0,
        limit_range: Sequence[float] | None = None,
        history: bool = False,
        render_mode: str | None = None,
        **problem_arguments: Unpack[ProblemArguments],
    ) -> None:
        self.problem = resolve_problem(problem, problem_arguments)
        check_choice("cost_mode", cost_mode, COST_MODES)
        check_choice("render_mode", render_mode, (None, *RENDER_MODES))
        check_structure(self.problem, self.granularity, self.structures)
        check_dense(self.problem, cost_mode, self.granularity)
        self.cost_mode = cost_mode
        self.render_mode = render_mode
        self.limit_range = check_limit_range(limit_range, self.problem)
        self.history = check_flag("history", history)
        self.observer = self._make_observer()
        self.observation_space = spaces.Box(0.0, 1.0, (self.observer.size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self._action_size(),), np.float32)
        self._window: rendering.Window | None = None
        self._schedule: Schedule = {"recovery_steps": self.problem.recovery_steps, "limit": None}
        self.set_schedule(max_ratio=max_ratio)
        self._episode: Episode | None = self._untouched()  # None = it is over
        self._finished: Episode | None = None  # the last one that was judged

    # -- the constraint ----------------------------------------------------------------------

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Names of the budgets."""
        return self.problem.names

    @property
    def cost_limits(self) -> NDArray[np.float64]:
        """Limit of each cost, (n_budgets,) float64; with ``limit_range``, of this episode."""
        return self._latest.limits

    @property
    def cost_limit(self) -> float:
        """Limit of the episodic sum of ``info["cost"]``; with ``limit_range`` always 1.0."""
        return self._latest.constraint.limit

    # -- Gymnasium ---------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start a new episode with the unpruned network.

        Args:
            seed: of ``np_random``, from which limits and the seeds of recoveries are drawn; None
                goes on with the random numbers there are.
            options: for this episode only: ``max_ratio``, a float in (0, 1]; ``recovery_steps``, an
                int of at least 0; and, with ``limit_range``, ``limit``, a float within it.

        Returns:
            observation: before the first group is decided; see `step`.
            info: the keys of `step`. Nothing is charged yet: costs and results are 0.0, and
                ``kept`` is 1.0 throughout.

        Raises:
            ValueError: an option that is unknown, or not allowed.
        """
        super().reset(seed=seed)
        episode = self._episode = self._begin(self._checked(options or {}))
        if self.render_mode == "human":
            self.render()
        return self.observer(episode), self._info(episode)

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Decide the next group (or all of them); judge the network after the last one.

        Args:
            action: float32 of the action space's shape; what lies outside of [-1, 1] is clipped.

        Returns:
            observation: (n_features,) float32 in [0, 1], before the group that is next; the table
                in `LayerPruneEnv` says what is where.
            reward: Python float: accuracy of the finished network on the validation split, in
                [0, 1], at the last step; 0.0 before.
            terminated: bool, True after the last group.
            truncated: bool, always False: no episode is cut short.
            info: the same keys at every step. What is charged at this step:

                * ``cost``: float, the cost as one number; the undiscounted sum over the episode is
                  to stay at or below ``cost_limit``;
                * ``costs``: (n_budgets,) float32, budget / budget of the unpruned network, in the
                  order of ``cost_names``;
                * ``cost_<budget>``: float, the same by name.

                What the episode came to, 0.0 or False before the last step:

                * ``accuracy``: float, the reward: the accuracy in [0, 1], or what another metric
                  comes to (`prune_gym.tasks.metrics`);
                * ``feasible``: bool, whether every limit is met;
                * ``<budget>``: float, the budget of the finished network in its own unit
                  (``params`` and ``macs`` are counts, ``latency_ms`` is in milliseconds).

                How things stand:

                * ``kept``: (n_groups,) float32 in (0, 1], fraction of filters kept per group, 1.0
                  where it is undecided; 0.0 in residual blocks that went whole (``depth=True``);
                * ``limit``: float in (0, 1], this episode's limit; with ``limit_range`` only.

        Raises:
            UsageError: the episode has ended (a RuntimeError, too).
            ValueError: an action of another shape, or with NaN or infinity in it.
            BudgetError: a budget raised, or gave what cannot be a cost.
        """
        episode = self._running("step() after the episode's end")
        decisions = self._decide(episode, check_action(action, self.action_space.shape))
        episode = episode.after(decisions)
        terminated = episode.steps_left == 0
        episode = self._finish(episode) if terminated else self._go_on(episode)
        reward = episode.outcome.accuracy if episode.outcome else 0.0
        if self.render_mode == "human":
            self.render()
        return self.observer(episode), reward, terminated, False, self._info(episode)

    def render(self) -> Any:
        """A picture (or text) of what each layer keeps so far.

        Returns:
            str for ``"ansi"``; (height, width, 3) uint8 for ``"rgb_array"``; None for ``"human"``.
        """
        if self.render_mode is None:
            gym.logger.warn("render() without render_mode: gym.make(..., render_mode='ansi').")
            return None
        episode = self._latest
        undecided = [None] * episode.steps_left
        groups = zip(self.problem.groups, [*episode.masks, *undecided], strict=True)
        rows = [(group.name, group.n_filters, mask) for group, mask in groups]
        costs = self.problem.counted_costs(episode.counts)
        reward = episode.outcome.accuracy if episode.outcome else None
        metric = str(self.problem.task.metric.name)
        title = rendering.caption(self.cost_names, costs, episode.limits, reward, metric)
        if self.render_mode == "ansi":
            return rendering.as_text(rows, title)
        if self.render_mode == "rgb_array":
            return rendering.as_image(rows, title)
        self._window = self._window or rendering.Window()
        self._window.show(rows, title)
        return None

    def close(self) -> None:
        """Free the last network and close the window."""
        if self._window is not None:
            self._window.close()
            self._window = None
        self._finished = None

    # -- beyond Gymnasium --------------------------------------------------------------------

    @property
    def steps_left(self) -> int:
        """Steps to the end of the episode, the last of which judges the network; 0 after it."""
        return 0 if self._episode is None else self._episode.steps_left

    def compact_network(self) -> nn.Module:
        """The last finished episode's compact network, recovered (UsageError if none is)."""
        return self.last_outcome().network

    def last_outcome(self) -> Outcome:
        """The outcome of the last finished episode (UsageError if there is none)."""
        return self._last_finished()[1]

    def last_masks(self) -> Masks:
        """Keep masks of the last finished episode (UsageError if there is none)."""
        return self._last_finished()[0].masks

    def set_schedule(self, **settings: Unpack[Schedule]) -> None:
        """Change ``max_ratio``, ``recovery_steps`` or ``limit`` from the next episode on.

        For training schedules: call it from a callback, e.g. ``vec_env.env_method("set_schedule",
        max_ratio=0.95)``. Nothing in the environment changes by itself.

        Args:
            settings: ``max_ratio``, a float in (0, 1]; ``recovery_steps``, an int of at least 0;
                and, with ``limit_range``, ``limit``, a float within it (None draws limits again).

        Raises:
            ValueError: a setting that is unknown, or not allowed.
        """
        self._schedule = {**self._schedule, **self._checked(settings)}

    # -- what would be -----------------------------------------------------------------------

    def would_keep(self, action: NDArray[np.float32]) -> Masks:
        """Keep masks of the groups that `step` would decide by this action; nothing changes."""
        episode = self._running("the episode has ended")
        decisions = self._decide(episode, check_action(action, self.action_space.shape))
        return tuple(decision.mask for decision in decisions)

    def floor_counts(self, masks: Sequence[Mask] = ()) -> NDArray[np.int64]:
        """Filters per group, (n_groups,) int64, of the smallest network still to be reached.

        Args:
            masks: of the groups that are next in turn, as if they were decided so.
        """
        return self._latest.floor_counts(masks)

    def floor_masks(self, masks: Sequence[Mask] = ()) -> Masks:
        """Keep masks of the network of `floor_counts`."""
        return self._latest.floor_masks(masks)

    def floor_costs(self, masks: Sequence[Mask] = ()) -> NDArray[np.float64]:
        """Costs of the network of `floor_counts`, (n_budgets,) float64; black boxes measure it."""
        return self._latest.floor_costs(masks)

    # -- the hooks ---------------------------------------------------------------------------

    def _make_observer(self) -> Observer | PriorObserver:
        """What makes the observations; asked for once, by the constructor."""
        return Observer(self.problem, self.limit_range, self.history)

    @abstractmethod
    def _action_size(self) -> int:
        """Numbers in an action."""

    @abstractmethod
    def _decide(self, episode: Episode, action: NDArray[np.float32]) -> list[Decision]:
        """What becomes of each group that this action decides.

        Args:
            episode: so far.
            action: (`_action_size`,) float32 in [-1, 1].
        """

    # -- inside ------------------------------------------------------------------------------

    def _begin(self, options: Schedule) -> Episode:
        schedule: Schedule = {**self._schedule, **options}
        limit = schedule["limit"]
        if self.limit_range is not None and limit is None:
            limit = draw_limit(self.limit_range, self.np_random)
        return Episode.begin(self.problem, schedule, None if limit is None else float(limit))

    def _untouched(self) -> Episode:
        """An episode in which nothing is decided; no random number is drawn for it."""
        return self._begin({} if self.limit_range is None else {"limit": self.limit_range[1]})

    def _running(self, complaint: str) -> Episode:
        if self._episode is None:
            raise UsageError(f"{complaint}: call reset() first.")
        return self._episode

    def _last_finished(self) -> tuple[Episode, Outcome]:
        episode = self._finished
        if episode is None or episode.outcome is None:
            raise UsageError("no finished episode (or closed): step until `terminated` is True.")
        return episode, episode.outcome

    @property
    def _latest(self) -> Episode:
        """The running episode, or the one that has ended."""
        return self._episode or self._finished or self._untouched()

    def _go_on(self, episode: Episode) -> Episode:
        dense = self.cost_mode == "dense"
        self._episode = episode.charge_floor() if dense else episode.charge_nothing()
        return self._episode

    def _finish(self, episode: Episode) -> Episode:
        self._episode = None  # over, even if a budget raises
        self._finished = episode.judge(seed=int(self.np_random.integers(2**31)))
        return self._finished

    def _info(self, episode: Episode) -> Info:
        """The same keys and types at every step; results are zero until the last one."""
        outcome, ledger = episode.outcome, episode.ledger
        info: Info = {
            "cost": float(ledger.cost),
            "costs": ledger.costs.astype(np.float32),
            "accuracy": outcome.accuracy if outcome else 0.0,
            "feasible": outcome.feasible if outcome else False,
            "kept": (episode.counts / self.problem.sizes).astype(np.float32),
        }
        if episode.limit is not None:
            info["limit"] = episode.limit
        for index, name in enumerate(self.cost_names):
            info[f"cost_{name}"] = float(ledger.costs[index])
            info[name] = outcome.values[name] if outcome else 0.0
        return info

    def _checked(self, settings: Mapping[str, Any]) -> Schedule:
        check_schedule(settings)
        check_limit(settings.get("limit"), self.limit_range)
        if settings.get("max_ratio") not in (None, self._schedule.get("max_ratio")):
            lowest = None if self.limit_range is None else self.limit_range[:1]
            smallest = smallest_counts(self.problem, settings["max_ratio"])
            self.problem.check_reachable(smallest, lowest)
        return cast(Schedule, dict(settings))


def pruning_env(env: gym.Env[Any, Any], who: str) -> PruneEnv:
    """The pruning environment inside of all wrappers.

    Args:
        env: wrapped or not.
        who: asks for it, for the message.

    Raises:
        TypeError: there is another environment inside.
    """
    if not isinstance(env.unwrapped, PruneEnv):
        raise InvalidTypeError(f"{who}: expected a pruning environment, got {env}.")
    return env.unwrapped
