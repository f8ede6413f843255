"""Environments that the benchmark owns: they count, record, and stop when all is spent."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

from agents.arguments import MOST_ENVS, shown, whole_number
from agents.benchmark.ledger import Judged, Ledger
from agents.benchmark.networks import choice_of, costs_of
from agents.benchmark.suite import Task
from agents.costs import read_cost, read_cost_limit
from agents.errors import BenchmarkError, InvalidValueError

Env = gym.Env[Any, Any]
# names that Gymnasium gives them; its version 1.0 knows the first one only
AUTORESET_MODES = ("NextStep", "SameStep", "Disabled")


class CountedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """One environment whose networks are counted.

    Args:
        env: The environment.
        ledger: Where they are counted.
        seed: Of the first reset, where whoever resets gives none.
    """

    def __init__(self, env: Env, ledger: Ledger, seed: int | None = None) -> None:
        super().__init__(env)
        self._ledger, self._first_seed = ledger, seed
        self._steps, self._return, self._cost = 0, 0.0, 0.0
        self._step = guarded(env.unwrapped, env.step)

    @property
    def cost_limit(self) -> float:
        """What the sum of ``info["cost"]`` over an episode is held against."""
        return float(read_cost_limit(self.env))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that was begun and not ended counts as an evaluation."""
        self._ledger.check_open()
        if self._steps:
            self._ledger.give_up()
        self._steps, self._return = 0, 0.0
        seed, self._first_seed = (self._first_seed if seed is None else seed), None
        observation, info = self.env.reset(seed=seed, options=options)
        self._cost = read_cost(info) if "cost" in info else 0.0
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step.

        Raises:
            EvaluationsSpent: All evaluations are spent.
            InvalidValueError: An action with NaN or infinity in it.
        """
        self._ledger.check()
        check_action(action)
        observation, reward, terminated, truncated, info = self._step(action)
        self._ledger.open += not self._steps
        self._steps += 1
        self._return += float(reward)
        self._cost += read_cost(info)
        if terminated or truncated:
            self._steps = 0
            inner = self.env.unwrapped
            self._ledger.add(judged(self._return, self._cost, self.cost_limit, inner, info))
        return observation, reward, terminated, truncated, info


def judged(accuracy: float, cost: float, limit: float, env: Any, info: Mapping[str, Any]) -> Judged:
    """The network of an episode that has ended.

    Args:
        accuracy: Its return.
        cost: Its summed cost.
        limit: Of that.
        env: The unwrapped environment.
        info: Of the last step.
    """
    return Judged(
        accuracy=accuracy,
        cost=cost,
        cost_limit=limit,
        feasible=bool(info.get("feasible", cost <= limit)),
        costs=costs_of(env, info),
        choice=choice_of(env, info),
    )


def guarded(inner: Any, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A step through which alone an unwrapped environment can be stepped.

    Args:
        inner: The unwrapped environment.
        step: Of it, or of a wrapper or vector around it.
    """
    taken, is_counted = inner.step, False

    def refuse(action: Any) -> Any:
        if is_counted:
            return taken(action)
        raise BenchmarkError(
            "env.unwrapped is not stepped by itself: its networks would not be counted. Step the "
            "environment that make_env gave."
        )

    def counted(action: Any) -> Any:
        nonlocal is_counted
        is_counted = True
        try:
            return step(action)
        finally:
            is_counted = False

    inner.step = refuse
    return counted


def check_action(action: Any) -> None:
    """Raise an InvalidValueError unless all numbers of an action are finite."""
    is_short = isinstance(action, np.ndarray) and action.size == 1
    if is_short and -1e9 < action.item() < 1e9:  # most actions need no further look
        return
    try:
        finite = bool(np.isfinite(np.asarray(action, dtype=np.float64)).all())
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise InvalidValueError(
            f"action is {shown(action)}; it must be finite numbers. A policy whose weights are "
            "NaN has diverged: lower its learning rate."
        )


