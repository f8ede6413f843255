"""Environments of a run, which the benchmark makes and owns."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from agents.arguments import MOST_ENVS, shown, whole_number
from agents.benchmark.counted import (
    AUTORESET_MODES,
    CountedEnv,
    CountedVectorEnv,
    Env,
    check_action,
)
from agents.benchmark.ledger import Judged, Ledger
from agents.benchmark.suite import Task
from agents.errors import BenchmarkError, InvalidValueError


class Rotation(gym.Wrapper[Any, Any, Any, Any]):
    """Several environments of equal spaces in turn: each reset goes on to the next one.

    Args:
        envs: The environments.
        first: Which of them comes first.

    Attributes:
        in_turn: All of them.
        stepped: The one in which the last step was taken.
    """

    def __init__(self, envs: Sequence[Env], first: int = 0) -> None:
        start = first % len(envs)
        self._order: Iterator[Env] = itertools.cycle([*envs[start:], *envs[:start]])
        self._is_new, self.in_turn = True, list(envs)
        super().__init__(next(self._order))
        self.stepped = self.env

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step."""
        self.stepped = self.env
        return self.env.step(action)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the next environment."""
        if not self._is_new:
            self.env = next(self._order)
        self._is_new = False
        return self.env.reset(seed=seed, options=options)


class Problems:
    """Environments of a task; what they prune is made once and shared.

    Args:
        task: The task.
        check: Called with arguments of the task and the problem that they gave, when one is made.
    """

    def __init__(
        self, task: Task, check: Callable[[Mapping[str, Any], Any], None] = lambda given, made: None
    ) -> None:
        self.task, self.check = task, check
        self._made: dict[int, Any] = {}  # by place among all of the task's problems

    def arguments(self, which: int) -> dict[str, Any]:
        """Arguments of ``gym.make`` for one of the task's problems."""
        given = self.task.problems[which]
        if which not in self._made:
            env: Any = self._first(given).unwrapped
            self._made[which] = getattr(env, "problem", None)
            self.check(given, self._made[which])
        problem = self._made[which]
        return dict(given if problem is None else {"problem": problem}, **self.task.kwargs)

    def _first(self, given: Mapping[str, Any]) -> Env:
        task = self.task
        try:
            made: Env = gym.make(task.environment, **given, **task.kwargs)
        except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
            raise BenchmarkError(
                f"task {task.name!r}: {task.environment} cannot be made ({error})"
            ) from error
        return made

    def make(self, which: int) -> Env:
        """One environment."""
        made: Env = gym.make(self.task.environment, **self.arguments(which))
        return made


