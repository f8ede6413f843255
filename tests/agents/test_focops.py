import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.distributions import Normal, kl_divergence

from agents import BudgetToyEnv, FixedMultiplier, GradientMultiplier, PPOLagrangian, evaluate
from agents.algorithms.cost_critic import CostCriticPolicy
from agents.algorithms.focops import FOCOPS, FOCOPSCnnPolicy, FOCOPSPolicy

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
TOY = {
    "n_steps": 8,
    "batch_size": 128,
    "n_epochs": 8,
    "gamma": 1.0,
    "seed": 0,
    "device": "cpu",
    "learning_rate": lambda left: 5e-3 * left,  # falls to zero, as in the paper
    "policy_kwargs": {"net_arch": [32], "log_std_init": -1.0},
}


def make(env, policy="MlpPolicy", **kwargs):
    return FOCOPS(policy, env, **{**SMALL, **kwargs})


def toys(n_envs=32, **kwargs):
    return make_vec_env(BudgetToyEnv, n_envs=n_envs, seed=0, env_kwargs=kwargs)


# -- the loss ------------------------------------------------------------------------------------


def step_by_hand(policy, old, buffer, *, temperature, max_kl, learning_rate):
    """Make one step down the paper's loss; return which states had a say."""
    observations, actions = th.as_tensor(buffer.observations), th.as_tensor(buffer.actions)

    def gaussian(actor):
        latent = actor.mlp_extractor.forward_actor(observations.flatten(1))
        mean = actor.action_net(latent)
        return Normal(mean, actor.log_std.exp().expand_as(mean))

    with th.no_grad():
        before = gaussian(old)
    now = gaussian(policy)
    divergence = kl_divergence(now, before).sum(dim=1)
    ratio = (now.log_prob(actions).sum(dim=1) - before.log_prob(actions).sum(dim=1)).exp()
    near = (divergence <= max_kl).float().detach()
    scaled = th.as_tensor(buffer.mixed) / buffer.mixed.std()
    loss = ((divergence - scaled * ratio / temperature) * near).mean()
    policy.zero_grad()
    loss.backward()
    with th.no_grad():
        for value in policy.parameters():
            if value.grad is not None:
                value -= learning_rate * value.grad
    return near


@pytest.mark.parametrize(("space_size", "learning_rate"), [(1, 0.01), (3, 0.5)])
def test_its_steps_follow_the_loss_of_the_paper(space_size, learning_rate):
    class Recorded(FOCOPS):
        def mix_advantages(self, reward_advantages, cost_advantages):
            nu = self.multiplier.value
            centred = cost_advantages[..., 0] - cost_advantages.mean()
            mixed = (reward_advantages - nu * centred)[..., None]
            self.rollout_buffer.mixed = self.rollout_buffer.swap_and_flatten(mixed)[:, 0]
            return super().mix_advantages(reward_advantages, cost_advantages)

    class Wide(BudgetToyEnv):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Box(-1.0, 1.0, (space_size,), np.float32)

    n_epochs = 4
    model = Recorded(
        "MlpPolicy",
        make_vec_env(Wide, n_envs=8),
        multiplier=FixedMultiplier(0.7),
        temperature=0.8,
        learning_rate=learning_rate,
        n_steps=8,
        batch_size=64,
        n_epochs=n_epochs,
        max_grad_norm=1e9,
        vf_coef=0.0,
        target_kl=0.02,
        policy_kwargs={"optimizer_class": th.optim.SGD, "net_arch": [8]},
        seed=0,
        device="cpu",
    )
    model.learn(64)
    assert model._n_updates == n_epochs  # did not end early
    old = model._old_policy  # still the policy of the rollout
    policy, buffer = copy.deepcopy(old), model.rollout_buffer
    settings = {"temperature": 0.8, "max_kl": 0.02, "learning_rate": learning_rate}
    shares = [float(step_by_hand(policy, old, buffer, **settings).mean()) for _ in range(n_epochs)]
    assert shares[0] == 1.0
    assert any(0.0 < share < 1.0 for share in shares)  # some states had no say any more
    actor = [n for n in policy.state_dict() if "value" not in n]
    assert len(actor) == 5
    for name in actor:
        ours, expected = model.policy.state_dict()[name], policy.state_dict()[name]
        assert not th.equal(expected, old.state_dict()[name])
        th.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_kl", [0.0, 1e9])
def test_a_state_beyond_the_limit_has_no_say(max_kl):
    model = make(BudgetToyEnv()).learn(16)
    policy = model.policy
    observations, actions = th.rand(6, 1), th.rand(6, 1)
    with th.no_grad():
        policy.action_net.bias += 0.3
    plain = policy.evaluate_actions(observations, actions)
    policy.stay_near(model._old_policy.get_distribution, max_kl)
    values, log_prob, bonus = policy.evaluate_actions(observations, actions)
    assert th.equal(values, plain[0])
    assert th.equal(log_prob, plain[1])
    assert (bonus < 0.0).all()  # minus a KL divergence
    gradient = th.autograd.grad((log_prob + bonus).sum(), policy.action_net.bias)[0]
    assert bool(gradient.abs().sum() > 0.0) == (max_kl > 0.0)
    policy.stay_near(None)
    assert th.equal(policy.evaluate_actions(observations, actions)[2], plain[2])


