"""On-policy algorithms with a Lagrangian and two critics, one of reward and one of cost."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, PyTorchObs
from stable_baselines3.common.utils import explained_variance, obs_as_tensor

from agents.algorithms.cost_critic import (
    CostCriticCnnPolicy,
    CostCriticMultiInputPolicy,
    CostCriticPolicy,
    cost_gae,
    fit_cost_critic,
    mix_advantages,
)
from agents.algorithms.rollouts import RewrittenRollouts
from agents.costs import FloatArray
from agents.errors import InvalidTypeError, InvalidValueError

CriticArray = npt.NDArray[np.float32]


class TwoCritics(RewrittenRollouts):
    """Mixin: an on-policy algorithm whose advantages weigh reward against cost.

    What the algorithm follows, in place of the advantage ``A_r`` of reward, is
    ``A = (A_r - lambda * (A_c - mean(A_c))) / (1 + lambda)``, with

    - ``A_r``, ``A_c``: the advantages of reward and of cost of a step, each in its unit, ``u_r``
      and ``u_c`` of `Constrained`, by GAE with a critic each, which learn in these units too;
    - ``mean``: over the rollout;
    - ``lambda``: the multiplier, see `Constrained`; with several costs ``lambda * A_c`` and
      ``lambda`` are sums over them.

    Everything of the algorithm stays as it is (its loop, its losses, its schedules); only the
    advantages change, and the weight of an entropy bonus, which is divided by ``1 + lambda`` too.
    Once per rollout:

    1. the units are settled, and the multiplier moves by the mean undiscounted cost of the episodes
       that finished, minus the limit (nothing moves when none finished);
    2. a critic of its own estimates the advantages of cost, A_c, by GAE;
    3. the algorithm updates the policy with ``(A_r - multiplier * A_c) / (1 + multiplier)``, A_c
       centred;
    4. the cost critic is fitted.

    With ``FixedMultiplier(0.0)`` and unnormalised advantages it is the algorithm it extends, to the
    last bit. ``save`` keeps the multiplier, the cost critic and its optimiser.

    | logged | meaning |
    |---|---|
    | ``lagrange/*`` | see `Constrained` |
    | ``train/cost_value_loss`` | mean squared error of the cost critic while it is fitted |
    | ``train/cost_explained_variance`` | how much of the cost returns it explained before |
    | everything else | as the algorithm logs it; ``train/*`` is of the mixed advantages |

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
            `CostCriticPolicy`.
        env: The environment; it reports ``info["cost"]`` on every step.
        *args: Further arguments of the algorithm.
        multiplier: The multiplier; `GradientMultiplier` with its defaults if left out. A list of
            them is one for each cost of ``info["costs"]``.
        cost_limit: Limit on the mean episodic cost; if left out it is read from the environment,
            at every rollout.
        cost_gamma: Discount of the cost critic, in [0, 1]. The limit is on the undiscounted sum
            of an episode, so 1.0 is right wherever episodes are short. With 1.0 a truncated episode
            ends for the cost critic, as its sum does; below, the last state's value counts.
        cost_gae_lambda: Trade-off of the cost advantages' GAE, in [0, 1].
        cost_n_epochs: Passes of the cost critic over a rollout; if left out as many as the
            algorithm makes itself.
        normalize_reward_advantage: Whether A_r is standardised over the rollout. Without, the
            multiplier has a fixed optimum. With, it weighs standard deviations of A_r, which
            shrink as the policy settles.
        **kwargs: All other arguments of the algorithm.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CostCriticPolicy,
        "CnnPolicy": CostCriticCnnPolicy,
        "MultiInputPolicy": CostCriticMultiInputPolicy,
    }
    policy: CostCriticPolicy
    refused = frozenset({"normalize_advantage"})
    rewards_are_scaled = True  # the cost has a critic and a unit of its own

    def __init__(
        self,
        policy: str | type[CostCriticPolicy],
        env: GymEnv | str | None,
        *args: Any,
        cost_gamma: float = 1.0,
        cost_gae_lambda: float = 0.95,
        cost_n_epochs: int | None = None,
        normalize_reward_advantage: bool = False,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if "normalize_advantage" in kwargs:
            raise InvalidTypeError(
                f"normalize_advantage is not an argument of {type(self).__name__}: it would "
                "rescale the cost too. Use normalize_reward_advantage=True or False."
            )
        _check_fraction("cost_gamma", cost_gamma)
        _check_fraction("cost_gae_lambda", cost_gae_lambda)
        if cost_n_epochs is not None and cost_n_epochs < 1:
            raise InvalidValueError(
                f"cost_n_epochs is {cost_n_epochs!r}; it must be an integer >= 1, or None for "
                "as many passes as the algorithm makes itself."
            )
        super().__init__(
            policy, env, *args, normalize_advantage=False, _init_setup_model=False, **kwargs
        )
        if not issubclass(self.policy_class, CostCriticPolicy):
            raise InvalidTypeError(
                f"policy is {self.policy_class.__name__}, which has no cost critic. Name "
                f"one of {sorted(self.policy_aliases)} or subclass CostCriticPolicy."
            )
        if self.n_costs > 1:
            self.policy_kwargs = {**self.policy_kwargs, "n_costs": self.n_costs}
        self.cost_gamma = cost_gamma
        self.cost_gae_lambda = cost_gae_lambda
        self.cost_n_epochs = cost_n_epochs
        self.normalize_reward_advantage = normalize_reward_advantage
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        if not hasattr(self, "_cost_rng"):  # a loaded model goes on with its own
            self._cost_rng = np.random.default_rng(self.seed)

    # -- the rollout -----------------------------------------------------------------------------

    def _begin_rollout(self) -> None:
        super()._begin_rollout()
        self._cut: list[tuple[int, int, Any]] = []  # step, env, last observation of truncated ones

    def _watch_step(self, scope: dict[str, Any]) -> FloatArray:
        goes_on = self.cost_gamma < 1.0  # without a discount it would go on for ever
        for index, (info, done) in enumerate(zip(scope["infos"], scope["dones"], strict=True)):
            if goes_on and done and info.get("TimeLimit.truncated", False):
                self._cut.append((len(self._costs), index, info["terminal_observation"]))
        return super()._watch_step(scope)

    def _end_rollout(self, scope: dict[str, Any]) -> None:
        self._move_multiplier()
        if self.unit_free:
            self._rewrite(np.array(self._rewards, dtype=np.float32) / self.units.reward, scope)

    # -- the update ------------------------------------------------------------------------------

    def train(self) -> None:
        """Update the policy with mixed advantages, then fit the cost critic."""
        buffer = self.rollout_buffer
        observations = self._flat_observations()  # before the algorithm flattens the buffer
        flat_values = self._predict_costs(observations)  # (n_envs * n_steps, n_costs)
        shape = (buffer.n_envs, buffer.buffer_size, self.n_costs)
        values = flat_values.reshape(shape).swapaxes(0, 1)
        advantages, returns = self._cost_advantages(values)
        buffer.advantages = self.mix_advantages(buffer.advantages, advantages)
        super().train()
        self._update_learning_rate(self.policy.cost_optimizer)
        targets = returns.swapaxes(0, 1).reshape(flat_values.shape)
        own_epochs = getattr(self, "n_epochs", getattr(self, "n_critic_updates", 1))
        loss = fit_cost_critic(
            self.policy,
            observations,
            th.as_tensor(targets, device=self.device),
            n_epochs=self.cost_n_epochs or own_epochs,
            batch_size=getattr(self, "batch_size", len(targets)),
            max_grad_norm=getattr(self, "max_grad_norm", math.inf) or math.inf,
            rng=self._cost_rng,
        )
        self.logger.record("train/cost_value_loss", loss)
        explained = explained_variance(flat_values.flatten(), targets.flatten())
        self.logger.record("train/cost_explained_variance", explained)

    def mix_advantages(
        self, reward_advantages: CriticArray, cost_advantages: CriticArray
    ) -> CriticArray:
        """Return what the policy follows, (n_steps, n_envs): the hook of other methods.

        Args:
            reward_advantages: In units of reward, shape (n_steps, n_envs).
            cost_advantages: In units of cost, shape (n_steps, n_envs, n_costs).
        """
        return mix_advantages(
            reward_advantages,
            cost_advantages,
            self.weights,
            normalize=self.normalize_reward_advantage,
        )

    def _flat_observations(self) -> PyTorchObs:
        """Return the rollout's observations, environment by environment, as the buffer does."""
        observations: Any = self.rollout_buffer.observations
        flatten = self.rollout_buffer.swap_and_flatten
        if isinstance(observations, dict):
            return obs_as_tensor({k: flatten(v) for k, v in observations.items()}, self.device)
        return obs_as_tensor(flatten(observations), self.device)

    def _cost_advantages(self, values: CriticArray) -> tuple[CriticArray, CriticArray]:
        """Return cost advantages and returns, (n_steps, n_envs, n_costs), given the values.

        All are in units of cost.
        """
        costs = np.array(np.array(self._costs) / self.units.costs, dtype=np.float32)
        for step, env_index, observation in self._cut:
            terminal = self.policy.obs_to_tensor(observation)[0]
            costs[step, env_index] += self.cost_gamma * self._predict_costs(terminal)[0]
        last_observation: Any = self._last_obs  # of the step after the rollout
        last_dones: Any = self._last_episode_starts
        return cost_gae(
            costs,
            values,
            self.rollout_buffer.episode_starts,
            self._predict_costs(obs_as_tensor(last_observation, self.device)),
            last_dones,
            gamma=self.cost_gamma,
            gae_lambda=self.cost_gae_lambda,
        )

    def _predict_costs(self, observations: PyTorchObs) -> CriticArray:
        with th.no_grad():
            return self.policy.predict_cost_values(observations).cpu().numpy()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_cut"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "policy.cost_optimizer"], variables


class PPOLagrangian(TwoCritics, PPO):
    """PPO with a Lagrangian and two critics; see `TwoCritics` for what it does.

    Maximises ``mean(min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A))``, with ``ratio`` the
    probability of an action under the policy over that under the policy of the rollout, ``eps`` the
    ``clip_range`` and ``A`` the mixed advantage of `TwoCritics`.

    - Paper: PPO-Lagrangian of Ray et al. 2019, "Benchmarking Safe Exploration in Deep Reinforcement
      Learning": maximise ``L_clip(A_r) - multiplier * L(A_c)``, divided by ``1 + multiplier``.
    - Ours: the clipped surrogate of ``(A_r - multiplier * A_c) / (1 + multiplier)``.
    - Deviations: the clipping sees the mixed advantage; the multiplier takes plain gradient steps
      or follows another rule, whichever is handed in.
    - Logs: what `TwoCritics` does, and PPO's ``train/*``.

    Example:
        >>> from agents import BudgetToyEnv, PPOLagrangian
        >>> model = PPOLagrangian("MlpPolicy", BudgetToyEnv(), n_steps=64, seed=0, device="cpu")
        >>> model.learn(128).multiplier.value > 0.0
        True
    """

    made_by = "PPOLagrangian"


class A2CLagrangian(TwoCritics, A2C):
    """A2C with a Lagrangian and two critics; see `TwoCritics` for what it does.

    The policy gradient is ``mean(A * grad log pi(a | s))``, with ``pi(a | s)`` the probability of
    the action that was taken and ``A`` the mixed advantage of `TwoCritics`.

    - Paper: A2C of Mnih et al. 2016, https://arxiv.org/abs/1602.01783, has no constraint; the
      mixture is that of Ray et al. 2019, see `PPOLagrangian`.
    - Ours: Stable-Baselines3's A2C with mixed advantages.
    - Deviations: the cost critic makes one step per rollout, apart from the policy's, unless
      ``cost_n_epochs`` says otherwise.
    - Logs: what `TwoCritics` does, and A2C's ``train/*``.
    """

    made_by = "A2CLagrangian"


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InvalidValueError(f"{name} is {value!r}; it must be in [0, 1]. Try 1.0 or 0.95.")
