"""`FamilyPruneEnv`: each episode prunes a network of a family, at a limit of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from prune_gym.envs.base import Info, PruneEnv
from prune_gym.envs.prior import PriorLayerPruneEnv
from prune_gym.errors import InvalidTypeError, InvalidValueError
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
        render_mode: str | None = None,
    ) -> None:
        if isinstance(problems, str | PruningProblem) or not isinstance(problems, Sequence):
            raise InvalidTypeError(
                f"problems={problems!r}: expected a list of problems, [make_problem(...), ...]."
            )
        if not problems:
            raise InvalidValueError("problems is empty; give one at least.")
        self.limit_range, self.cost_mode, self.relative = limit_range, cost_mode, bool(relative)
        self.render_mode = render_mode
        self._members = list(problems)
        self._envs: dict[int, PriorLayerPruneEnv] = {}
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
            reward /= self.problem.sensitivity.unpruned or 1.0
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
            member = self._members[number]
            problem: Any = member  # another object than a problem is told by the environment
            if callable(member) and not isinstance(member, PruningProblem | SharedProblem):
                problem = member()
            env = PriorLayerPruneEnv(
                problem,
                limit_range=self.limit_range,
                cost_mode=self.cost_mode,
                render_mode=self.render_mode,
            )
            first = self._envs.get(0, env)
            if env.cost_names != first.cost_names:
                raise InvalidValueError(
                    f"problems[{number}] has the budget {env.cost_names[0]!r}, and problems[0] "
                    f"{first.cost_names[0]!r}; give problems of one budget."
                )
            self._envs[number] = env
        return self._envs[number]
