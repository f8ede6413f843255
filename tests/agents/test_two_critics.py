"""Two critics: what they are without a price, what they learn, and what the policy follows."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import (
    A2CLagrangian,
    AdamMultiplier,
    BudgetToyEnv,
    FixedMultiplier,
    GradientMultiplier,
    PIDMultiplier,
    PPOLagrangian,
    TRPOLagrangian,
)
from agents.algorithms.cost_critic import CostCriticPolicy

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}
VALUES = {
    PPOLagrangian: SMALL,
    A2CLagrangian: {"n_steps": 16, "seed": 0, "device": "cpu"},
    TRPOLagrangian: {"n_steps": 16, "batch_size": 16, "n_critic_updates": 2, "device": "cpu"},
}
PLAIN = {PPOLagrangian: PPO, A2CLagrangian: A2C, TRPOLagrangian: TRPO}
each = pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)


def make(env, policy="MlpPolicy", kind=PPOLagrangian, **kwargs):
    return kind(policy, env, **{"seed": 0, **VALUES[kind], **kwargs})


class ActionCost(gym.Wrapper):
    """CartPole, cut off early, with its discrete action as cost."""

    cost_limit = 3.0

    def __init__(self):
        super().__init__(gym.make("CartPole-v1", max_episode_steps=12))

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "cost": float(action)}


def assert_same_networks(ours, plain):
    state = ours.policy.state_dict()
    for name, value in plain.policy.state_dict().items():
        assert th.equal(state[name], value), name


@pytest.mark.parametrize("env_class", [BudgetToyEnv, ActionCost])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"target_kl": 1e-3, "ent_coef": 0.01, "max_grad_norm": 0.01},
        {"learning_rate": lambda left: 1e-2 * left, "clip_range": lambda left: 0.2 * left},
        {
            "policy_kwargs": {
                "net_arch": {"pi": [8], "vf": [8, 8]},
                "share_features_extractor": False,
            }
        },
    ],
    ids=["defaults", "target_kl", "schedules", "architecture"],
)
def test_with_multiplier_zero_it_is_ppo_to_the_last_bit(env_class, kwargs):
    envs = [make_vec_env(env_class, n_envs=2) for _ in range(2)]
    shared = {**SMALL, **kwargs}
    plain = PPO("MlpPolicy", envs[0], normalize_advantage=False, **shared).learn(128)
    ours = make(envs[1], multiplier=FixedMultiplier(0.0), **kwargs).learn(128)
    assert_same_networks(ours, plain)
    assert plain._n_updates == ours._n_updates


@pytest.mark.parametrize("env_class", [BudgetToyEnv, ActionCost])
@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        (A2CLagrangian, {}),
        (A2CLagrangian, {"learning_rate": lambda left: 1e-2 * left, "cost_n_epochs": 3}),
        (A2CLagrangian, {"use_rms_prop": False, "ent_coef": 0.1}),
        (TRPOLagrangian, {}),
        (TRPOLagrangian, {"target_kl": 0.1, "learning_rate": lambda left: 1e-2 * left}),
        (TRPOLagrangian, {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [4, 4]}}}),
    ],
)
def test_so_it_is_with_other_algorithms(kind, kwargs, env_class):
    envs = [make_vec_env(env_class, n_envs=2) for _ in range(2)]
    shared = {"seed": 0, "normalize_advantage": False, **VALUES[kind], **kwargs}
    shared.pop("cost_n_epochs", None)
    plain = PLAIN[kind]("MlpPolicy", envs[0], **shared).learn(128)
    ours = make(envs[1], kind=kind, multiplier=FixedMultiplier(0.0), **kwargs).learn(128)
    assert_same_networks(ours, plain)
    assert plain._n_updates == ours._n_updates


@each
def test_the_cost_critic_is_trained_all_the_same(kind):
    model = make(make_vec_env(BudgetToyEnv, n_envs=2), kind=kind, multiplier=FixedMultiplier(0.0))
    before = [parameter.clone() for parameter in model.policy.cost_parameters()]
    model.learn(64)
    after = list(model.policy.cost_parameters())
    assert not any(th.equal(*pair) for pair in zip(before, after, strict=True))


@each
def test_a_price_changes_the_actor_and_not_the_first_step_of_the_critics(kind):
    models = []
    for price in (0.0, 5.0):
        env = make_vec_env(BudgetToyEnv, n_envs=2)
        loose = {} if kind is TRPOLagrangian else {"max_grad_norm": 1e9}
        model = make(env, kind=kind, multiplier=FixedMultiplier(price), **loose)
        models.append(model.learn(32).policy.state_dict())
    for part, same in (("policy_net", False), ("value_net", True)):
        name = f"mlp_extractor.{part}.0.weight"
        assert th.equal(models[0][name], models[1][name]) is same
    assert th.equal(models[0]["cost_value_net.weight"], models[1]["cost_value_net.weight"])


class Targets(PPOLagrangian):
    """Keeps what it computed; its cost critic says 5 everywhere."""

    def _setup_model(self):
        super()._setup_model()
        with th.no_grad():
            self.policy.cost_value_net.weight.zero_()
            self.policy.cost_value_net.bias.fill_(5.0)

    def _cost_advantages(self, values):
        self.result = super()._cost_advantages(values)
        return self.result


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_bootstrap_at_truncation_and_at_the_cut_but_not_at_termination(
    scripted_env, truncate, as_dict
):
    env = scripted_env((1.0, 2.0), limit=1.0, truncate=truncate, as_dict=as_dict)
    model = Targets(
        "MultiInputPolicy" if as_dict else "MlpPolicy",
        env,
        cost_gamma=0.5,
        cost_gae_lambda=1.0,
        **{**SMALL, "n_steps": 5, "batch_size": 5},
    ).learn(5)
    end = 2.0 + (0.5 * 5.0 if truncate else 0.0)
    expected = [1.0 + 0.5 * end, end, 1.0 + 0.5 * end, end, 1.0 + 0.5 * 5.0]
    advantages, returns = model.result
    np.testing.assert_allclose(returns[:, 0, 0], expected)
    np.testing.assert_allclose(advantages[:, 0, 0], np.array(expected) - 5.0)


def test_without_a_discount_a_truncated_episode_ends(scripted_env):
    """The last state's value would be added to itself at every truncation, and grow for ever."""
    env = scripted_env((1.0, 2.0), limit=1.0, truncate=True)
    sizes = {**SMALL, "n_steps": 5, "batch_size": 5}
    model = Targets("MlpPolicy", env, cost_gamma=1.0, cost_gae_lambda=1.0, **sizes).learn(5)
    np.testing.assert_allclose(model.result[1][:, 0, 0], [3.0, 2.0, 3.0, 2.0, 1.0 + 5.0])


