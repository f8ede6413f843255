"""Rollouts of on-policy algorithms whose rewards are another's than the environment's."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor

from agents.algorithms.constrained import Constrained
from agents.costs import FloatArray


class RewrittenRollouts(Constrained, OnPolicyAlgorithm):
    """Mixin: an on-policy algorithm that learns from rewards written when a rollout is complete."""

    _has_entropy_bonus: ClassVar[bool] = True  # where there is an `ent_coef`, it is a weight of it

    def _begin_rollout(self) -> None:
        super()._begin_rollout()
        self._rewards: list[FloatArray] = []  # of every step, (n_envs,)
        self._costs: list[FloatArray] = []  # of every step, (n_envs, n_costs)

    def _watch_step(self, scope: dict[str, Any]) -> FloatArray:
        costs = super()._watch_step(scope)
        self._rewards.append(scope["rewards"].copy())  # SB3 adds to it in place
        self._costs.append(costs)
        return costs

    def _rewrite(self, rewards: npt.NDArray[Any], scope: dict[str, Any]) -> None:
        """Put rewards in the place of those of the rollout, and compute what follows from them.

        Args:
            rewards: Shape (n_steps, n_envs).
            scope: Local variables of SB3's loop.
        """
        # The buffer's rewards hold bootstrapped values of truncated episodes too, which are in
        # the unit of what is learned already.
        before, stored = np.array(self._rewards, dtype=np.float32), self.rollout_buffer.rewards
        changed = rewards.astype(np.float32)
        stored[:] = np.where(changed == before, stored, changed + (stored - before))
        self.rollout_buffer.compute_returns_and_advantage(self._last_values(), scope["dones"])

    def _last_values(self) -> th.Tensor:
        """Return the values of the states after the rollout; not every loop of SB3 shares them."""
        policy: Any = self.policy
        arguments: list[Any] = [obs_as_tensor(self._last_obs, self.device)]  # type: ignore[arg-type]
        if hasattr(self, "_last_lstm_states"):  # RecurrentPPO
            starts = th.tensor(self._last_episode_starts, dtype=th.float32, device=self.device)
            arguments += [self._last_lstm_states.vf, starts]
        with th.no_grad():
            values: th.Tensor = policy.predict_values(*arguments)
        return values

    def train(self) -> None:
        """Update the policy; an entropy bonus is divided by ``1 + lambda``, as all else is."""
        given = getattr(self, "ent_coef", None)
        if given is None or not self._has_entropy_bonus:
            super().train()
            return
        self.ent_coef = given / (1.0 + float(self.weights.sum()))
        try:
            super().train()
        finally:
            self.ent_coef = given

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_rewards", "_costs"]