def test_epochs_end_when_the_policy_is_too_far():
    shared = {"n_steps": 64, "batch_size": 64, "n_epochs": 50, "learning_rate": 0.05}
    model = make(BudgetToyEnv(), **shared).learn(64)
    assert 1 < model._n_updates < 50
    assert model.policy._old is None  # nothing is left behind


def test_the_first_policy_is_that_of_the_same_seed_in_ppo():
    theirs = PPOLagrangian("MlpPolicy", BudgetToyEnv(), **SMALL).policy.state_dict()
    drawn = th.rand(3)
    ours = make(BudgetToyEnv()).policy.state_dict()
    assert th.equal(th.rand(3), drawn)  # as are the numbers that it will draw
    assert all(th.equal(ours[name], value) for name, value in theirs.items())


# -- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.25, 0.5])
def test_finds_the_optimum(limit, trace):
    multiplier = GradientMultiplier(learning_rate=0.1, initial=0.5)
    model = FOCOPS("MlpPolicy", toys(cost_limit=limit), multiplier=multiplier, **TOY)
    model.learn(60 * 256, callback=trace)
    env = BudgetToyEnv(limit)
    result = evaluate(model, env, n_episodes=1, seed=0)
    assert result.cost_mean == pytest.approx(limit, rel=0.1)
    assert result.return_mean == pytest.approx(env.optimal_return, rel=0.1)
    tail = np.mean(trace.prices[-20 * 8 :])
    assert tail == pytest.approx(env.optimal_multiplier, rel=0.15)


def test_multiplier_vanishes_where_the_limit_is_slack():
    multiplier = GradientMultiplier(learning_rate=0.1, initial=0.5)
    model = FOCOPS("MlpPolicy", toys(cost_limit=2.0), multiplier=multiplier, **TOY)
    model.learn(40 * 256)
    assert model.multiplier.value == 0.0
    assert evaluate(model, BudgetToyEnv(2.0), 1, seed=0).return_mean > 0.9


# -- spaces, files, errors -----------------------------------------------------------------------


class Spaces(BudgetToyEnv):
    """The toy with another action space; the first number of the action counts."""

    def __init__(self, space):
        super().__init__()
        self.action_space = space

    def step(self, action):
        first = float(np.asarray(action, dtype=np.float32).flat[0])
        return super().step(np.array([first], dtype=np.float32))


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
        gym.spaces.Discrete(2),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.MultiBinary(3),
    ],
    ids=lambda space: type(space).__name__,
)
def test_action_spaces(space):
    model = make(DummyVecEnv([lambda: Spaces(space)] * 2))
    before = [value.clone() for value in model.policy.action_net.parameters()]
    model.learn(64)
    after = model.policy.action_net.parameters()
    assert any(not th.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(th.isfinite(value).all() for value in model.policy.parameters())
    assert 0.0 < model.logger.name_to_value["train/entropy_loss"] < 0.1  # a KL divergence


@pytest.mark.parametrize("use_sde", [False, True])
def test_dict_observations_and_state_dependent_noise(scripted_env, use_sde):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=1.0, as_dict=True)] * 2)
    model = make(venv, "MultiInputPolicy", use_sde=use_sde).learn(64)
    assert model.multiplier.value == 1.0 + 2 * 2.0
    assert np.isfinite(model.logger.name_to_value["train/entropy_loss"])


def test_images():
    class Images(BudgetToyEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)

        def _observe(self):
            return np.full((36, 36, 1), self._step, dtype=np.uint8)

    model = make(Images(), "CnnPolicy", n_epochs=1).learn(16)
    assert type(model.policy) is type(model._old_policy) is FOCOPSCnnPolicy


def test_several_costs(two_costs):
    rules = [GradientMultiplier(), GradientMultiplier()]
    model = make(two_costs(), multiplier=rules).learn(64)
    assert model.multiplier.value[1] == 0.0
    assert model._old_policy.n_costs == 2


def test_save_load_continue(tmp_path):
    model = make(toys(2), temperature=0.5, target_kl=0.03).learn(64)
    model.save(tmp_path / "model")
    loaded = FOCOPS.load(tmp_path / "model", device="cpu")
    assert loaded.multiplier == model.multiplier
    assert (loaded.temperature, loaded.target_kl, loaded.ent_coef) == (0.5, 0.03, 1.0)
    restored = loaded.policy.state_dict()
    assert all(th.equal(restored[name], value) for name, value in model.policy.state_dict().items())
    loaded.set_env(toys(2))
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == 96
    with pytest.raises(ValueError, match=r"cannot be loaded by PPOLagrangian: .* made by FOCOPS"):
        PPOLagrangian.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"clip_range": 0.2}, TypeError, "clip_range is not .* FOCOPS, which clips nothing"),
        ({"ent_coef": 0.01}, TypeError, "ent_coef is not .* no entropy bonus.*Use temperature"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0; it must be a finite number > 0"),
        ({"target_kl": None}, ValueError, "target_kl is None; it must be a finite number > 0"),
        (
            {"policy": CostCriticPolicy},
            TypeError,
            "CostCriticPolicy, which does not know.*subclass",
        ),
    ],
)
def test_bad_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        make(BudgetToyEnv(), **kwargs)


def test_subclasses_of_its_policy_are_welcome():
    class Own(FOCOPSPolicy):
        pass

    assert type(make(BudgetToyEnv(), Own).learn(16).policy) is Own