def test_targets_stay_with_their_environment_and_step(scripted_env):
    scripts = [(1.0, 2.0), (10.0, 20.0), (100.0, 200.0, 400.0)]
    venv = DummyVecEnv([lambda s=s: scripted_env(s, limit=1.0) for s in scripts])
    model = Targets(
        "MlpPolicy",
        venv,
        cost_gae_lambda=1.0,
        unit_free=False,
        **{**SMALL, "n_steps": 6, "batch_size": 18},
    ).learn(18)
    expected = np.array([[3.0, 2.0] * 3, [30.0, 20.0] * 3, [700.0, 600.0, 400.0] * 2]).T
    np.testing.assert_allclose(model.result[1][..., 0], expected)


def test_targets_stay_with_their_cost(scripted_env):
    scripts = [[(1.0, 5.0), (2.0, 6.0)], [(10.0, 0.0), (20.0, -1.0)]]
    envs = [lambda s=s: scripted_env(s, limit=(1.0, 1.0), truncate=True) for s in scripts]
    rules = [GradientMultiplier(), GradientMultiplier()]
    size = {**SMALL, "n_steps": 3, "batch_size": 6}
    model = Targets(
        "MlpPolicy",
        DummyVecEnv(envs),
        cost_gamma=0.5,
        cost_gae_lambda=1.0,
        multiplier=rules,
        unit_free=False,
        **size,
    ).learn(6)
    after = 0.5 * 5.0  # what its critic says of the state that an episode was cut off at
    ends = np.array([[2.0, 6.0], [20.0, -1.0]]) + after
    starts = np.array([[1.0, 5.0], [10.0, 0.0]])
    expected = [starts + 0.5 * ends, ends, starts + after]
    np.testing.assert_allclose(model.result[1], expected)


