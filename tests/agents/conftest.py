"""Small environments with known costs, and a way to see what the multiplier does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from agents import BudgetToyEnv


class ScriptedEnv(gym.Env):
    """Plays a list of costs per episode, whatever the action; the reward is 1 per step.

    A tuple for a step's cost is a vector of costs; ``limit`` is then one too.
    """

    def __init__(
        self,
        costs=(1.0, 2.0),
        *,
        limit=None,
        truncate=False,
        as_dict=False,
        rewards=None,
        n_actions=None,
    ):
        box = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self._as_dict = as_dict
        self.observation_space = gym.spaces.Dict({"a": box, "b": box}) if as_dict else box
        self.action_space = (
            gym.spaces.Discrete(n_actions)
            if n_actions
            else gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        )
        self._costs = costs
        self._rewards = rewards or (1.0,) * len(costs)
        self._truncate = truncate
        if isinstance(limit, tuple):
            self.cost_limits = limit
        elif limit is not None:
            self.cost_limit = limit

    def _observe(self) -> Any:
        box = np.full(2, self._step / len(self._costs), dtype=np.float32)
        return {"a": box, "b": 1.0 - box} if self._as_dict else box

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return self._observe(), {"cost": 0.0}

    def step(self, action):
        cost, reward = self._costs[self._step], self._rewards[self._step]
        self._step += 1
        over = self._step == len(self._costs)
        if isinstance(cost, tuple):
            info = {"costs": np.array(cost)}
        else:
            info = {} if cost is None else {"cost": cost}
        return self._observe(), reward, over and not self._truncate, over and self._truncate, info


class TwoCosts(gym.Wrapper):
    """The toy with two costs, the first of which binds while the second is slack."""

    cost_limits = (0.25, 5.0)
    cost_names = ("energy", "noise")

    def __init__(self, env=None):
        super().__init__(env or BudgetToyEnv())

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        costs = np.array([info["cost"], 0.5 * info["cost"]])
        return observation, reward, terminated, truncated, {**info, "costs": costs}


class Trace(BaseCallback):
    """Multiplier and price at every step, and what was logged at the end of every rollout."""

    def __init__(self):
        super().__init__()
        self.steps, self.prices, self.logs = [], [], []

    def _on_step(self):
        self.steps.append(self.model.multiplier.value)
        self.prices.append(float(self.model.prices[0]))
        return True

    def _on_rollout_end(self):
        values = self.logger.name_to_value
        self.logs.append({k: v for k, v in values.items() if k.startswith("lagrange/")})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads would only wait for each other: the networks are tiny."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(before)


@pytest.fixture
def scripted_env() -> type[ScriptedEnv]:
    return ScriptedEnv


@pytest.fixture
def two_costs() -> type[TwoCosts]:
    return TwoCosts


@pytest.fixture
def trace() -> Trace:
    return Trace()
