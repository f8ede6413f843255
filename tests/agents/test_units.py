"""Agents do not care in which units rewards and costs come."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env

from agents import (
    CPO,
    FOCOPS,
    A2CLagrangian,
    BudgetToyEnv,
    GradientMultiplier,
    PPOLagrangian,
    TRPOLagrangian,
    constrained,
)
from agents.algorithms.lagrangian import fitting_policy

NET = {"policy_kwargs": {"net_arch": [8]}}
ON = {"n_steps": 8, "gamma": 1.0, **NET}
OFF = {
    "learning_starts": 24,
    "buffer_size": 400,
    "batch_size": 16,
    "gamma": 1.0,
    "episodes_per_update": 1,
    **NET,
}
ALGORITHMS = {
    PPOLagrangian: {**ON, "batch_size": 16, "n_epochs": 2, "ent_coef": 0.01},
    A2CLagrangian: {**ON, "ent_coef": 0.01},
    TRPOLagrangian: {**ON, "batch_size": 16, "n_critic_updates": 2},
    CPO: {**ON, "batch_size": 16, "n_critic_updates": 2},
    FOCOPS: {**ON, "batch_size": 16, "n_epochs": 2},
    PPO: {**ON, "batch_size": 16, "n_epochs": 2, "ent_coef": 0.01},
    A2C: ON,
    TRPO: {**ON, "batch_size": 16, "n_critic_updates": 2},
    RecurrentPPO: {
        "n_steps": 8,
        "batch_size": 16,
        "n_epochs": 2,
        "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8},
    },
    MaskablePPO: {**ON, "batch_size": 16, "n_epochs": 2},
    SAC: {**OFF, "ent_coef": 0.05},
    TD3: OFF,
    DDPG: {**OFF, "n_steps": 2},
    TQC: {**OFF, "ent_coef": 0.05, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}},
    CrossQ: {**OFF, "ent_coef": "auto"},
    DQN: OFF,
    QRDQN: {**OFF, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}},
}
DISCRETE = (DQN, QRDQN, MaskablePPO)


class InOtherUnits(gym.Wrapper):
    """Reward and costs in other units than the environment's, the limits with them."""

    def __init__(self, env, reward_scale=1.0, cost_scale=1.0, two_costs=False):
        super().__init__(env)
        self.reward_scale, self.cost_scale, self.two_costs = reward_scale, cost_scale, two_costs
        self.cost_limit = env.cost_limit * cost_scale
        self.cost_limits = np.array([self.cost_limit, 2.0 * env.cost_limit])

    def action_masks(self):
        return self.env.action_masks()

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {"cost": info["cost"] * self.cost_scale}
        info["costs"] = np.array([info["cost"], info["cost"] / self.cost_scale])
        return observation, reward * self.reward_scale, terminated, truncated, info


def trained(algorithm, steps=128, multiplier=None, limit=0.25, **scales):
    def make():
        env = BudgetToyEnv(n_actions=9 if algorithm in DISCRETE else None)
        env.cost_limit = limit
        return InOtherUnits(env, **scales)

    env = make_vec_env(make, n_envs=2, seed=0)
    kind = algorithm if hasattr(algorithm, "weights") else constrained(algorithm)
    arguments = {"seed": 0, "device": "cpu", **ALGORITHMS[algorithm]}
    if algorithm is not CPO:
        arguments["multiplier"] = GradientMultiplier() if multiplier is None else multiplier
    arguments["policy_kwargs"] = dict(arguments["policy_kwargs"])
    return kind(fitting_policy(kind, env), env, **arguments).learn(steps)


def assert_same_policies(one, other, **tolerance):
    state = other.policy.state_dict()
    for name, value in one.policy.state_dict().items():
        th.testing.assert_close(value, state[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda kind: kind.__name__)
def test_other_units_give_the_same_policies_to_the_last_bit(algorithm):
    """Powers of two change no digit of a float, so that nothing may differ at all."""
    model = trained(algorithm)
    other = trained(algorithm, reward_scale=2.0**-5, cost_scale=2.0**7)
    assert_same_policies(model, other, rtol=0.0, atol=0.0)
    assert model.multiplier.value == other.multiplier.value
    if algorithm is not CPO:
        assert model.multiplier.value != 1.0  # it moved
    assert other.units.reward == model.units.reward * 2.0**-5
    assert other.units.costs == model.units.costs * 2.0**7
    assert other.prices == pytest.approx(model.prices * 2.0**-12)
