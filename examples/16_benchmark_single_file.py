"""PruneBench with an algorithm in one file: PPO with a Lagrange multiplier, in plain torch.

All that the benchmark asks for is ``train(make_env, seed, budget)``. From this folder,
``python -m agents.benchmark 16_benchmark_single_file:train --name my_ppo`` runs the whole of it.
"""

import tempfile
from contextlib import suppress

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal

import agents
from agents.benchmark import EvaluationsSpent

N_ENVS, EPISODES = 8, 16  # side by side; in a rollout


class Actor(nn.Module):
    """A Gaussian policy and a value, with the ``predict`` that the benchmark plays."""

    def __init__(self, n_features, n_actions):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(n_features, 64), nn.Tanh(), nn.Linear(64, n_actions))
        self.value = nn.Sequential(nn.Linear(n_features, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_std = nn.Parameter(torch.full((n_actions,), -0.5))

    def act(self, observations):
        """The distribution of actions."""
        return Normal(self.mean(torch.as_tensor(observations)), self.log_std.exp())

    @torch.no_grad()
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        """As that of Stable-Baselines3."""
        policy = self.act(observation)
        action = policy.mean if deterministic else policy.sample()
        return action.clamp(-1.0, 1.0).numpy(), state


def train(make_env, seed, budget):
    torch.manual_seed(seed)
    envs = make_env(num_envs=N_ENVS)
    n_features, n_actions = (
        envs.single_observation_space.shape[0],
        envs.single_action_space.shape[0],
    )
    actor, multiplier = Actor(n_features, n_actions), 2.0
    limits = np.tile(envs.cost_limits, EPISODES // N_ENVS)[:, None].astype(np.float32)
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    with suppress(EvaluationsSpent):  # raised where all evaluations are spent
        while True:
            rollout = [play(envs, actor, make_env.n_steps) for _ in range(EPISODES // N_ENVS)]
            observations, actions, rewards, costs = map(np.concatenate, zip(*rollout, strict=True))
            costs /= limits
            multiplier = max(0.0, multiplier + 2.0 * (costs.sum(axis=1).mean() - 1.0))
            gains = (rewards - multiplier * costs) / (1.0 + multiplier)
            returns = gains[:, ::-1].cumsum(axis=1)[:, ::-1].copy()  # (episodes, steps)
            update(actor, optimizer, *map(torch.as_tensor, (observations, actions, returns)))
    return actor


def play(envs, actor, n_steps):
    """One episode of every environment: arrays (n_envs, n_steps, ...)."""
    observation, _ = envs.reset()
    steps = []
    for _ in range(n_steps):
        with torch.no_grad():
            action = actor.act(observation).sample().clamp(-1.0, 1.0).numpy()
        after, reward, _, _, infos = envs.step(action)
        steps.append((observation, action, reward, infos["cost"]))
        observation = after
    return [np.stack(one, axis=1).astype(np.float32) for one in zip(*steps, strict=True)]


def update(actor, optimizer, observations, actions, returns):
    """Some epochs of PPO's clipped objective."""
    with torch.no_grad():
        before = actor.act(observations).log_prob(actions).sum(-1)
        advantages = returns - actor.value(observations)[..., 0]
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-6)
    for _ in range(10):
        policy = actor.act(observations)
        ratio = (policy.log_prob(actions).sum(-1) - before).exp()
        gain = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        error = (actor.value(observations)[..., 0] - returns).square().mean()
        optimizer.zero_grad()
        (0.5 * error - gain).backward()
        optimizer.step()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        agents.benchmark(
            train, name="my_ppo", tasks="table-vgg-shapes-10", seeds=0, out=folder, report=print
        )
