"""What episodes came to: the best network found, and the episode's cost.

`RecordEpisodeCost` is for one environment of any kind, `RecordEpisodeCostVector` for a vector of
them, as with Gymnasium's two ``RecordEpisodeStatistics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import nn

from prune_gym.envs.base import pruning_env
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.problem.archive import Archive, further_costs

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class RecordBest(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keep the best feasible network of all episodes.

    Args:
        env: a pruning environment.
        archive: where outcomes go; share one among several environments of a process.

    Attributes:
        archive: every episode's outcome, the best feasible one (``archive.best``; with
            ``limit_range`` each was judged by a limit of its own), and the front:
            ``archive.best_within({"params": 0.05}).masks`` answers for other limits.

    Raises:
        TypeError: no pruning environment.
    """

    def __init__(self, env: gym.Env[Any, Any], archive: Archive | None = None) -> None:
        RecordConstructorArgs.__init__(self, archive=archive, _disable_deepcopy=True)
        super().__init__(env)
        self._pruning = pruning_env(env, "RecordBest")
        if archive is None:
            archive = Archive(further=further_costs(self._pruning.problem))
        self.archive = archive

    def step(self, action: Any) -> Step:
        """Step; a finished episode goes to the archive."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            self.archive.add(self._pruning.last_masks(), self._pruning.last_outcome())
        return observation, reward, terminated, truncated, info

    def best_network(self, limits: Mapping[str, float] | None = None) -> nn.Module:
        """The best compact network so far within the limits, built and recovered anew.

        Args:
            limits: by budget, e.g. ``{"params": 0.05}``; None = the environment's. One whose limit
                is another in every episode (``limit_range``) has none.

        Raises:
            NothingFeasibleError: no episode met every limit.
            ValueError: None with ``limit_range``, or a budget whose cost is not known.
        """
        env, archive = self._pruning, self.archive
        if limits is None and env.limit_range is not None:
            raise InvalidValueError(
                "best_network() of an environment with limit_range: each episode has a limit of "
                f"its own. Say within which: best_network({{{env.cost_names[0]!r}: 0.1}})."
            )
        masks = archive.feasible_masks() if limits is None else archive.best_within(limits).masks
        return env.problem.recover(env.problem.compact(masks))


class RecordEpisodeCost(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Put the episode's cost so far into ``info["episode_cost"]``, float, at every step.

    It stands in the terminal info as well, where Stable-Baselines3's ``Monitor`` reads it:
    ``Monitor(RecordEpisodeCost(env), info_keywords=("episode_cost",))``.

    Args:
        env: an environment with ``info["cost"]`` in reset and at every step.

    Raises:
        TypeError: a vector of environments.
        ValueError: in reset or step, an info without a cost.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        if isinstance(env, VectorEnv):
            raise InvalidTypeError(f"env={env} is a vector; use RecordEpisodeCostVector.")
        super().__init__(env)
        self._sum = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; the episode's cost starts anew."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._sum = _cost(info)
        return observation, {**info, "episode_cost": self._sum}

    def step(self, action: Any) -> Step:
        """Step; add this step's cost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._sum += _cost(info)
        return observation, reward, terminated, truncated, {**info, "episode_cost": self._sum}


class RecordEpisodeCostVector(VectorWrapper):
    """Put every episode's cost so far into ``infos["episode_cost"]``, (num_envs,) float64.

    At the step that ends an episode it is the cost of that whole episode in each of Gymnasium's
    three autoreset modes, also where the last step's cost is in ``infos["final_info"]``
    (``SAME_STEP``), which then has an ``"episode_cost"`` too:
    ``infos["episode_cost"][terminations | truncations]``.

    >>> envs = RecordEpisodeCostVector(gym.make_vec("PruneVGG-v0", num_envs=2))
    >>> _ = envs.reset(seed=0)
    >>> for _ in range(8):
    ...     *_, infos = envs.step(np.array([[-1.0], [1.0]], dtype=np.float32))
    >>> infos["episode_cost"].round(2)  # nothing was removed, and all that can be
    array([1., 0.])
    >>> envs.close()

    Args:
        env: a vector of environments with ``info["cost"]`` in reset and at every step. One that
            does not name its autoreset mode is taken for ``NEXT_STEP``, as Gymnasium does.

    Raises:
        TypeError: no vector of environments; in reset or step, infos that are no dict.
        ValueError: in reset or step, an info without a cost.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise InvalidTypeError(f"env={env} is no vector environment; use RecordEpisodeCost.")
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")  # an enum that gymnasium 1.0 does not have
        self._resets_at_once = getattr(mode, "value", mode) == "SameStep"
        self._sums = np.zeros(env.num_envs)
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``, (num_envs,) bool."""
        options = None if options is None else dict(options)  # environments take the mask out
        begun = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            begun = np.array(options["reset_mask"])
        observations, infos = self.env.reset(seed=seed, options=options)
        self._sums[begun] = _costs(infos, begun)
        self._ended[begun] = False
        return observations, self._with_sums(infos, np.ones_like(begun))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step; add this step's costs."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = np.logical_or(terminations, truncations)
        hidden = ended & self._resets_at_once  # whose infos are those of the next episode already
        self._sums[self._ended] = 0.0  # of the episodes that begin with this step (NEXT_STEP)
        self._sums[~hidden] += _costs(infos, ~hidden)
        if hidden.any():
            final = infos.get("final_info", {})
            self._sums[hidden] += _costs(final, hidden)
            infos = {**infos, "final_info": self._with_sums(final, hidden)}
        recorded = self._with_sums(infos, np.ones_like(ended))
        self._sums[hidden] = _costs(infos, hidden)
        self._ended = ended & ~hidden
        return observations, rewards, terminations, truncations, recorded

    def _with_sums(self, infos: dict[str, Any], mask: NDArray[np.bool_]) -> dict[str, Any]:
        return {**infos, "episode_cost": np.where(mask, self._sums, 0.0), "_episode_cost": mask}


def _cost(info: dict[str, Any]) -> float:
    if "cost" not in info:
        raise InvalidValueError(
            "RecordEpisodeCost: the environment gives no info['cost']; wrap a constrained one."
        )
    return float(info["cost"])


def _costs(infos: Any, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Costs of the environments of a mask, (mask.sum(),), out of a vector's infos."""
    if not isinstance(infos, Mapping):
        raise InvalidTypeError(
            f"RecordEpisodeCostVector: infos are a {type(infos).__name__}, not a dict of arrays; "
            "put DictInfoToList around it, not inside."
        )
    missing = np.flatnonzero(mask & ~np.asarray(infos.get("_cost", "cost" in infos)))
    if missing.size:
        raise InvalidValueError(
            f"RecordEpisodeCostVector: environments {missing.tolist()} give no info['cost']; wrap "
            "constrained ones."
        )
    return np.asarray(infos["cost"], dtype=np.float64)[mask] if mask.any() else np.empty(0)