class MakeEnv:
    """Makes the environments of a run; the first argument of every ``train``.

    ``make_env()`` gives one environment, ``make_env(num_envs=8)`` a vector of Gymnasium. All of
    them share the evaluations of the run. What sums of costs are held against is ``env.cost_limit``
    and, of a vector, ``envs.cost_limits``.

    Args:
        problems: Of the task.
        seed: Of the run.
        ledger: Where networks are counted.

    Attributes:
        name: Of the task.
        known: What may be known on it, in words.
        costs_known: Whether ``problem.counted_costs`` may be asked for the costs of networks that
            are not judged.
        judged: Parts of the score, dictionaries: ``"limits"`` by budget and ``"options"`` of a
            reset, where they are not the environment's own.
        by_policy: Whether networks of the final policy are scored.
    """

    def __init__(self, problems: Problems, seed: int, ledger: Ledger) -> None:
        self._task = task = problems.task  # the optimum is in it
        self.name, self.by_policy = task.name, task.by_policy
        self.known, self.costs_known = task.known, task.costs_known
        self.judged = copy.deepcopy(task.judged)
        self._problems, self._ledger = problems, ledger
        self._seeds = np.random.default_rng([seed, 17])
        self._n_made = 0
        self._judging: CountedEnv | None = None

    @property
    def evaluations_left(self) -> int:
        """How many networks can still be judged."""
        return int(self._ledger.left)

    @property
    def n_steps(self) -> int:
        """Steps of an episode."""
        return self._task.steps

    @property
    def plan_shape(self) -> tuple[int, ...]:
        """Of what `judge` takes: steps of an episode, and the shape of an action."""
        return (self.n_steps, *(self._judges.action_space.shape or ()))

    @property
    def _judges(self) -> CountedEnv:
        """Where plans are played."""
        if self._judging is None:
            self._judging = self()
        return self._judging

    def __call__(self, num_envs: int | None = None, *, autoreset_mode: Any = None) -> Any:
        """Make an environment, or a vector of them.

        Args:
            num_envs: Size of the vector; None = one environment.
            autoreset_mode: Of the vector: ``"NextStep"`` (as Gymnasium's default), ``"SameStep"``,
                ``"Disabled"``, or an `AutoresetMode`.

        Raises:
            InvalidValueError: A number or mode that is not allowed.
        """
        if num_envs is None:
            if autoreset_mode is not None:
                raise InvalidValueError(
                    f"autoreset_mode is {autoreset_mode!r} without num_envs; it is for vectors: "
                    "make_env(num_envs=8, autoreset_mode=...)."
                )
            return CountedEnv(self._single(), self._ledger, self._seed())
        most = min(MOST_ENVS, self._task.evaluations)  # all of them begin an episode at once
        number = whole_number("num_envs", num_envs, 1, most)
        mode = _mode("NextStep" if autoreset_mode is None else autoreset_mode)
        return CountedVectorEnv(self._vector(number, mode), self._ledger, self._seed())

    def judge(self, plan: Any, *, options: dict[str, Any] | None = None) -> Judged:
        """Judge the network of a plan: play one episode of these actions, whatever is observed.

        Args:
            plan: An action for every step, (n_steps, ...).
            options: Of the episode's reset.

        Raises:
            EvaluationsSpent: All evaluations are spent.
            InvalidValueError: Too many or too few actions, or some that the environment does not
                take.
        """
        env, before = self._judges, self._ledger.judged
        actions = self._actions(plan, env.action_space)
        env.reset(options=options)
        for action in actions:
            env.step(action)
        if self._ledger.last is None or self._ledger.judged == before:
            raise InvalidValueError(
                f"plan holds {self.n_steps} actions, after which the episode goes on."
            )
        return self._ledger.last

    # -- inside ------------------------------------------------------------------------------

    def _actions(self, plan: Any, space: gym.Space[Any]) -> list[Any]:
        try:
            n_actions, found = len(plan), f"holds {len(plan)} actions"
        except TypeError:
            n_actions, found = 0, f"is {shown(plan)}"
        if n_actions != self.n_steps:
            raise InvalidValueError(
                f"plan {found}; it must hold {self.n_steps}, an action for each step."
            )
        for one in plan:
            check_action(one)
        try:
            return [np.asarray(one, space.dtype).reshape(space.shape or ()) for one in plan]
        except (TypeError, ValueError) as error:
            raise InvalidValueError(
                f"plan holds actions such as {shown(plan[0])}; each must be one of {space}."
            ) from error

    def _seed(self) -> int:
        return int(self._seeds.integers(2**31))

    def _single(self) -> Env:
        number, self._n_made = self._n_made, self._n_made + 1
        made = [self._problems.make(which) for which in self._task.training]
        env = made[0] if len(made) == 1 else Rotation(made, number)
        env.action_space.seed(self._seed())
        return env

    def _vector(self, number: int, mode: str) -> VectorEnv:
        training = self._task.training
        how: dict[str, Any] = {} if mode == "NextStep" else {"autoreset_mode": mode}
        if len(training) > 1:
            envs = [self._single() for _ in range(number)]
            return SyncVectorEnv([lambda env=env: env for env in envs], **how)  # type: ignore[misc]
        arguments = self._problems.arguments(training[0])  # imports what registers the environment
        if gym.spec(self._task.environment.rpartition(":")[2]).vector_entry_point is None and how:
            how = {"vector_kwargs": how}
        made = gym.make_vec(self._task.environment, num_envs=number, **arguments, **how)
        made.action_space.seed(self._seed())
        return made


def _mode(given: Any) -> str:
    mode = getattr(given, "value", given)
    if mode not in AUTORESET_MODES:
        names = ", ".join(map(repr, AUTORESET_MODES))
        raise InvalidValueError(f"autoreset_mode is {shown(given)}; it must be one of {names}.")
    return str(mode)
