"""FOCOPS: constrained policy optimisation with first-order steps only, on PPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs

from agents.algorithms.cost_critic import (
    CostCriticCnnPolicy,
    CostCriticMultiInputPolicy,
    CostCriticPolicy,
)
from agents.algorithms.two_critics import CriticArray, TwoCritics
from agents.errors import InvalidTypeError
from agents.multipliers.checks import check_number

NEVER = 1e6  # a clip range that no ratio of probabilities leaves


class FOCOPSPolicy(CostCriticPolicy):
    """A policy with a cost critic that, while `FOCOPS` trains it, stays near an older policy.

    Where both differ by more than ``max_kl`` in a state, that state has no say: its log-probability
    and its KL divergence carry no gradient. Otherwise it is `CostCriticPolicy`.

    Args:
        *args: Arguments of `CostCriticPolicy`.
        **kwargs: Arguments of `CostCriticPolicy`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stay_near(None)

    def stay_near(
        self, old: Callable[[PyTorchObs], Distribution] | None, max_kl: float = 0.0
    ) -> None:
        """Measure the KL divergence from a policy from now on, or, for None, no longer.

        Args:
            old: Returns the distribution of the older policy for observations.
            max_kl: Largest KL divergence at which a state has a say, in nats.
        """
        self._old, self._max_kl = old, max_kl

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Return values, log-probabilities and entropies of actions.

        While the policy stays near an older one, the entropies, which PPO rewards, are minus the
        KL divergence from it, shape (n,).
        """
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        if self._old is None:
            return values, log_prob, entropy
        with th.no_grad():
            old = self._old(obs)
        # The policy's distribution is the one that was just evaluated. Of a Gaussian and of bits
        # the divergence comes for each dimension of the action.
        divergence = kl_divergence(self.action_dist, old).reshape(len(log_prob), -1).sum(dim=1)
        near = divergence.detach() <= self._max_kl
        return values, _held(near, log_prob), _held(near, -divergence)


class FOCOPSCnnPolicy(FOCOPSPolicy, CostCriticCnnPolicy):
    """`FOCOPSPolicy` for images."""


class FOCOPSMultiInputPolicy(FOCOPSPolicy, CostCriticMultiInputPolicy):
    """`FOCOPSPolicy` for Dict observations."""


class FOCOPS(TwoCritics, PPO):
    """First Order Constrained Optimization in Policy Space, with two critics.

    Minimises the mean over states of ``near * (KL(pi || pi_k) - A * ratio / temperature)``, with

    - ``pi``, ``pi_k``: the policy, and that of the rollout; ``ratio`` the probability of an action
      under the one over that under the other;
    - ``near``: 1 in states where ``KL(pi || pi_k) <= target_kl``, else 0;
    - ``A``: the mixed advantage of `TwoCritics` over its standard deviation in the rollout.

    - Paper: Zhang et al. 2020, https://arxiv.org/abs/2002.06506. Minimise the mean over states of
      ``KL(pi || pi_k) - (A_r - nu A_c) * ratio / temperature``, where only states with
      ``KL(pi || pi_k) <= target_kl`` count, pi_k being the policy of the rollout; end the epochs
      when the mean KL divergence exceeds ``target_kl``; move nu by projected gradient.
    - Ours: that loss, through PPO's: its clipping never acts, its entropy bonus is minus the KL
      divergence with weight 1, and the advantages come divided by ``temperature``. nu is the
      multiplier, any rule; the paper's is ``GradientMultiplier(learning_rate=0.01, initial=0.0,
      upper_bound=2.0)``.
    - Deviations: the mixed advantages ``A_r - nu A_c`` are divided by their standard deviation over
      the rollout, so that ``temperature`` has no unit while nu is a price in units of reward.
      Early stopping is PPO's: by an estimate of the KL divergence on each minibatch, at 1.5 times
      ``target_kl``. There is no decay of weights.

    PPO's clip range and entropy bonus are taken by the method: ``clip_range`` and ``ent_coef`` are
    no arguments. See `TwoCritics` for what else it does.

    | logged | meaning |
    |---|---|
    | ``train/entropy_loss`` | mean KL divergence from pi_k |
    | ``train/clip_fraction`` | 0: nothing is clipped |
    | the others of ``train/*``, ``lagrange/*`` | see `TwoCritics` and PPO |

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
            `FOCOPSPolicy`.
        env: The environment; it reports ``info["cost"]`` on every step.
        *args: Further arguments of PPO.
        temperature: Weight of the KL divergence against standardised advantages, positive; lambda
            in the paper.
        target_kl: Largest KL divergence from the policy of the rollout, in a state and in the
            mean, positive, in nats.
        **kwargs: Further arguments of PPO and of `TwoCritics`.

    Example:
        >>> from agents import BudgetToyEnv
        >>> model = FOCOPS("MlpPolicy", BudgetToyEnv(), n_steps=64, seed=0, device="cpu")
        >>> model.learn(128).multiplier.value > 0.0
        True
    """

    made_by = "FOCOPS"
    refused = frozenset({*TwoCritics.refused, "clip_range", "ent_coef"})
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": FOCOPSPolicy,
        "CnnPolicy": FOCOPSCnnPolicy,
        "MultiInputPolicy": FOCOPSMultiInputPolicy,
    }
    policy: FOCOPSPolicy
    _has_entropy_bonus = False  # PPO's is the KL divergence here

    def __init__(
        self,
        policy: str | type[FOCOPSPolicy],
        env: GymEnv | str | None,
        *args: Any,
        temperature: float = 1.5,
        target_kl: float = 0.02,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, what in (("clip_range", "clips nothing"), ("ent_coef", "has no entropy bonus")):
            if name in kwargs:
                raise InvalidTypeError(
                    f"{name} is not an argument of FOCOPS, which {what}: the KL divergence from "
                    "the last policy is in its place. Use temperature and target_kl."
                )
        check_number("temperature", temperature, low=0.0, exclusive=True)
        check_number("target_kl", target_kl, low=0.0, exclusive=True)
        super().__init__(
            policy,
            env,
            *args,
            clip_range=NEVER,
            ent_coef=1.0,
            target_kl=target_kl,
            _init_setup_model=False,
            **kwargs,
        )
        if not issubclass(self.policy_class, FOCOPSPolicy):
            raise InvalidTypeError(
                f"policy is {self.policy_class.__name__}, which does not know the policy before "
                f"it. Name one of {sorted(self.policy_aliases)} or subclass FOCOPSPolicy."
            )
        self.temperature = temperature
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        with th.random.fork_rng(devices=[]):  # the policy itself has drawn its numbers
            self._old_policy: Any = self.policy_class(
                self.observation_space,
                self.action_space,
                self.lr_schedule,
                use_sde=self.use_sde,
                **self.policy_kwargs,
            ).to(self.device)
        self._old_policy.set_training_mode(False)

    def train(self) -> None:
        """Update the policy, near the one that made the rollout, and both critics."""
        self._old_policy.load_state_dict(self.policy.state_dict())
        self.policy.stay_near(self._old_policy.get_distribution, float(self.target_kl or 0.0))
        super().train()
        self.policy.stay_near(None)

    def mix_advantages(
        self, reward_advantages: CriticArray, cost_advantages: CriticArray
    ) -> CriticArray:
        """Return what PPO follows: mixed advantages of spread 1; see `TwoCritics`."""
        mixed = super().mix_advantages(reward_advantages, cost_advantages)
        return np.asarray(mixed / ((mixed.std() + 1e-8) * self.temperature), dtype=np.float32)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_old_policy"]


def _held(near: th.Tensor, values: th.Tensor) -> th.Tensor:
    """Return ``values``, with a gradient only where ``near``."""
    return th.where(near, values, values.detach())
