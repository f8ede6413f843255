"""P3O and IPO: the penalty is in the loss of every minibatch, and pulls as the papers say."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import (
    IPO,
    P3O,
    BarrierMultiplier,
    BudgetToyEnv,
    FixedMultiplier,
    GradientMultiplier,
    PenaltyMultiplier,
    PPOLagrangian,
)
from agents.algorithms.penalty_loss import BatchRolloutBuffer

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
each = pytest.mark.parametrize("kind", [P3O, IPO], ids=lambda kind: kind.__name__)


def make(kind, env, policy="MlpPolicy", **kwargs):
    return kind(policy, env, **{**SMALL, **kwargs})


def toys(n_envs=2, **kwargs):
    return make_vec_env(BudgetToyEnv, n_envs=n_envs, env_kwargs=kwargs)


# -- the penalty -----------------------------------------------------------------------------------


def test_p3o_s_penalty_is_a_hinge():
    model = make(P3O, BudgetToyEnv(), multiplier=PenaltyMultiplier(kappa=3.0))
    values = [model.penalty(th.tensor([x])).item() for x in (-1.0, 0.0, 0.5)]
    assert values == [0.0, 0.0, 1.5]


def test_ipo_s_penalty_is_the_barrier_and_its_tangent():
    rule = BarrierMultiplier(t=2.0, upper_bound=5.0)
    model = make(IPO, BudgetToyEnv(), multiplier=rule)
    edge = -1.0 / (2.0 * 5.0)
    for excess in (-1.0, -0.5, -0.11):
        x = th.tensor([excess], requires_grad=True)
        value = model.penalty(x)
        assert value.item() == pytest.approx(-math.log(-excess) / 2.0, abs=1e-6)
        value.sum().backward()
        assert x.grad.item() == pytest.approx(1.0 / (2.0 * -excess), rel=1e-5)
    for excess in (-0.09, 0.0, 3.0):
        x = th.tensor([excess], requires_grad=True)
        value = model.penalty(x)
        expected = -math.log(-edge) / 2.0 + 5.0 * (excess - edge)
        assert value.item() == pytest.approx(expected, rel=1e-5)
        value.sum().backward()
        assert x.grad.item() == pytest.approx(5.0)


@each
def test_its_loss_is_that_of_the_paper(kind):
    """One step of plain gradient descent, against the loss written out by hand."""
    seen = {}

    class Recorded(kind):
        made_by = "Recorded"

        def mix_advantages(self, reward_advantages, cost_advantages):
            mixed = super().mix_advantages(reward_advantages, cost_advantages)
            flat = self.rollout_buffer.swap_and_flatten
            seen["reward"] = th.as_tensor(flat(mixed[..., None]))[:, 0]
            seen["cost"] = th.as_tensor(flat(cost_advantages))[:, 0]
            seen["before"] = {k: v.clone() for k, v in self.policy.state_dict().items()}
            return mixed

    model = Recorded(
        "MlpPolicy",
        toys(8, cost_limit=0.45),
        n_steps=8,
        batch_size=64,
        n_epochs=1,
        learning_rate=0.05,
        ent_coef=0.3,
        vf_coef=0.0,
        max_grad_norm=1e9,
        policy_kwargs={"optimizer_class": th.optim.SGD, "net_arch": [8]},
        seed=0,
        device="cpu",
    ).learn(64)
    after = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.policy.load_state_dict(seen["before"])
    buffer = model.rollout_buffer
    _, log_prob, entropy = model.policy.evaluate_actions(
        th.as_tensor(buffer.observations), th.as_tensor(buffer.actions)
    )
    ratio = (log_prob - th.as_tensor(buffer.log_probs).flatten()).exp()
    clipped = ratio.clamp(0.8, 1.2)
    worse = th.maximum(ratio * seen["cost"], clipped * seen["cost"]) - seen["cost"]
    excess = float(model.violation[0] / 0.45) + 8 * worse.mean()
    surrogate = th.minimum(ratio * seen["reward"], clipped * seen["reward"]).mean()
    loss = -surrogate - 0.3 * entropy.mean() + model.penalty(excess[None]).sum() / 8
    model.policy.zero_grad()
    loss.backward()
    for name, value in model.policy.named_parameters():
        if "value" not in name:
            expected = seen["before"][name] - 0.05 * value.grad
            th.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)
            assert not th.equal(after[name], seen["before"][name])


@pytest.mark.parametrize(("limit", "kappa"), [(0.44, 50.0), (0.6, 1e-9)], ids=["off", "on"])
def test_p3o_s_switch_is_thrown_within_an_update(limit, kappa):
    """What a switch per rollout cannot do: the penalty follows the policy as it changes."""
    active = []

    class Watched(P3O):
        def penalty(self, excess):
            active.append(bool(excess > 0.0))
            return super().penalty(excess)

    fast = {"n_epochs": 40, "learning_rate": 1e-2, "clip_range": 0.9}
    size = {"n_steps": 8, "batch_size": 256, "seed": 1, "device": "cpu"}
    rule = PenaltyMultiplier(kappa=kappa)
    model = Watched("MlpPolicy", toys(32, cost_limit=limit), multiplier=rule, **fast, **size)
    model.learn(256)  # the first policy costs about 0.5
    broken = bool(model.violation[0] > 0.0)
    assert broken is (limit == 0.44)
    assert active[0] is broken
    assert (not broken) in active


@each
def test_with_multiplier_zero_it_is_ppo_to_the_last_bit(kind):
    shared = {"ent_coef": 0.01, **SMALL}
    plain = PPO("MlpPolicy", toys(), normalize_advantage=False, **shared).learn(96)
    model = make(kind, toys(), multiplier=FixedMultiplier(0.0), ent_coef=0.01).learn(96)
    state = model.policy.state_dict()
    assert all(th.equal(state[k], v) for k, v in plain.policy.state_dict().items())


def test_at_a_fixed_price_it_is_the_lagrangian():
    shared = {"multiplier": FixedMultiplier(2.0), "ent_coef": 0.01, **SMALL}
    models = [kind("MlpPolicy", toys(), **shared).learn(64) for kind in (P3O, PPOLagrangian)]
    states = [model.policy.state_dict() for model in models]
    assert all(th.equal(value, states[1][name]) for name, value in states[0].items())


@each
def test_before_an_episode_ends_there_is_no_penalty(kind, scripted_env):
    model = make(kind, scripted_env((1.0,) * 40, limit=1.0)).learn(32)
    assert model.violation is None
    assert model.policy.bonus is None
    assert model.learn(16, reset_num_timesteps=False).multiplier.value > 0.0


# -- spaces, several costs, files, errors ----------------------------------------------------------


@each
def test_several_costs_have_a_penalty_each(kind, two_costs, tmp_path):
    rule = PenaltyMultiplier if kind is P3O else BarrierMultiplier
    model = make(kind, DummyVecEnv([two_costs] * 2), multiplier=[rule(), rule()]).learn(64)
    binding, slack = model.multiplier.value
    assert binding > slack
    assert model.penalty(th.tensor([1.0, 1.0])).shape == (2,)
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", env=DummyVecEnv([two_costs] * 2), device="cpu")
    assert loaded.multiplier.multipliers == model.multiplier.multipliers
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 96


@each
@pytest.mark.parametrize("space", ["Discrete", "Dict"])
def test_spaces(kind, space, scripted_env, tmp_path):
    script = {"costs": (1.0, 2.0), "limit": 1.0, "as_dict": space == "Dict"}
    script["n_actions"] = 3 if space == "Discrete" else None
    policy = "MultiInputPolicy" if space == "Dict" else "MlpPolicy"
    model = make(kind, DummyVecEnv([lambda: scripted_env(**script)] * 2), policy).learn(64)
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", device="cpu")
    assert type(loaded.rollout_buffer) is type(model.rollout_buffer)
    state = loaded.policy.state_dict()
    assert all(th.equal(state[k], v) for k, v in model.policy.state_dict().items())


@each
def test_actions_whose_entropy_has_no_formula(kind):
    model = make(kind, toys(), use_sde=True, policy_kwargs={"squash_output": True}, ent_coef=0.01)
    model.learn(64)
    assert all(th.isfinite(value).all() for value in model.policy.parameters())


@each
def test_bad_arguments_are_named(kind, tmp_path):
    other = BarrierMultiplier() if kind is P3O else PenaltyMultiplier()
    message = f"multiplier is .*; {kind.__name__} has a penalty .*take PPOLagrangian"
    for rule in (GradientMultiplier(), other, [FixedMultiplier(1.0), kind._rule()], 2.0):
        with pytest.raises(TypeError, match=message):
            make(kind, BudgetToyEnv(), multiplier=rule)
    with pytest.raises(TypeError, match=r"RolloutBuffer, which does not say .*BatchRolloutBuffer"):
        make(kind, BudgetToyEnv(), rollout_buffer_class=RolloutBuffer)
    model = make(kind, BudgetToyEnv(), rollout_buffer_class=BatchRolloutBuffer)
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match=message):
        kind.load(tmp_path / "model", multiplier=GradientMultiplier())
    with pytest.raises(ValueError, match=f"made by {kind.__name__}; load it with that"):
        PPOLagrangian.load(tmp_path / "model")


@each
def test_other_units_give_the_same_policies(kind):
    class InOtherUnits(gym.Wrapper):
        cost_limit = 0.25 * 2.0**7

        def step(self, action):
            observation, reward, terminated, truncated, info = self.env.step(action)
            info = {"cost": info["cost"] * 2.0**7}
            return observation, reward * 2.0**-5, terminated, truncated, info

    model = make(kind, toys()).learn(96)
    other = make(kind, make_vec_env(lambda: InOtherUnits(BudgetToyEnv()), n_envs=2)).learn(96)
    state = other.policy.state_dict()
    assert all(th.equal(state[k], v) for k, v in model.policy.state_dict().items())
    np.testing.assert_allclose(other.prices, model.prices * 2.0**-12)
