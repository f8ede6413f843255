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

from agents.archive import Archive, Array, DamageError, write_archive
from agents.costs import FloatArray, read_cost_vectors, read_costs
from agents.multipliers.rules import AnyMultiplier, VectorMultiplier

FORMAT = 1  # of saved buffers


class CostReplayBuffer(ReplayBuffer):
    """A replay buffer that stores costs beside rewards; also a mixin for other buffers.

    ``rewards`` always holds rewards mixed with one value of the multiplier, ``mixed_at``. When the
    multiplier has moved, the next sample rewrites the whole array first: one pass over numbers,
    after which sampling is that of Stable-Baselines3, for single steps and for n steps.

    Args:
        *args: Arguments of the buffer.
        multiplier: The multiplier, shared with the model that owns the buffer; not saved with it.
        **kwargs: Arguments of the buffer.

    Attributes:
        raw_rewards: Unpenalised rewards, float32 of shape (size, n_envs).
        costs: Costs, float32 of shape (size, n_envs, n_costs).
    """

    def __init__(self, *args: Any, multiplier: AnyMultiplier, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.multiplier = multiplier
        self.mixed_at: FloatArray = self._prices()
        self.raw_rewards = np.zeros(self.rewards.shape, dtype=np.float32)
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

    # -- files -----------------------------------------------------------------------------------

    def columns(self) -> dict[str, Array]:
        """Return its arrays, of shape (size, n_envs, ...), by name."""
        found: dict[str, Array] = {}
        for name, value in vars(self).items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for key, array in parts:
                if isinstance(array, np.ndarray) and array.shape[:2] == self.rewards.shape:
                    found[f"{name}.{key}" if key else name] = array
        return found

    def save(self, file: Any) -> None:
        """Write what was stored, as an archive of arrays, see `agents.archive`.

        Args:
            file: An open file.
        """
        n_rows = self.buffer_size if self.full else min(self.buffer_size, self.pos + 1)
        data = {
            "_format": FORMAT,
            "buffer_size": self.buffer_size,
            "pos": int(self.pos),
            "full": bool(self.full),
            "n_envs": self.n_envs,
            "n_costs": len(self.mixed_at),
        }
        arrays = {name: column[:n_rows] for name, column in self.columns().items()}
        write_archive(file, data, {**arrays, "mixed_at": self.mixed_at})

    def restore(self, archive: Archive) -> None:
        """Fill a buffer that was made for it with what `save` wrote.

        Raises:
            DamageError: If it is damaged, or of a buffer of other shapes.
        """
        data = archive.json()
        pos, full = data.get("pos"), data.get("full")
        if type(pos) is not int or not 0 <= pos < self.buffer_size or not isinstance(full, bool):
            raise DamageError(f"pos is {pos!r}, full is {full!r}: no place in {self.buffer_size}")
        n_rows = self.buffer_size if full else min(self.buffer_size, pos + 1)
        for name, own in self.columns().items():
            array = archive.array(name)
            if (array.shape, array.dtype) != ((n_rows, *own.shape[1:]), own.dtype):
                raise DamageError(
                    f"{name} is {array.dtype} of shape {array.shape}; the model takes {own.dtype} "
                    f"of shape {(n_rows, *own.shape[1:])}"
                )
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise DamageError(f"{name} holds NaN")
            own[:n_rows] = array
        self.pos, self.full = pos, full
        prices = archive.array("mixed_at")
        if prices.shape != self.mixed_at.shape or not np.isfinite(prices).all():
            raise DamageError(f"mixed_at is {prices}; it must be {len(self.mixed_at)} numbers")
        self.mixed_at = prices


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
