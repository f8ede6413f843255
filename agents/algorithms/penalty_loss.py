"""P3O and IPO: PPO whose loss itself holds the limit, by a penalty or by a barrier."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from agents.algorithms.cost_critic import mix_advantages
from agents.algorithms.model_file import SavedModel
from agents.algorithms.step_constraint import StepConstraint
from agents.algorithms.two_critics import CriticArray
from agents.errors import InvalidTypeError
from agents.multipliers.penalties import BarrierMultiplier, PenaltyMultiplier
from agents.multipliers.rules import FixedMultiplier, VectorMultiplier


class BatchRolloutBuffer(RolloutBuffer):
    """A rollout buffer that says which steps the last minibatch holds.

    Attributes:
        batch: Their indices in the flattened buffer, shape (n,).
    """

    batch: Any

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        self.batch = batch_inds
        return super()._get_samples(batch_inds, env)


class BatchDictRolloutBuffer(BatchRolloutBuffer, DictRolloutBuffer):
    """`BatchRolloutBuffer` for Dict observations."""


class PenaltyLoss(StepConstraint, PPO):
    """PPO with two critics and a penalty of cost inside the loss of every minibatch.

    Minimises PPO's loss, with the advantages of reward alone, plus ``psi(z) / T`` for each cost,

    - ``z = v + T * mean(max(ratio * A_c, clip(ratio, 1 - eps, 1 + eps) * A_c) - A_c)``: the cost of
      the policy as it is in this minibatch, minus the limit, in units of the limit;
    - ``v``: the violation ``(J_c - d) / u_c`` of the rollout, ``T`` the mean length of an episode;
    - ``psi``: the method's penalty of a violation.

    See `StepConstraint` for ``T`` and what the mean of ``ratio * A_c`` says of the cost, and
    `Constrained` for the units. The mean of ``A_c`` itself, zero but for noise, is taken away. The
    worse of both products is the pessimism that PPO has about rewards, turned round for costs.

    ``model.multiplier`` holds the penalty's arguments, and its value is the slope of ``psi`` at
    ``v``, what the first minibatch of the last update paid for cost. Before the first episode has
    finished there is no penalty. With a `FixedMultiplier` there is none at all: the policy follows
    the mixed advantages of `TwoCritics`; at 0.0 it is PPO, to the last bit.
    """

    _rule: ClassVar[type[PenaltyMultiplier | BarrierMultiplier]]
    _has_entropy_bonus = False  # it has its weight already when the penalty joins it

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *args: Any,
        multiplier: Any = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        multiplier = self._checked_rule(self._rule() if multiplier is None else multiplier)
        super().__init__(
            policy, env, *args, multiplier=multiplier, _init_setup_model=False, **kwargs
        )
        given = self.rollout_buffer_class
        if given is not None and not issubclass(given, BatchRolloutBuffer):
            raise InvalidTypeError(
                f"rollout_buffer_class is {given.__name__}, which does not say what is in a "
                "minibatch. Leave it out, or subclass BatchRolloutBuffer of "
                "agents.algorithms.penalty_loss."
            )
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = BatchDictRolloutBuffer if is_dict else BatchRolloutBuffer
        super()._setup_model()

    @classmethod
    def load(  # type: ignore[override]
        cls, path: SavedModel, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model; see `Constrained.load`."""
        if "multiplier" in kwargs:
            cls._checked_rule(kwargs["multiplier"])
        return super().load(path, *args, **kwargs)

    @classmethod
    def _checked_rule(cls, multiplier: Any) -> Any:
        kinds = {type(rule) for rule in _rules(multiplier)}
        if kinds not in ({cls._rule}, {FixedMultiplier}):
            raise InvalidTypeError(
                f"multiplier is {multiplier!r}; {cls.__name__} has a penalty in its loss and takes "
                f"its arguments as a {cls._rule.__name__}, or a list with one for every cost, or a "
                "FixedMultiplier, which takes the penalty's place. For other rules take "
                "PPOLagrangian."
            )
        return multiplier

    @property
    def _is_fixed(self) -> bool:
        return all(isinstance(rule, FixedMultiplier) for rule in _rules(self.multiplier))

    def penalty(self, excess: th.Tensor) -> th.Tensor:
        """Return ``psi`` of violations in units of cost, both of shape (n_costs,)."""
        raise NotImplementedError

    def mix_advantages(
        self, reward_advantages: CriticArray, cost_advantages: CriticArray
    ) -> CriticArray:
        """Return the advantages of reward, and keep those of cost for the penalty."""
        if self._is_fixed:
            return super().mix_advantages(reward_advantages, cost_advantages)
        flat = self.rollout_buffer.swap_and_flatten(cost_advantages)
        self._flat_advantages = th.as_tensor(flat, device=self.device)  # (n, n_costs)
        return mix_advantages(
            reward_advantages,
            cost_advantages,
            np.zeros(self.n_costs),
            normalize=self.normalize_reward_advantage,
        )

    def train(self) -> None:
        """Update the policy with the penalty in its loss, then fit the cost critic."""
        weight: Any = self.ent_coef
        if self._is_fixed:
            self.ent_coef = weight / (1.0 + float(self.weights.sum()))
        else:
            self.policy.bonus, self.ent_coef = self._bonus(weight), 1.0
        try:
            super().train()
        finally:
            self.policy.bonus, self.ent_coef = None, weight

    def _bonus(self, weight: float) -> Any:
        """Return what PPO rewards in place of entropy: it, with its weight, minus the penalty."""
        length = self._episode_length
        violation = None
        if self.violation is not None:
            numbers = np.asarray(self.violation / self.units.costs, dtype=np.float32)
            violation = th.as_tensor(numbers, device=self.device)

        def bonus(log_prob: th.Tensor, entropy: th.Tensor | None) -> th.Tensor:
            rewarded = weight * (-log_prob if entropy is None else entropy)
            if violation is None:
                return rewarded
            buffer: Any = self.rollout_buffer
            old = th.as_tensor(buffer.log_probs[buffer.batch], device=self.device).flatten()
            change = self._surrogate(th.exp(log_prob - old)[:, None], buffer.batch)
            return rewarded - self.penalty(violation + length * change).sum() / length

        return bonus

    def _surrogate(self, ratio: th.Tensor, batch: Any) -> th.Tensor:
        """Return the mean cost per step that the policy adds in a minibatch, (n_costs,)."""
        advantages = self._flat_advantages[batch]
        clip_range = float(self.clip_range(self._current_progress_remaining))  # type: ignore[operator]
        clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
        return (th.maximum(ratio * advantages, clipped * advantages) - advantages).mean(dim=0)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_flat_advantages"]

    def _parameter(self, name: str) -> th.Tensor:
        """Return an argument of the rules, one for each cost."""
        return th.tensor(
            [float(getattr(rule, name)) for rule in _rules(self.multiplier)], device=self.device
        )