class CountedVectorEnv(VectorWrapper):
    """A vector of environments whose networks are counted.

    Where a step judges more networks than evaluations are left, those that are left count, in the
    order of the environments, and `EvaluationsSpent` takes the place of what the step would
    return.

    Args:
        env: The vector, in any autoreset mode.
        ledger: Where networks are counted.
        seed: Of the first reset, where whoever resets gives none.
    """

    def __init__(self, env: VectorEnv, ledger: Ledger, seed: int) -> None:
        super().__init__(env)
        self._ledger, self._first_seed = ledger, seed
        self._steps = np.zeros(env.num_envs, dtype=np.int64)
        self._returns, self._costs = np.zeros(env.num_envs), np.zeros(env.num_envs)
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)
        mode = env.metadata.get("autoreset_mode", AUTORESET_MODES[0])
        self._mode = getattr(mode, "value", mode)
        self._step = env.step
        for inner in getattr(env.unwrapped, "envs", [env]):
            self._step = guarded(inner.unwrapped, self._step)

    @property
    def cost_limits(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of every environment, (num_envs,), see `CountedEnv.cost_limit`."""
        inner: Any = self.env.unwrapped
        if hasattr(inner, "cost_limit"):  # drawn limits are part of the cost: all of them are one
            return np.full(self.num_envs, float(inner.cost_limit))
        return np.array([float(read_cost_limit(env)) for env in inner.envs])

    def reset(
        self,
        *,
        seed: Any = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes; those that were begun and not ended count as evaluations."""
        self._ledger.check_open()
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], dtype=np.bool_)
        for _ in range(int((self._steps[mask] > 0).sum())):
            self._ledger.give_up()
        self._forget(mask)
        if seed is None and self._first_seed is not None:
            seed = self._first_seed
        self._first_seed = None  # type: ignore[assignment]
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Take a step in every environment; see `CountedEnv.step`."""
        self._ledger.check()
        check_action(actions)
        begun_anew = self._ended & (self._mode == "NextStep")
        self._forget(begun_anew)
        observations, rewards, terminations, truncations, infos = self._step(actions)
        self._ledger.open += int((~begun_anew & (self._steps == 0)).sum())
        self._steps += ~begun_anew
        ended = np.asarray(terminations | truncations)
        final = infos.get("final_info", infos)  # of those that were reset in this very step
        costs = np.where(ended, final["cost"], infos["cost"])
        self._returns += np.where(begun_anew, 0.0, rewards)
        self._costs += np.where(begun_anew, 0.0, costs)
        self._ended = ended
        for index in np.flatnonzero(ended).tolist():
            self._add(index, final)
        self._steps[ended] = 0
        if self._mode == "SameStep":
            self._forget(ended)
        return observations, rewards, terminations, truncations, infos

    # -- inside ------------------------------------------------------------------------------

    def _forget(self, mask: np.ndarray[Any, Any]) -> None:
        self._steps[mask], self._returns[mask], self._costs[mask] = 0, 0.0, 0.0
        self._ended = self._ended & ~mask

    def _add(self, index: int, infos: Mapping[str, Any]) -> None:
        own = {
            key: value[index]
            for key, value in infos.items()
            if isinstance(value, np.ndarray) and not key.startswith("_")
        }
        inner: Any = self.env.unwrapped
        one = inner.envs[index] if hasattr(inner, "envs") else inner
        one = getattr(one, "stepped", one)  # of environments in turn, the one that was decided
        limit = float(one.cost_limit if one is inner else read_cost_limit(one))
        cost, accuracy = float(self._costs[index]), float(self._returns[index])
        self._ledger.add(judged(accuracy, cost, limit, one.unwrapped, own))


class Rotation(gym.Wrapper[Any, Any, Any, Any]):
    """Several environments of equal spaces in turn: each reset goes on to the next one.

    Args:
        envs: The environments.
        first: Which of them comes first.

    Attributes:
        stepped: The one in which the last step was taken.
    """

    def __init__(self, envs: Sequence[Env], first: int = 0) -> None:
        start = first % len(envs)
        self._order: Iterator[Env] = itertools.cycle([*envs[start:], *envs[:start]])
        self._is_new = True
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
        judged: Parts of the score: ``limits`` by budget and ``options`` of a reset, where they are
            not the environment's own.
        by_policy: Whether networks of the final policy are scored.
    """

    def __init__(self, problems: Problems, seed: int, ledger: Ledger) -> None:
        self._task = task = problems.task  # the optimum is in it
        self.name, self.known, self.by_policy = task.name, task.known, task.by_policy
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
        number = whole_number("num_envs", num_envs, 1, MOST_ENVS)
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
        if self._judging is None:
            self._judging = self()
        env = self._judging
        actions = self._actions(plan, env.action_space)
        env.reset(options=options)
        for action in actions:
            env.step(action)
        if self._ledger.last is None:
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
