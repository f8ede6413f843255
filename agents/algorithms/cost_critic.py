"""A second critic for cost: policies that carry it, its targets, and its regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

FloatArray = npt.NDArray[np.float32]


class CostCriticPolicy(ActorCriticPolicy):
    """Actor and critic as in Stable-Baselines3, and a critic of cost that shares nothing with them.

    The cost critic has its own features extractor, layers (those of the reward critic) and
    optimiser ``cost_optimizer``. Building it leaves torch's random numbers where they were: actor
    and reward critic start, and go on, exactly as they would without it.

    Args:
        *args: Arguments of ``ActorCriticPolicy``.
        n_costs: Number of costs; the critic has one output for each.
        **kwargs: Arguments of ``ActorCriticPolicy``.

    Attributes:
        bonus: While an algorithm with another loss trains: called with the log-probabilities and
            the entropies of a minibatch's actions, each of shape (n,) (entropies None where they
            have no formula), it returns what takes the entropies' place, which PPO rewards.
    """

    def __init__(self, *args: Any, n_costs: int = 1, **kwargs: Any) -> None:
        self.n_costs = n_costs  # before the parent's constructor, which builds the networks
        self.bonus: Callable[[th.Tensor, th.Tensor | None], th.Tensor] | None = None
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        net_arch = self.net_arch
        layers = net_arch.get("vf", []) if isinstance(net_arch, dict) else net_arch
        with th.random.fork_rng(devices=[]):
            self.cost_value_features_extractor = self.make_features_extractor()
            self.cost_value_mlp = MlpExtractor(
                self.features_dim,
                net_arch={"pi": [], "vf": layers},
                activation_fn=self.activation_fn,
                device=self.device,
            )
            self.cost_value_net = nn.Linear(self.cost_value_mlp.latent_dim_vf, self.n_costs)
            if self.ortho_init:
                hidden = partial(self.init_weights, gain=np.sqrt(2))
                self.cost_value_features_extractor.apply(hidden)
                self.cost_value_mlp.apply(hidden)
                self.cost_value_net.apply(partial(self.init_weights, gain=1.0))
        self.cost_optimizer = self.optimizer_class(
            self.cost_parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def evaluate_actions(
        self, obs: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Return values, log-probabilities and entropies of actions, or what takes their place."""
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        if self.bonus is not None:
            entropy = self.bonus(log_prob, entropy)
        return values, log_prob, entropy

    def cost_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters of the cost critic."""
        return chain(
            self.cost_value_features_extractor.parameters(),
            self.cost_value_mlp.parameters(),
            self.cost_value_net.parameters(),
        )

    def predict_cost_values(self, obs: PyTorchObs) -> th.Tensor:
        """Return the expected costs still to come, (n, n_costs), for ``obs`` of n states."""
        features = BasePolicy.extract_features(self, obs, self.cost_value_features_extractor)
        values: th.Tensor = self.cost_value_net(self.cost_value_mlp.forward_critic(features))
        return values


class CostCriticCnnPolicy(CostCriticPolicy, ActorCriticCnnPolicy):
    """`CostCriticPolicy` for images."""


class CostCriticMultiInputPolicy(CostCriticPolicy, MultiInputActorCriticPolicy):
    """`CostCriticPolicy` for Dict observations."""


def cost_gae(
    costs: FloatArray,
    values: FloatArray,
    episode_starts: npt.NDArray[np.bool_] | FloatArray,
    last_values: FloatArray,
    last_dones: npt.NDArray[np.bool_],
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[FloatArray, FloatArray]:
    """Generalised advantage estimation of cost, computed by Stable-Baselines3's own buffer.

    Args:
        costs: Shape (n_steps, n_envs, n_costs); the cost of a truncated step already includes
            ``gamma`` times the value of the state it was cut off at.
        values: Cost values of the states, shape (n_steps, n_envs, n_costs).
        episode_starts: Whether a step was the first of an episode, shape (n_steps, n_envs).
        last_values: Cost values of the states after the last step, shape (n_envs, n_costs).
        last_dones: Whether the last step ended an episode, shape (n_envs,).
        gamma: Discount.
        gae_lambda: Trade-off of GAE; 1.0 is Monte Carlo.

    Returns:
        Advantages and returns, each float32 of shape (n_steps, n_envs, n_costs).
    """
    n_steps, n_envs, n_costs = costs.shape
    unused = spaces.Box(0.0, 1.0, (1,))
    columns = n_envs * n_costs  # to the buffer, every cost is an environment of its own
    buffer = RolloutBuffer(n_steps, unused, unused, "cpu", gae_lambda, gamma, columns)
    buffer.rewards[:] = costs.reshape(n_steps, columns)
    buffer.values[:] = values.reshape(n_steps, columns)
    buffer.episode_starts[:] = np.repeat(episode_starts, n_costs, axis=1)
    last = th.as_tensor(last_values.reshape(columns))
    buffer.compute_returns_and_advantage(last, np.repeat(last_dones, n_costs))
    return buffer.advantages.reshape(costs.shape), buffer.returns.reshape(costs.shape)


def mix_advantages(
    reward_advantages: FloatArray,
    cost_advantages: FloatArray,
    weights: npt.NDArray[np.float64],
    *,
    normalize: bool,
) -> FloatArray:
    """Return ``(A_r - sum(weights * A_c)) / (1 + sum(weights))``.

    Cost advantages are centred but not divided by their spread: it shrinks as the policy settles,
    and the multipliers would have no fixed optimum.

    Args:
        reward_advantages: A_r, shape (n_steps, n_envs).
        cost_advantages: A_c, shape (n_steps, n_envs, n_costs).
        weights: The multipliers, shape (n_costs,).
        normalize: Whether to standardise A_r first.
    """
    if normalize:
        reward_advantages = reward_advantages - reward_advantages.mean()
        reward_advantages = reward_advantages / (reward_advantages.std() + 1e-8)
    cost_advantages = cost_advantages - cost_advantages.mean(axis=(0, 1))
    mixed: FloatArray = (reward_advantages - cost_advantages @ weights) / (1.0 + weights.sum())
    return mixed.astype(np.float32, copy=False)


def fit_cost_critic(
    policy: CostCriticPolicy,
    observations: PyTorchObs,
    targets: th.Tensor,
    *,
    n_epochs: int,
    batch_size: int,
    max_grad_norm: float,
    rng: np.random.Generator,
) -> float:
    """Regress the cost critic on the returns of a rollout.

    Args:
        policy: Its cost critic is trained; nothing else of it is touched.
        observations: Of n states, a tensor or a dict of tensors.
        targets: Cost returns, shape (n, n_costs).
        n_epochs: Passes over the data.
        batch_size: States per gradient step.
        max_grad_norm: Gradients are clipped to this norm.
        rng: Shuffles; a generator of its own leaves the numbers of the policy update alone.

    Returns:
        The mean loss.
    """
    parameters = list(policy.cost_parameters())
    losses = []
    for _ in range(n_epochs):
        order = th.as_tensor(rng.permutation(len(targets)), device=targets.device)
        for batch in th.split(order, batch_size):
            values = policy.predict_cost_values(_take(observations, batch))
            loss = nn.functional.mse_loss(values, targets[batch])
            policy.cost_optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            policy.cost_optimizer.step()
            losses.append(loss.detach())
    # PPO clips the gradient norm over all parameters of the policy: leave none behind.
    policy.cost_optimizer.zero_grad(set_to_none=True)
    return float(th.stack(losses).mean())


def _take(observations: PyTorchObs, batch: th.Tensor) -> PyTorchObs:
    if isinstance(observations, dict):
        return {key: value[batch] for key, value in observations.items()}
    return observations[batch]
