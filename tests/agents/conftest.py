"""Small environments with known costs, and a way to read what an agent logged."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest


class ScriptedEnv(gym.Env):
    """Plays a list of costs per episode, whatever the action; the reward is 1 per step."""

    def __init__(self, costs=(1.0, 2.0), *, limit=None, truncate=False, as_dict=False):
        box = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self._as_dict = as_dict
        self.observation_space = gym.spaces.Dict({"a": box, "b": box}) if as_dict else box
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._costs = costs
        self._truncate = truncate
        if limit is not None:
            self.cost_limit = limit

    def _observe(self) -> Any:
        box = np.full(2, self._step / len(self._costs), dtype=np.float32)
        return {"a": box, "b": 1.0 - box} if self._as_dict else box

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return self._observe(), {"cost": 0.0}

    def step(self, action):
        cost = self._costs[self._step]
        self._step += 1
        over = self._step == len(self._costs)
        info = {} if cost is None else {"cost": cost}
        return self._observe(), 1.0, over and not self._truncate, over and self._truncate, info


@pytest.fixture
def scripted_env() -> type[ScriptedEnv]:
    return ScriptedEnv
