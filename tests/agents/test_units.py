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
    AdamMultiplier,
    BudgetToyEnv,
    FixedMultiplier,
    GradientMultiplier,
    PIDMultiplier,
    PPOLagrangian,
    TRPOLagrangian,
    constrained,
)
from agents.algorithms.lagrangian import fitting_policy
from agents.algorithms.units import Units
from agents.errors import AgentsError

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
    # sums of many numbers, which some processors add up in another order
    assert other.units.reward == pytest.approx(model.units.reward * 2.0**-5, rel=1e-14)
    assert other.units.costs == pytest.approx(model.units.costs * 2.0**7, rel=1e-14)
    assert other.prices == pytest.approx(model.prices * 2.0**-12)


@pytest.mark.parametrize(
    "multiplier",
    [
        lambda: PIDMultiplier(kp=0.3, ki=0.1),
        lambda: AdamMultiplier(learning_rate=0.1),
        lambda: [GradientMultiplier(), GradientMultiplier(initial=0.2)],
    ],
    ids=["pid", "adam", "two costs"],
)
@pytest.mark.parametrize("algorithm", [PPOLagrangian, PPO, SAC], ids=lambda kind: kind.__name__)
def test_so_it_is_with_every_rule_and_any_number(algorithm, multiplier):
    """Of several costs each has a unit: only the first one is in another here."""
    models = [
        trained(algorithm, steps=64, multiplier=multiplier(), **scales)
        for scales in ({}, {"reward_scale": 0.0037, "cost_scale": 123.4})
    ]
    assert_same_policies(*models, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(*(model.weights for model in models), rtol=1e-4)


def test_a_limit_of_zero_has_a_unit_too():
    models = [trained(PPOLagrangian, limit=0.0, cost_scale=scale) for scale in (1.0, 2.0**6)]
    assert_same_policies(*models, rtol=0.0, atol=0.0)
    units = models[0].units
    assert units.costs[0] == pytest.approx(0.1 * (units.cost_square[0] / units.episodes) ** 0.5)
    assert models[0].multiplier.value > 1.0


def test_a_fixed_price_is_in_the_environment_s_units():
    assert not trained(PPOLagrangian, 32, FixedMultiplier(1.0)).unit_free
    rules = [FixedMultiplier(1.0), FixedMultiplier(2.0)]
    model = trained(PPOLagrangian, 32, rules, cost_scale=4.0)
    assert not model.unit_free
    assert model.prices.tolist() == [1.0, 2.0]
    assert trained(PPOLagrangian, 32, [FixedMultiplier(1.0), GradientMultiplier()]).unit_free


def test_units_are_measured_on_all_episodes_and_stand_still_in_a_rollout(scripted_env):
    env = scripted_env((1.0, 3.0), rewards=(2.0, 4.0), limit=8.0)
    model = PPOLagrangian("MlpPolicy", env, n_steps=4, batch_size=4, seed=0, device="cpu")
    seen = []
    model.learn(8, callback=lambda scope, _: seen.append(scope["self"].units.reward) or True)
    assert seen == [1.0] * 4 + [6.0] * 4
    assert (model.units.reward, model.units.costs.tolist()) == (6.0, [8.0])
    env._rewards = (0.0, 2.0)
    model.learn(4)
    assert model.units.reward == pytest.approx(((4 * 36 + 2 * 4) / 6) ** 0.5)
    assert model.prices == pytest.approx(model.weights * model.units.reward / 8.0)
    np.testing.assert_allclose(
        model.rollout_buffer.rewards.flatten(), np.array([0.0, 2.0] * 2) / model.units.reward
    )


def test_episodes_that_run_stand_for_those_that_have_not_finished():
    units = Units.of(1)
    units.settle(np.zeros(1), (np.array([[3.0], [4.0]]), np.array([[10.0], [10.0]])))
    assert (units.reward, units.costs.tolist()) == (12.5**0.5, [1.0])
    units.settle(np.zeros(1), (np.zeros((2, 1)), np.zeros((2, 1))))
    assert (units.reward, units.costs.tolist()) == (1.0, [1.0])
    units.see(-2.0, np.array([40.0]))
    units.settle(np.array([-3.0]), (np.zeros((2, 1)), np.zeros((2, 1))))
    assert (units.reward, units.costs.tolist()) == (2.0, [4.0])


def test_rewards_that_are_no_numbers_are_named(scripted_env):
    env = scripted_env((1.0, 1.0), rewards=(float("nan"), 0.0), limit=1.0)
    model = PPOLagrangian("MlpPolicy", env, n_steps=4, batch_size=4, device="cpu")
    with pytest.raises(AgentsError, match="return of an episode is nan; rewards must be"):
        model.learn(4)


@pytest.mark.parametrize("algorithm", [PPOLagrangian, SAC], ids=lambda kind: kind.__name__)
def test_units_are_saved_with_the_model(algorithm, tmp_path):
    model = trained(algorithm)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert vars(loaded.units).keys() == vars(model.units).keys()
    for name, value in vars(model.units).items():
        np.testing.assert_array_equal(getattr(loaded.units, name), value)
    assert loaded.unit_free is True
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.units.episodes == model.units.episodes + 4


def test_a_bad_choice_of_units_is_named():
    with pytest.raises(TypeError, match=r"unit_free is 1; it must be True or False, or None"):
        PPOLagrangian("MlpPolicy", BudgetToyEnv(), unit_free=1)


# -- entropy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [SAC, TQC, CrossQ], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("price", [0.0, 6.0])
def test_the_temperature_does_not_grow_with_the_multiplier(algorithm, price):
    """Rewards are divided by 1 + lambda, and so is what entropy weighs against them."""
    env = make_vec_env(BudgetToyEnv, n_envs=2, seed=0)
    arguments = {**OFF, "ent_coef": 0.05, "policy_kwargs": {"net_arch": [8]}, "device": "cpu"}
    model = constrained(algorithm)(
        "MlpPolicy", env, multiplier=FixedMultiplier(price), unit_free=True, seed=0, **arguments
    ).learn(48)
    used = model.logger.name_to_value["train/ent_coef"]
    reward_weight = 1.0 / (1.0 + price)  # of a reward of 1, in its unit
    assert used / reward_weight == pytest.approx(0.05)
    assert float(model.ent_coef_tensor) == pytest.approx(0.05)  # the model's own is untouched


@pytest.mark.parametrize("algorithm", [PPO, A2C, PPOLagrangian], ids=lambda kind: kind.__name__)
def test_an_entropy_bonus_keeps_its_weight_too(algorithm, monkeypatch):
    seen = []
    parent = A2C if algorithm is A2C else PPO
    monkeypatch.setattr(parent, "train", lambda self: seen.append(self.ent_coef))
    model = trained(algorithm, 16, FixedMultiplier(3.0))
    assert seen == [ALGORITHMS[algorithm].get("ent_coef", 0.0) / 4.0]
    assert model.ent_coef == ALGORITHMS[algorithm].get("ent_coef", 0.0)


def test_a_coefficient_that_is_learned_is_left_alone():
    model = trained(CrossQ, 48, FixedMultiplier(3.0))
    assert model.ent_coef_optimizer is not None
    assert not hasattr(model, "ent_coef_tensor") or model.ent_coef_tensor is None