def test_cost_values_stay_with_their_environment_and_step(scripted_env):
    class Values(PPOLagrangian):
        def _cost_advantages(self, values):
            observations = th.as_tensor(self.rollout_buffer.observations)  # (n_steps, n_envs, 2)
            with th.no_grad():
                one_by_one = [
                    [self.policy.predict_cost_values(o[None]).item() for o in row]
                    for row in observations
                ]
            self.result = values.copy(), np.array(one_by_one)
            return super()._cost_advantages(values)

    venv = DummyVecEnv([lambda n=n: scripted_env((1.0,) * n, limit=1.0) for n in (2, 3, 5)])
    model = Values("MlpPolicy", venv, **{**SMALL, "n_steps": 6, "batch_size": 18}).learn(18)
    batched, one_by_one = model.result
    assert batched.shape == (6, 3, 1)
    assert len(np.unique(batched.round(5))) > 3
    np.testing.assert_allclose(batched[..., 0], one_by_one, atol=1e-6)


def test_cost_critic_learns_the_costs_still_to_come(scripted_env):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0, 3.0), limit=1.0)] * 2)
    model = make(venv, n_steps=30, batch_size=30, learning_rate=1e-2, cost_n_epochs=20)
    model.learn(60 * 12)
    states = th.tensor([[0.0] * 2, [1 / 3] * 2, [2 / 3] * 2])
    values = model.policy.predict_cost_values(states).detach().flatten()
    np.testing.assert_allclose(values, [6.0, 5.0, 3.0], atol=0.3)
    assert model.logger.name_to_value["train/cost_explained_variance"] > 0.9


def test_the_critic_of_two_costs_learns_both(scripted_env):
    script = [(1.0, 0.0), (2.0, 0.0), (3.0, -2.0)]
    venv = DummyVecEnv([lambda: scripted_env(script, limit=(1.0, 1.0))] * 2)
    rules = [GradientMultiplier(), GradientMultiplier()]
    fast = {"n_steps": 30, "batch_size": 30, "learning_rate": 1e-2, "cost_n_epochs": 20}
    model = make(venv, multiplier=rules, **fast).learn(60 * 12)
    states = th.tensor([[0.0] * 2, [1 / 3] * 2, [2 / 3] * 2])
    values = model.policy.predict_cost_values(states).detach()
    np.testing.assert_allclose(values, [[6.0, -2.0], [5.0, -2.0], [3.0, -2.0]], atol=0.4)


class Mixed(PPOLagrangian):
    """Keeps what its policy follows and what that was made of."""

    def mix_advantages(self, reward_advantages, cost_advantages):
        mixed = super().mix_advantages(reward_advantages, cost_advantages)
        self.result = reward_advantages.copy(), cost_advantages.copy(), mixed
        return mixed


@pytest.mark.parametrize("normalize", [False, True])
def test_the_policy_follows_reward_against_all_costs(two_costs, normalize):
    rules = [GradientMultiplier(initial=2.0), GradientMultiplier(initial=0.5)]
    model = Mixed(
        "MlpPolicy",
        DummyVecEnv([two_costs] * 2),
        multiplier=rules,
        normalize_reward_advantage=normalize,
        **SMALL,
    ).learn(32)
    reward, costs, mixed = model.result
    prices = model.multiplier.value  # moved before the update, by this very rollout
    assert prices[0] != 2.0
    assert prices[1] == 0.0
    if normalize:
        reward = (reward - reward.mean()) / reward.std()
    first, second = (costs[..., k] - costs[..., k].mean() for k in (0, 1))
    expected = (reward - prices[0] * first - prices[1] * second) / (1.0 + prices.sum())
    np.testing.assert_allclose(mixed, expected, atol=1e-5)