def _rules(multiplier: Any) -> list[Any]:
    """Return the rule for every cost."""
    if isinstance(multiplier, VectorMultiplier):
        return list(multiplier.multipliers)
    return list(multiplier) if isinstance(multiplier, list | tuple) else [multiplier]


class P3O(PenaltyLoss):
    """Penalized Proximal Policy Optimization: an exact penalty inside PPO's loss.

    The loss of a minibatch is PPO's plus ``kappa * max(0, z) / T``; see `PenaltyLoss` for z and T.

    - Paper: Zhang et al. 2022, https://arxiv.org/abs/2205.11814: minimise ``-L_clip(A_r) + kappa *
      max(0, L_clip(A_c) + (1 - gamma) * (J_c - d))``, ``L_clip(A_c)`` the mean of the larger of the
      clipped and the unclipped product.
    - Ours: that loss, for the undiscounted sum of an episode: ``1 / T`` stands for ``1 - gamma``.
    - Deviations: the units, in which ``kappa`` has none; A_c is centred in each minibatch.

    Any ``kappa`` larger than the optimal multiplier holds the limit; a larger one oscillates more.

    | logged | meaning |
    |---|---|
    | ``lagrange/multiplier`` | kappa where the last episodes broke the limit, else 0 |
    | ``train/entropy_loss`` | the penalty, minus the entropy with its weight |
    | the others of ``train/*``, ``lagrange/*`` | see `TwoCritics` and PPO |

    Args:
        policy: As in `TwoCritics`.
        env: The environment; it reports ``info["cost"]`` on every step.
        *args: Further arguments of PPO.
        multiplier: ``PenaltyMultiplier(kappa=...)``, the weight of the penalty; a list is one for
            each of ``info["costs"]``.
        **kwargs: Further arguments of PPO and of `TwoCritics`.

    Example:
        >>> from agents import BudgetToyEnv
        >>> model = P3O("MlpPolicy", BudgetToyEnv(), n_steps=64, seed=0, device="cpu")
        >>> model.learn(128).multiplier.value  # kappa: the first policy breaks the limit
        5.0
    """

    made_by = "P3O"
    _rule = PenaltyMultiplier

    def penalty(self, excess: th.Tensor) -> th.Tensor:
        """Return ``kappa * max(0, excess)``."""
        return self._parameter("kappa") * th.relu(excess)


class IPO(PenaltyLoss):
    """Interior-point Policy Optimization: a logarithmic barrier inside PPO's loss.

    The loss of a minibatch is PPO's plus ``psi(z) / T`` with ``psi(z) = -log(-z) / t``, and its
    tangent from where the slope is ``upper_bound``; see `PenaltyLoss` for z and T.

    - Paper: Liu, Ding and Liu 2019, https://arxiv.org/abs/1910.09615: maximise ``L_clip(A_r) +
      log(d - J_c) / t``, from a policy within the limit.
    - Ours: that barrier, around the cost of the policy as it changes within an update.
    - Deviations: the units, in which ``t`` has none; the tangent, which leads back from outside,
      where the logarithm has no value; A_c is centred in each minibatch and clipped.

    It settles *below* the limit, by a fraction ``1 / (t * multiplier)`` of it.

    | logged | meaning |
    |---|---|
    | ``lagrange/multiplier`` | the slope of the barrier at the cost of the last episodes |
    | ``train/entropy_loss`` | the barrier, minus the entropy with its weight |
    | the others of ``train/*``, ``lagrange/*`` | see `TwoCritics` and PPO |

    Args:
        policy: As in `TwoCritics`.
        env: The environment; it reports ``info["cost"]`` on every step.
        *args: Further arguments of PPO.
        multiplier: ``BarrierMultiplier(t=..., upper_bound=...)``: the steepness, a larger one stays
            closer to the limit, and the largest slope; a list is one for each of
            ``info["costs"]``.
        **kwargs: Further arguments of PPO and of `TwoCritics`.

    Example:
        >>> from agents import BudgetToyEnv
        >>> model = IPO("MlpPolicy", BudgetToyEnv(), n_steps=64, seed=0, device="cpu")
        >>> model.learn(128).multiplier.value  # the first policy breaks the limit
        20.0
    """

    made_by = "IPO"
    _rule = BarrierMultiplier

    def penalty(self, excess: th.Tensor) -> th.Tensor:
        """Return the barrier, and its tangent where it is steeper than ``upper_bound``."""
        t, steepest = self._parameter("t"), self._parameter("upper_bound")
        edge = -1.0 / (t * steepest)
        inside = -th.log(-th.minimum(excess, edge)) / t
        return inside + steepest * th.relu(excess - edge)
