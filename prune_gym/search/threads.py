"""A vector environment for Stable-Baselines3 whose environments step in threads.

Judging a network is torch work, which releases the interpreter lock: threads of one process use
all cores without copies of the data or the network, and start at once. Every environment has its
own random numbers, so the results are those of ``DummyVecEnv``, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A pool of threads, each of which runs torch operations on one core.

    Args:
        n: number of threads; None = one per usable core.
    """

    def __init__(self, n: int | None = None) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)  # threads that share cores inside and out would fight for them
        self._pool = ThreadPoolExecutor(
            n or usable_cores(), initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(self, function: Callable[[T], R], items: list[T]) -> Iterator[R]:
        """Results in the order of the items, as they come; the first error is raised."""
        return self._pool.map(function, items)

    def close(self) -> None:
        """End the threads and give torch its cores back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ThreadVecEnv(DummyVecEnv):
    """``DummyVecEnv`` whose environments step in parallel.

    Args:
        env_fns: functions that make one environment each.
        workers: the pool that steps them.
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]], workers: Workers) -> None:
        super().__init__(env_fns)
        self._workers = workers

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; a finished one starts its next episode."""
        for _ in self._workers.map(self._step_one, list(range(self.num_envs))):
            pass
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
