"""Replay buffers that keep reward and cost apart.

An old transition that was stored with its penalised reward carries the multiplier of its day. These
buffers store both numbers and pay ``(reward - multiplier * cost) / (1 + multiplier)`` with the
multiplier of the moment at which they are sampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from agents.costs import FloatArray, read_cost_vectors, read_costs
from agents.multipliers.rules import AnyMultiplier, FixedMultiplier, VectorMultiplier


class CostReplayBuffer(ReplayBuffer):
    """A replay buffer that stores costs beside rewards; also a mixin for other buffers.

    ``rewards`` always holds rewards mixed with one value of the multiplier, ``mixed_at``. When the
    multiplier has moved, the next sample rewrites the whole array first: one pass over numbers,
    after which sampling is that of Stable-Baselines3, for single steps and for n steps.

    Args:
        *args: Arguments of the buffer.
        multiplier: The multiplier, shared with the model that owns the buffer; it is not pickled.
        **kwargs: Arguments of the buffer.

    Attributes:
        raw_rewards: Unpenalised rewards, float32 of shape (size, n_envs).
        costs: Costs, float32 of shape (size, n_envs, n_costs).
    """

    def __init__(self, *args: Any, multiplier: AnyMultiplier, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.multiplier = multiplier
        self.mixed_at: FloatArray = self._prices()
        self.raw_rewards = np.zeros_like(self.rewards)
        self.costs = np.zeros((*self.rewards.shape, len(self.mixed_at)), dtype=np.float32)

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Store a step of all environments; costs are read from ``infos``."""
        if isinstance(self.multiplier, VectorMultiplier):
            costs = read_cost_vectors(infos, len(self.mixed_at))
        else:
            costs = read_costs(infos)[:, None]
        self.raw_rewards[self.pos] = reward
        self.costs[self.pos] = costs
        mixed = mix_rewards(self.raw_rewards[self.pos], self.costs[self.pos], self.mixed_at)
        super().add(obs, next_obs, action, mixed, done, infos)

    def _get_samples(self, batch_inds: Any, env: VecNormalize | None = None) -> Any:
        prices = self._prices()
        if not np.array_equal(prices, self.mixed_at):
            self.mixed_at = prices
            self.rewards[:] = mix_rewards(self.raw_rewards, self.costs, prices)
        return super()._get_samples(batch_inds, env)

    def _prices(self) -> FloatArray:
        return np.atleast_1d(np.asarray(self.multiplier.value, dtype=np.float64))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the multiplier to the model: its ``load_replay_buffer`` sets it again."""
        return {name: value for name, value in vars(self).items() if name != "multiplier"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore; until ``multiplier`` is set, rewards stay mixed as they were."""
        vars(self).update(state)
        rules = [FixedMultiplier(float(price)) for price in self.mixed_at]
        self.multiplier = rules[0] if len(rules) == 1 else VectorMultiplier(rules)


class CostDictReplayBuffer(CostReplayBuffer, DictReplayBuffer):
    """`CostReplayBuffer` for Dict observations."""


class CostNStepReplayBuffer(CostReplayBuffer, NStepReplayBuffer):
    """`CostReplayBuffer` whose samples are n-step returns."""


def mix_rewards(rewards: Any, costs: Any, prices: FloatArray) -> Any:
    """Return ``(reward - sum(prices * costs)) / (1 + sum(prices))``, float32.

    Args:
        rewards: Any shape.
        costs: The same shape and one axis more, of n_costs.
        prices: Multipliers, shape (n_costs,).
    """
    mixed = (rewards - costs @ prices.astype(np.float32)) / np.float32(1.0 + prices.sum())
    return mixed.astype(np.float32, copy=False)


def buffer_class(observation_space: spaces.Space[Any], n_steps: int) -> type[CostReplayBuffer]:
    """Return the buffer that fits, as Stable-Baselines3 would choose it."""
    if isinstance(observation_space, spaces.Dict):
        return CostDictReplayBuffer
    return CostNStepReplayBuffer if n_steps > 1 else CostReplayBuffer