@each
def test_one_cost_in_a_vector_is_the_same_as_a_number(kind, scripted_env):
    costs, models = (0.5, 0.25, 2.0), []
    for vectorised in (False, True):
        rule = PIDMultiplier()
        env = scripted_env(
            [(c,) for c in costs] if vectorised else costs, limit=(1.0,) if vectorised else 1.0
        )
        model = make(env, kind=kind, multiplier=[rule] if vectorised else rule).learn(64)
        models.append((model, rule))
    (one, rule), (other, same_rule) = models
    assert rule == same_rule != PIDMultiplier()
    assert_same_networks(one, other)


@each
def test_two_costs_have_a_multiplier_each(kind, two_costs, tmp_path):
    rules = [GradientMultiplier(), AdamMultiplier()]
    env = DummyVecEnv([two_costs] * 2)
    model = make(env, kind=kind, multiplier=rules).learn(64, log_interval=None)
    binding, slack = model.multiplier.value
    assert binding > 1.0 > slack
    logged = model.logger.name_to_value
    assert logged["lagrange/multiplier_energy"] == binding
    assert logged["lagrange/multiplier_noise"] == slack
    assert logged["lagrange/cost_noise"] == pytest.approx(logged["lagrange/cost_energy"] / 2.0)
    assert model.policy.predict_cost_values(th.zeros(3, 1)).shape == (3, 2)
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", env=env, device="cpu")
    assert loaded.multiplier.multipliers == model.multiplier.multipliers
    assert_same_networks(loaded, model)
    assert loaded.learn(32, reset_num_timesteps=False).multiplier.value[0] != binding


@each
@pytest.mark.parametrize("n_rules", [1, 3])
def test_numbers_of_costs_must_agree(kind, two_costs, n_rules):
    rules = [GradientMultiplier() for _ in range(n_rules)]
    with pytest.raises(ValueError, match=f"cost limits are .* must be {n_rules} finite numbers"):
        make(two_costs(), kind=kind, multiplier=rules)
    model = make(two_costs(), kind=kind, multiplier=rules, cost_limit=[1.0] * n_rules)
    with pytest.raises(ValueError, match=f"of env 0 is .* it must be {n_rules} finite numbers"):
        model.learn(32)


@each
@pytest.mark.parametrize("multiplier", [PIDMultiplier(), FixedMultiplier(2.0)])
def test_save_load_continue(tmp_path, multiplier, kind):
    env = make_vec_env(BudgetToyEnv, n_envs=2)
    model = make(env, kind=kind, multiplier=multiplier, cost_gamma=0.9).learn(96)
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", device="cpu")

    observation = np.array([[0.5]], dtype=np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0],
        model.predict(observation, deterministic=True)[0],
    )
    assert loaded.multiplier == model.multiplier
    assert loaded.cost_gamma == 0.9
    assert loaded.episodes == model.episodes == 12
    assert_same_networks(loaded, model)
    optimisers = [m.policy.cost_optimizer.state_dict()["state"] for m in (model, loaded)]
    assert len(optimisers[0]) == len(list(model.policy.cost_parameters()))
    for key, state in optimisers[0].items():
        assert all(th.equal(th.as_tensor(v), optimisers[1][key][k]) for k, v in state.items())

    loaded.set_env(make_vec_env(BudgetToyEnv, n_envs=2))
    loaded.learn(32, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded.episodes) == (128, 16)


def test_training_goes_on_as_if_it_had_never_stopped(tmp_path):
    """But for the random numbers of torch, which are set anew, and of the cost critic, its own."""
    model = make(BudgetToyEnv(), multiplier=PIDMultiplier()).learn(32)
    model.save(tmp_path / "model")
    loaded = PPOLagrangian.load(tmp_path / "model", env=BudgetToyEnv(), device="cpu")
    for one in (model, loaded):
        one.set_random_seed(5)
        one.learn(32, reset_num_timesteps=False)
    assert_same_networks(loaded, model)
    assert loaded.multiplier == model.multiplier


@each
def test_load_with_an_environment_and_more_of_them(tmp_path, kind):
    make(BudgetToyEnv(), kind=kind).learn(16).save(tmp_path / "model")
    venv = make_vec_env(BudgetToyEnv, n_envs=3)
    loaded = kind.load(tmp_path / "model", env=venv, device="cpu")
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps == 64


