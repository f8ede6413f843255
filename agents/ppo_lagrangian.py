"""PPO with a Lagrangian and two critics."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.utils import explained_variance, obs_as_tensor

from agents.cost_critic import (
    CostCriticCnnPolicy,
    CostCriticMultiInputPolicy,
    CostCriticPolicy,
    cost_gae,
    fit_cost_critic,
    mix_advantages,
)
from agents.costs import EpisodeCosts, FloatArray, check_cost_limit, read_cost_limit, read_costs
from agents.lagrangian import LagrangianVecEnv, dual_step, layers
from agents.multipliers import Multiplier, check_multiplier


class PPOLagrangian(PPO):
    """PPO that keeps the mean episodic cost at or below a limit.

    Everything of PPO stays as it is (its loop, its losses, its schedules); only the advantages
    change. Once per rollout:

    1. the multiplier moves by the mean undiscounted cost of the episodes that finished, minus the
       limit (nothing moves when none finished);
    2. a critic of its own estimates the advantages of cost, A_c, by GAE;
    3. PPO updates the policy with ``(A_r - multiplier * A_c) / (1 + multiplier)``, A_c centred;
    4. the cost critic is fitted.

    With ``FixedMultiplier(0.0)`` and unnormalised advantages it is PPO, to the last bit.
    ``save`` keeps the multiplier, the cost critic and its optimiser. Logs ``lagrange/*``,
    ``train/cost_value_loss`` and ``train/cost_explained_variance``.

    Paper: PPO-Lagrangian of Ray et al. 2019, "Benchmarking Safe Exploration in Deep Reinforcement
    Learning". Deviations: the multiplier takes plain gradient steps or follows a controller,
    whichever is handed in, and the clipped surrogate sees the mixed advantage.

    Example:
        >>> from agents import BudgetToyEnv, PPOLagrangian
        >>> model = PPOLagrangian("MlpPolicy", BudgetToyEnv(), n_steps=64, seed=0, device="cpu")
        >>> model.learn(128).multiplier.value > 0.0
        True

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
            `CostCriticPolicy`.
        env: The environment; it reports ``info["cost"]`` on every step.
        multiplier: The multiplier; `GradientMultiplier` with its defaults if left out.
        cost_limit: Limit on the mean episodic cost; if left out it is read from the environment,
            at every rollout.
        cost_gamma: Discount of the cost critic, in [0, 1]. The limit is on the undiscounted sum,
            so 1.0 is right wherever episodes are short.
        cost_gae_lambda: Trade-off of the cost advantages' GAE, in [0, 1].
        cost_n_epochs: Passes of the cost critic over a rollout; ``n_epochs`` of PPO if left out.
        normalize_reward_advantage: Whether A_r is standardised over the rollout. Without, the
            multiplier is a price in units of reward, which has a fixed optimum. With, it is one
            in standard deviations of A_r, which shrink as the policy settles: for rewards of a
            size that is unknown or far from 1.
        **ppo_kwargs: All other arguments of ``stable_baselines3.PPO``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": CostCriticPolicy,
        "CnnPolicy": CostCriticCnnPolicy,
        "MultiInputPolicy": CostCriticMultiInputPolicy,
    }
    policy: CostCriticPolicy

    def __init__(
        self,
        policy: str | type[CostCriticPolicy],
        env: GymEnv | str,
        *,
        multiplier: Multiplier | None = None,
        cost_limit: float | None = None,
        cost_gamma: float = 1.0,
        cost_gae_lambda: float = 0.95,
        cost_n_epochs: int | None = None,
        normalize_reward_advantage: bool = False,
        _init_setup_model: bool = True,
        **ppo_kwargs: Any,
    ) -> None:
        if "normalize_advantage" in ppo_kwargs:
            raise TypeError(
                "normalize_advantage is not an argument of PPOLagrangian: it would rescale the "
                "cost too, once per minibatch. Use normalize_reward_advantage=True or False."
            )
        _check_fraction("cost_gamma", cost_gamma)
        _check_fraction("cost_gae_lambda", cost_gae_lambda)
        if cost_n_epochs is not None and cost_n_epochs < 1:
            raise ValueError(
                f"cost_n_epochs is {cost_n_epochs!r}; it must be an integer >= 1, or None for "
                "the n_epochs of PPO."
            )
        super().__init__(
            policy, env, normalize_advantage=False, _init_setup_model=False, **ppo_kwargs
        )
        if not issubclass(self.policy_class, CostCriticPolicy):
            raise TypeError(
                f"policy is {self.policy_class.__name__}, which has no cost critic. Name "
                f"one of {sorted(self.policy_aliases)} or subclass CostCriticPolicy."
            )
        self.multiplier = check_multiplier(multiplier)
        self.cost_limit = None if cost_limit is None else check_cost_limit(cost_limit)
        self.cost_gamma = cost_gamma
        self.cost_gae_lambda = cost_gae_lambda
        self.cost_n_epochs = cost_n_epochs
        self.normalize_reward_advantage = normalize_reward_advantage
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        if self.env is not None:  # a model may be loaded without one
            self._read_limit()
        super()._setup_model()
        self._recorder = _CostRecorder(self.n_envs)
        self._cost_rng = np.random.default_rng(self.seed)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        self._read_limit()  # set_env may have brought another environment
        callbacks: list[BaseCallback] = [self._recorder]
        if isinstance(callback, list):
            callbacks += callback
        elif isinstance(callback, BaseCallback):
            callbacks.append(callback)
        elif callback is not None:
            callbacks.append(ConvertCallback(callback))
        return super()._init_callback(callbacks, progress_bar)

    def _read_limit(self) -> float:
        """Return the limit that holds now, after checking that costs are not charged twice."""
        if self.env is None:
            raise ValueError(
                "env is None: the model was loaded without an environment. Call set_env(env) "
                "before learn, or load(path, env=env)."
            )
        if any(isinstance(layer, LagrangianVecEnv) for layer in layers(self.env)):
            raise ValueError(
                "env has a LagrangianVecEnv, which already subtracts the cost from the reward; "
                "PPOLagrangian would charge it twice. Pass the environment without this wrapper."
            )
        return read_cost_limit(self.env) if self.cost_limit is None else self.cost_limit

    def train(self) -> None:
        """Move the multiplier, update the policy with mixed advantages, fit the cost critic."""
        dual_step(self.multiplier, self._recorder.finished, self._read_limit(), self.logger)
        buffer = self.rollout_buffer
        observations = self._flat_observations()  # before PPO flattens the buffer in place
        with th.no_grad():
            values = self.policy.predict_cost_values(observations).cpu().numpy()
        values = values.reshape(buffer.n_envs, buffer.buffer_size).T
        advantages, returns = self._cost_advantages(values)
        buffer.advantages = mix_advantages(
            buffer.advantages,
            advantages,
            self.multiplier.value,
            normalize=self.normalize_reward_advantage,
        )
        super().train()
        self._update_learning_rate(self.policy.cost_optimizer)
        loss = fit_cost_critic(
            self.policy,
            observations,
            th.as_tensor(returns.T.flatten(), device=self.device),
            n_epochs=self.cost_n_epochs or self.n_epochs,
            batch_size=self.batch_size,
            max_grad_norm=self.max_grad_norm,
            rng=self._cost_rng,
        )
        self.logger.record("train/cost_value_loss", loss)
        explained = explained_variance(values.flatten(), returns.flatten())
        self.logger.record("train/cost_explained_variance", explained)

    def _flat_observations(self) -> PyTorchObs:
        """Return the rollout's observations, environment by environment, as PPO flattens them."""
        observations: Any = self.rollout_buffer.observations
        flatten = self.rollout_buffer.swap_and_flatten
        if isinstance(observations, dict):
            return obs_as_tensor({k: flatten(v) for k, v in observations.items()}, self.device)
        return obs_as_tensor(flatten(observations), self.device)

    def _cost_advantages(
        self, values: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return cost advantages and returns, (n_steps, n_envs), given the values of the states."""
        costs = np.array(self._recorder.costs, dtype=np.float32)  # (n_steps, n_envs)
        for step, env_index, observation in self._recorder.truncated:
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

    def _predict_costs(self, observations: PyTorchObs) -> npt.NDArray[np.float32]:
        with th.no_grad():
            values = self.policy.predict_cost_values(observations)
        return values.flatten().cpu().numpy()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_recorder", "_cost_rng"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, "policy.cost_optimizer"], variables


class _CostRecorder(BaseCallback):
    """Records what the rollout buffer of PPO has no place for."""

    def __init__(self, n_envs: int) -> None:
        super().__init__()
        self._episode_costs = EpisodeCosts(n_envs)  # outlives rollouts: episodes do too
        self.costs: list[FloatArray] = []
        self.finished: list[float] = []
        self.truncated: list[tuple[int, int, Any]] = []  # step, env, the observation it ended in

    def _on_rollout_start(self) -> None:
        self.costs, self.finished, self.truncated = [], [], []
        # All True after the environments were reset from outside, in the middle of an episode.
        self._episode_costs.reset(self.model._last_episode_starts)

    def _on_step(self) -> bool:
        infos, dones = self.locals["infos"], self.locals["dones"]
        costs = read_costs(infos)
        totals = self._episode_costs.add(costs, dones)
        self.finished += [total for total in totals if total is not None]
        for index, (info, done) in enumerate(zip(infos, dones, strict=True)):
            observation = info.get("terminal_observation")
            if done and observation is not None and info.get("TimeLimit.truncated", False):
                self.truncated.append((len(self.costs), index, observation))
        self.costs.append(costs)
        return True


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value!r}; it must be in [0, 1]. Try 1.0 or 0.95.")
