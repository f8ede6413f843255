"""A vector environment for Stable-Baselines3 whose environments step in threads.

Every environment has its own random numbers, so the results are those of ``DummyVecEnv``, bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from prune_gym.utils.threads import Workers


class ThreadVecEnv(DummyVecEnv):
    """``DummyVecEnv`` whose environments step in parallel.

    Args:
        env_fns: functions that make one environment each.
        workers: the pool that steps them.
        on_episode: called with the environment of each episode that has ended, in their order, as
            soon as that environment has stepped: what dies in the next one takes nothing with it.
            Where a step fails, those of the others are seen to before it is raised.
    """

    def __init__(
        self,
        env_fns: list[Callable[[], gym.Env[Any, Any]]],
        workers: Workers,
        on_episode: Callable[[gym.Env[Any, Any]], None] | None = None,
    ) -> None:
        super().__init__(env_fns)
        self._workers, self._on_episode = workers, on_episode

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; a finished one starts its next episode."""
        failed: BaseException | None = None
        stepped = self._workers.each(self._step_one, list(range(self.num_envs)))
        for index, step in enumerate(stepped):
            failed = failed or step.exception()
            is_over = step.exception() is None and self.buf_dones[index]
            if self._on_episode is not None and is_over:
                self._on_episode(self.envs[index])
        if failed is not None:
            raise failed
        return (
            self._obs_from_buf(),
            np.copy(self.buf_rews),
            np.copy(self.buf_dones),
            [dict(info) for info in self.buf_infos],
        )

    def _step_one(self, index: int) -> None:
        env = self.envs[index]
        observation, reward, terminated, truncated, info = env.step(self.actions[index])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self.reset_infos[index] = env.reset()
        self.buf_rews[index] = float(reward)
        self.buf_dones[index] = done
        self.buf_infos[index] = info
        self._save_obs(index, observation)