@each
def test_dict_observations_learn(scripted_env, kind):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=1.0, as_dict=True)] * 2)
    model = make(venv, policy="MultiInputPolicy", kind=kind).learn(64)
    assert model.multiplier.value == 1.0 + 2 * 2.0
    assert np.isfinite(model.logger.name_to_value["train/cost_value_loss"])


def test_reward_advantages_can_be_standardised():
    shared = {"multiplier": FixedMultiplier(1.0), "max_grad_norm": 1e9}
    states = []
    for normalize in (False, True):
        model = make(BudgetToyEnv(), normalize_reward_advantage=normalize, **shared)
        states.append(model.learn(16).policy.state_dict())
    name = "mlp_extractor.policy_net.0.weight"
    assert not th.equal(states[0][name], states[1][name])
    name = "mlp_extractor.value_net.0.weight"  # the reward critic never sees advantages
    assert th.equal(states[0][name], states[1][name])


def test_discrete_observations_learn():
    class Counter(BudgetToyEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Discrete(self.n_steps + 1)

        def _observe(self):
            return self._step

    assert make(make_vec_env(Counter, n_envs=2)).learn(32).multiplier.value != 1.0


def test_a_subclass_loads_its_own_models_only(tmp_path):
    class Mine(PPOLagrangian):
        pass

    model = Mine("MlpPolicy", BudgetToyEnv(), n_steps=16, batch_size=16, device="cpu")
    model.save(tmp_path / "model")
    assert type(Mine.load(tmp_path / "model", device="cpu")) is Mine
    with pytest.raises(ValueError, match="made by Mine; load it with that"):
        PPOLagrangian.load(tmp_path / "model")


@each
def test_rewards_may_be_divided_by_their_spread(kind):
    model = make(VecNormalize(make_vec_env(BudgetToyEnv, n_envs=2)), kind=kind).learn(64)
    assert model.multiplier.value > 1.0
    model.set_env(VecNormalize(make_vec_env(BudgetToyEnv, n_envs=2)))
    assert model.learn(32).num_timesteps == 32


def test_states_that_were_cut_off_are_normalised_as_all_others_are(scripted_env):
    env = VecNormalize(DummyVecEnv([lambda: scripted_env(limit=1.0, truncate=True)]))
    model = make(env, cost_gamma=0.9).learn(15)
    for _, _, observation in model._cut:
        assert not ((observation >= 0.0) & (observation <= 1.0)).all() or observation.max() == 0.0
    assert len(model._cut) == 8


def test_images_get_their_own_features_extractor():
    class Images(BudgetToyEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)

        def _observe(self):
            return np.full((36, 36, 1), self._step, dtype=np.uint8)

    model = make(Images(), policy="CnnPolicy", n_epochs=1).learn(16)
    cost, actor = model.policy.cost_value_features_extractor, model.policy.features_extractor
    assert type(cost) is type(actor)
    assert cost is not actor
    assert model.multiplier.value != 1.0


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"normalize_advantage": True}, TypeError, "Use normalize_reward_advantage=True"),
        ({"cost_gamma": 1.5}, ValueError, r"cost_gamma is 1.5; it must be in \[0, 1\]"),
        ({"cost_gae_lambda": -1.0}, ValueError, "cost_gae_lambda is -1.0"),
        ({"cost_n_epochs": 0}, ValueError, "cost_n_epochs is 0; .*>= 1"),
    ],
)
@each
def test_bad_arguments_are_named(kwargs, error, message, kind):
    with pytest.raises(error, match=message):
        make(BudgetToyEnv(), kind=kind, **kwargs)


def test_policy_without_a_cost_critic_is_refused():
    plain = PPO.policy_aliases["MlpPolicy"]
    with pytest.raises(TypeError, match=r"ActorCriticPolicy, which has no cost critic.*MlpPolicy"):
        make(BudgetToyEnv(), policy=plain)
    assert make(BudgetToyEnv(), policy=CostCriticPolicy).learn(16).num_timesteps == 16
