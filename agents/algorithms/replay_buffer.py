"""Replay buffers that keep reward and cost apart.

An old transition that was stored with its penalised reward carries the multiplier of its day. These
buffers store both numbers and pay ``(r / u_r - multiplier * c / u_c) / (1 + multiplier)``, ``r``
and ``c`` being reward and cost and ``u_r`` and ``u_c`` their units, with the multiplier and the
units of the moment at which they are sampled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from agents.algorithms.units import Units
from agents.archive import Archive, Array, DamageError, write_archive
from agents.costs import FloatArray, read_cost_vectors, read_costs
from agents.multipliers.rules import AnyMultiplier, VectorMultiplier

FORMAT = 1  # of saved buffers


class CostReplayBuffer(ReplayBuffer):
    """A replay buffer that stores costs beside rewards; also a mixin for other buffers.

    ``rewards`` always holds rewards mixed with one value of the multiplier, ``mixed_at``, in one
    pair of units. When one of them has moved, the next sample rewrites the whole array first: one
    pass over numbers, after which sampling is that of Stable-Baselines3, for single steps and for n
    steps.

    Args:
        *args: Arguments of the buffer.
        multiplier: The multiplier, shared with the model that owns the buffer; not saved with it.
        **kwargs: Arguments of the buffer.

    Attributes:
        units: The units of reward and costs, shared with the model; 1 if nobody sets them.
        raw_rewards: Unpenalised rewards, float32 of shape (size, n_envs).
        costs: Costs, float32 of shape (size, n_envs, n_costs).
    """

    def __init__(self, *args: Any, multiplier: AnyMultiplier, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.multiplier = multiplier
        self.mixed_at: FloatArray = self._weights()
        self.units = Units.of(len(self.mixed_at))
        self._mixed_in = self._unit_numbers()
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
        mixed = self._mix(self.raw_rewards[self.pos], self.costs[self.pos])
        super().add(obs, next_obs, action, mixed, done, infos)

    def _get_samples(self, batch_inds: Any, env: VecNormalize | None = None) -> Any:
        weights, units = self._weights(), self._unit_numbers()
        if not (np.array_equal(weights, self.mixed_at) and np.array_equal(units, self._mixed_in)):
            self.mixed_at, self._mixed_in = weights, units
            self.rewards[:] = self._mix(self.raw_rewards, self.costs)
        return super()._get_samples(batch_inds, env)

    def _weights(self) -> FloatArray:
        return np.atleast_1d(np.asarray(self.multiplier.value, dtype=np.float64))

    def _unit_numbers(self) -> FloatArray:
        """Return the units of today, of reward and then of the costs."""
        return np.array([self.units.reward, *self.units.costs])

    def _mix(self, rewards: Any, costs: Any) -> Any:
        reward_unit, cost_units = self._mixed_in[0], self._mixed_in[1:]
        return mix_rewards(rewards / np.float32(reward_unit), costs, self.mixed_at, cost_units)

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
        write_archive(file, data, arrays)

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
        self.rewards[:] = self._mix(self.raw_rewards, self.costs)  # at the price of its new owner


class CostDictReplayBuffer(CostReplayBuffer, DictReplayBuffer):
    """`CostReplayBuffer` for Dict observations."""


class CostNStepReplayBuffer(CostReplayBuffer, NStepReplayBuffer):
    """`CostReplayBuffer` whose samples are n-step returns."""


def mix_rewards(
    rewards: Any, costs: Any, weights: FloatArray, cost_units: FloatArray | float = 1.0
) -> Any:
    """Return ``(reward - sum(weights * costs / cost_units)) / (1 + sum(weights))``, float32.

    Args:
        rewards: In their unit, any shape.
        costs: The same shape and one axis more, of n_costs.
        weights: Multipliers, shape (n_costs,).
        cost_units: Units of the costs, shape (n_costs,).
    """
    priced = costs @ (weights / cost_units).astype(np.float32)
    mixed = (rewards - priced) / np.float32(1.0 + weights.sum())
    return mixed.astype(np.float32, copy=False)


def buffer_class(observation_space: spaces.Space[Any], n_steps: int) -> type[CostReplayBuffer]:
    """Return the buffer that fits, as Stable-Baselines3 would choose it."""
    if isinstance(observation_space, spaces.Dict):
        return CostDictReplayBuffer
    return CostNStepReplayBuffer if n_steps > 1 else CostReplayBuffer
