"""The vector environment: many pruning environments of one process that judge side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import iterate

from prune_gym.envs.base import pruning_env
from prune_gym.errors import InvalidValueError, UsageError
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.threads import Workers, usable_cores

AUTORESET_MODES = ("NextStep", "SameStep", "Disabled")  # names that Gymnasium gives them


class PruneVectorEnv(SyncVectorEnv):
    """Gymnasium's `SyncVectorEnv`, step for step; networks are judged in threads.

    The environments share one problem: data, unpruned network and remembered outcomes. Each has
    random numbers of its own, so the results do not depend on the number of threads. After Ctrl-C
    in `step`, networks that were being judged are lost: go on with `reset`.

    Args:
        envs: environments around one problem, wrapped or not.
        threads: how many networks are judged at once; None = one per core, or one where a budget
            is a black box, which may count, measure time or use a device.
        autoreset_mode: when an episode that has ended begins anew: ``"NextStep"``, ``"SameStep"``
            (its last observation and info are in ``infos["final_obs"]`` and
            ``infos["final_info"]``) or ``"Disabled"`` (at ``reset(options={"reset_mask": ...})``),
            or Gymnasium's `AutoresetMode`.

    Raises:
        ValueError: no environments, environments around several problems, or a mode that there is
            not, or that the installed version of Gymnasium does not know.
        TypeError: other environments.
    """

    def __init__(
        self,
        envs: Sequence[gym.Env[Any, Any]],
        threads: int | None = None,
        autoreset_mode: Any = "NextStep",
    ) -> None:
        members = [_EarlyStep(env) for env in envs]
        if len({id(env.pruning.problem) for env in members}) != 1:
            raise InvalidValueError(f"envs={envs!r}: expected environments around one problem.")
        problem = members[0].pruning.problem
        if threads is None and any(budget.counted is None for budget in problem.budgets):
            threads = 1
        mode = _checked_mode(autoreset_mode)
        super().__init__([lambda env=env: env for env in members], **mode)  # type: ignore[misc]
        self._members, self._mode = members, mode.get("autoreset_mode", AUTORESET_MODES[0])
        n = min(len(envs), threads or usable_cores())
        cores = max(1, usable_cores() // n)
        self._workers = None if n == 1 else Workers(n, problem.device, cores)

    @property
    def cost_limit(self) -> float:
        """Limit of the episodic sum of ``info["cost"]`` of each environment."""
        return self._members[0].pruning.cost_limit

    def step(self, actions: Any) -> Any:
        """Step all environments; those that judge a network do so side by side.

        Raises:
            UsageError: with ``autoreset_mode="Disabled"``, episodes that have ended were not reset.
        """
        over = self._autoreset_envs
        if over.any() and self._mode == "Disabled":
            raise UsageError(
                f"step() after the end of {int(over.sum())} episodes: reset those first, "
                'reset(options={"reset_mask": terminations}).'
            )
        try:
            single = list(iterate(self.action_space, actions))
            for env, action in zip(self._members, single, strict=True):
                if self._workers is not None and env.pruning.steps_left == 1:
                    env.begin(action, self._workers)
            return super().step(actions)
        finally:  # also after an error in one of them
            for env in self._members:
                env.settle()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the threads."""
        super().close_extras(**kwargs)
        if self._workers is not None:
            self._workers.close()


def _checked_mode(given: Any) -> dict[str, Any]:
    """Arguments of `SyncVectorEnv` for an autoreset mode; its version 1.0 has no choice."""
    mode = getattr(given, "value", given)
    if mode not in AUTORESET_MODES:
        raise unknown_name("autoreset_mode", mode, list(AUTORESET_MODES))
    if hasattr(gym.vector, "AutoresetMode"):
        return {"autoreset_mode": mode}
    if mode != "NextStep":
        raise InvalidValueError(
            f"autoreset_mode={mode!r} needs gymnasium 1.1 or later: pip install -U gymnasium."
        )
    return {}


class _EarlyStep(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose next step may have begun already, in a thread."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.pruning = pruning_env(env, "PruneVectorEnv")
        self._begun: Future[Any] | None = None

    def begin(self, action: Any, workers: Workers) -> None:
        self._begun = workers.submit(self.env.step, np.array(action))

    def step(self, action: Any) -> Any:
        return self.env.step(action) if self._begun is None else self._begun.result()

    def settle(self) -> None:
        """Forget a step that was begun, once it has ended."""
        if self._begun is not None and not self._begun.cancel():
            self._begun.exception()  # waits
        self._begun = None
