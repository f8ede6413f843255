"""`FamilyPruneEnv`: each episode prunes a network of a family, at a limit of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from prune_gym.envs.base import Info, PruneEnv
from prune_gym.envs.checks import check_flag, check_limit_range
from prune_gym.envs.prior import PriorLayerPruneEnv
from prune_gym.errors import InfeasibleLimitError, InvalidTypeError, InvalidValueError
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import SharedProblem

Member: TypeAlias = PruningProblem | SharedProblem | Callable[[], PruningProblem]


class FamilyPruneEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One policy for many networks: an episode draws a network, and a limit.

    ## Description
    Each episode is one of `PriorLayerPruneEnv`, of a problem that is drawn at reset, every one as
    likely, and of a limit that is drawn as well (each doubling as likely). Observations do not
    depend on the size of the network, so that one policy acts on all of them, and on networks that
    it never saw.

    ## Action space
    ``Box(-1, 1, (1,), float32)``, as of `PriorLayerPruneEnv`.

    ## Observation space
    ``Box(0, 1, (16,), float32)``, as of `PriorLayerPruneEnv` with one budget.

    ## Reward
    As of the problems, divided by the reward of the unpruned network (with ``relative=True``, the
    default), so that networks that are hard to prune do not count less.

    ## Cost and limit
    ``info["cost"]`` is cost / limit, and ``cost_limit`` 1.0.

    ## Info
    As of `PriorLayerPruneEnv`, and ``problem``, the number of the one that was drawn.

    ## Episode end
    ``terminated`` after the last filter group of the network; ``truncated`` is always False.
    Episodes of different networks differ in length.

    ## Arguments
    ``problems``: `PruningProblem`, or functions that make one (called when it is first drawn), with
    one budget of the same name each. ``limit_range``, ``cost_mode``: as of `PruneEnv`.
    ``relative``: see the reward. ``render_mode``: as of `PruneEnv`.
    ``reset(options={"problem": 2, "limit": 0.1})`` chooses.

    ## Version history
    * v1: first version.
    """

    metadata = PruneEnv.metadata
    cost_limit = 1.0

    def __init__(
        self,
        problems: Sequence[Member],
        *,
        limit_range: Sequence[float] = (0.03, 0.4),
        cost_mode: str = "terminal",
        relative: bool = True,
        history: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(problems, str | PruningProblem) or not isinstance(problems, Sequence):
            raise InvalidTypeError(
                f"problems={problems!r}: expected a list of problems, [make_problem(...), ...]."
            )
        if not problems:
            raise InvalidValueError("problems is empty; give one at least.")
        if history:
            raise InvalidValueError(
                "history=True: it has a number for each group, and the networks of a family differ "
                "in their groups; leave it out."
            )
        self.limit_range, self.cost_mode = limit_range, cost_mode
        self.relative = check_flag("relative", relative)
        self.render_mode = render_mode
        self._members = list(problems)
        self._first: tuple[int, tuple[str, ...]] | None = None  # that was made, and its budgets
        self._envs: dict[int, PriorLayerPruneEnv] = {}
        for index, member in enumerate(problems):
            if isinstance(member, PruningProblem):
                self._check(index, member)
        self._env = self._of(0)
        self._number = 0
        self.observation_space: spaces.Box = self._env.observation_space  # type: ignore[assignment]
        self.action_space: spaces.Box = self._env.action_space  # type: ignore[assignment]

    @property
    def problem(self) -> PruningProblem:
        """The one that is pruned in this episode."""
        return self._env.problem

    def __len__(self) -> int:
        """How many problems there are."""
        return len(self._members)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start an episode.

        Args:
            seed: of the random numbers by which problems and limits are drawn.
            options: ``problem``, its number, and those of `PruneEnv.reset`.
        """
        super().reset(seed=seed)
        own = dict(options or {})
        number = own.pop("problem", None)
        if number is None:
            number = int(self.np_random.integers(len(self._members)))
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise InvalidTypeError(f"problem={number!r}: expected the number of a problem.")
        if not 0 <= number < len(self._members):
            raise InvalidValueError(
                f"problem={number} must be in [0, {len(self._members) - 1}]; there are "
                f"{len(self._members)}."
            )
        self._number, self._env = int(number), self._of(int(number))
        drawn = int(self.np_random.integers(2**31))
        observation, info = self._env.reset(seed=drawn, options=own or None)
        return observation, {**info, "problem": self._number}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Decide the next group; see `PruneEnv.step`."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        if self.relative and terminated:
            reward /= self.problem.sensitivity.unpruned
        return observation, reward, terminated, truncated, {**info, "problem": self._number}

    def render(self) -> Any:
        """A picture (or text) of what each layer keeps so far; see `PruneEnv.render`."""
        return self._env.render()

    def close(self) -> None:
        """Free the networks."""
        for env in self._envs.values():
            env.close()

    def _of(self, number: int) -> PriorLayerPruneEnv:
        if number not in self._envs:
            problem = self._problem(number)
            self._check(number, problem)
            env = PriorLayerPruneEnv(
                problem,
                limit_range=self.limit_range,
                cost_mode=self.cost_mode,
                render_mode=self.render_mode,
            )
            unpruned = problem.sensitivity.unpruned if self.relative else 1.0
            if not unpruned > 0.0:
                raise InvalidValueError(
                    f"problems[{number}]: the reward of its unpruned network is {unpruned:.6g}, by "
                    "which none can be divided; give relative=False."
                )
            self._envs[number] = env
        return self._envs[number]

    def _check(self, number: int, problem: PruningProblem) -> None:
        """Raise unless a problem goes with the limits, and with the first one."""
        try:
            limits = check_limit_range(self.limit_range, problem)
            smallest = problem.kept_counts(np.ones(len(problem.groups)))
            problem.check_reachable(smallest, limits and limits[:1])
        except InfeasibleLimitError as error:
            raise InfeasibleLimitError(
                f"problems[{number}] with limit_range={tuple(self.limit_range)}: {error}"
            ) from error
        except InvalidValueError as error:
            raise InvalidValueError(f"problems[{number}]: {error}") from error
        self._first = self._first or (number, problem.names)
        first, names = self._first
        if problem.names != names:
            raise InvalidValueError(
                f"problems[{number}] has the budget {problem.names[0]!r}, and problems[{first}] "
                f"{names[0]!r}; give problems of one budget."
            )

    def _problem(self, number: int) -> PruningProblem:
        """The problem of a member, made or opened where it is not there yet."""
        member: Any = self._members[number]
        if callable(member) and not isinstance(member, PruningProblem | SharedProblem):
            try:
                member = member()
            except TypeError as error:
                raise InvalidTypeError(
                    f"problems[{number}] is a function that cannot be called without arguments, or "
                    f"raised: {error}"
                ) from error
        if isinstance(member, SharedProblem):
            member = member.open()
        if not isinstance(member, PruningProblem):
            raise InvalidTypeError(
                f"problems[{number}] is, or gave, {member!r}: expected a PruningProblem."
            )
        return member
