import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import (
    BudgetToyEnv,
    FixedMultiplier,
    GradientMultiplier,
    LagrangianVecEnv,
    PIDMultiplier,
    PPOLagrangian,
)
from agents.cost_critic import CostCriticPolicy

SMALL = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu"}


def make(env, policy="MlpPolicy", **kwargs):
    return PPOLagrangian(policy, env, **{**SMALL, **kwargs})


class ActionCost(gym.Wrapper):
    """CartPole, cut off early, with its discrete action as cost."""

    cost_limit = 3.0

    def __init__(self):
        super().__init__(gym.make("CartPole-v1", max_episode_steps=12))

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "cost": float(action)}


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
    def env():
        return make_vec_env(env_class, n_envs=2)

    shared = {**SMALL, **kwargs}
    plain = PPO("MlpPolicy", env(), normalize_advantage=False, **shared).learn(128)
    ours = PPOLagrangian(
        "MlpPolicy",
        env(),
        multiplier=FixedMultiplier(0.0),
        **shared,
    ).learn(128)
    state = ours.policy.state_dict()
    for name, value in plain.policy.state_dict().items():
        assert th.equal(state[name], value), name
    assert plain._n_updates == ours._n_updates


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
    np.testing.assert_allclose(returns[:, 0], expected)
    np.testing.assert_allclose(advantages[:, 0], np.array(expected) - 5.0)


def test_targets_stay_with_their_environment_and_step(scripted_env):
    scripts = [(1.0, 2.0), (10.0, 20.0), (100.0, 200.0, 400.0)]
    venv = DummyVecEnv([lambda s=s: scripted_env(s, limit=1.0) for s in scripts])
    model = Targets(
        "MlpPolicy", venv, cost_gae_lambda=1.0, **{**SMALL, "n_steps": 6, "batch_size": 18}
    ).learn(18)
    expected = np.array([[3.0, 2.0] * 3, [30.0, 20.0] * 3, [700.0, 600.0, 400.0] * 2]).T
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
    assert batched.shape == (6, 3)
    assert len(np.unique(batched.round(5))) > 3
    np.testing.assert_allclose(batched, one_by_one, atol=1e-6)


def test_cost_critic_learns_the_costs_still_to_come(scripted_env):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0, 3.0), limit=1.0)] * 2)
    model = make(venv, n_steps=30, batch_size=30, learning_rate=1e-2, cost_n_epochs=20)
    model.learn(60 * 12)
    states = th.tensor([[0.0] * 2, [1 / 3] * 2, [2 / 3] * 2])
    values = model.policy.predict_cost_values(states).detach().flatten()
    np.testing.assert_allclose(values, [6.0, 5.0, 3.0], atol=0.3)
    assert model.logger.name_to_value["train/cost_explained_variance"] > 0.9


class Trace(BaseCallback):
    def __init__(self):
        super().__init__()
        self.values = []

    def _on_step(self):
        self.values.append(self.model.multiplier.value)
        return True


def test_multiplier_moves_once_per_rollout_by_finished_episodes(scripted_env):
    env = scripted_env((1.0,) * 6, limit=2.0)
    trace = Trace()
    model = make(env, n_steps=4, batch_size=4, multiplier=GradientMultiplier(learning_rate=0.5))
    model.learn(12, callback=trace, log_interval=None)
    # no episode ends in the first rollout; the one that ends in the second cost 6 in all
    assert trace.values == [1.0] * 8 + [3.0] * 4
    logged = model.logger.name_to_value
    assert logged["lagrange/multiplier"] == 5.0
    assert logged["lagrange/cost"] == 6.0
    assert logged["lagrange/violation_rate"] == 1.0


@pytest.mark.parametrize("reset", [True, False])
def test_an_unfinished_episode_survives_learn_unless_the_environment_is_reset(scripted_env, reset):
    model = make(scripted_env((1.0, 2.0, 4.0, 8.0), limit=0.0), n_steps=6, batch_size=6)
    model.learn(6, log_interval=None)
    model.learn(6, reset_num_timesteps=reset, log_interval=None)
    assert model._recorder.finished == ([15.0] if reset else [15.0, 15.0])


@pytest.mark.parametrize("style", ["none", "function", "list", "object"])
def test_callbacks_of_every_kind_are_called(style):
    calls = []
    trace = Trace()
    callback = {
        "none": None,
        "function": lambda *_: calls.append(1) or True,
        "list": [trace],
        "object": trace,
    }[style]
    make(BudgetToyEnv()).learn(16, callback=callback)
    assert len(calls) + len(trace.values) == (0 if style == "none" else 16)


@pytest.mark.parametrize(
    "multiplier", [GradientMultiplier(), PIDMultiplier(), FixedMultiplier(2.0)]
)
def test_save_load_continue(tmp_path, multiplier):
    model = make(BudgetToyEnv(), multiplier=multiplier, cost_gamma=0.9).learn(48)
    model.save(tmp_path / "model")
    loaded = PPOLagrangian.load(tmp_path / "model", device="cpu")

    observation = np.array([[0.5]], dtype=np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0],
        model.predict(observation, deterministic=True)[0],
    )
    assert loaded.multiplier == model.multiplier
    assert loaded.cost_gamma == 0.9
    saved, restored = model.policy.state_dict(), loaded.policy.state_dict()
    assert all(th.equal(saved[name], restored[name]) for name in saved)
    moments = [m.policy.cost_optimizer.state_dict()["state"] for m in (model, loaded)]
    assert len(moments[0]) == len(list(model.policy.cost_parameters()))
    for key, state in moments[0].items():
        assert th.equal(state["exp_avg"], moments[1][key]["exp_avg"])

    loaded.set_env(BudgetToyEnv())
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 64


def test_load_with_an_environment_and_more_of_them(tmp_path):
    make(BudgetToyEnv()).learn(16).save(tmp_path / "model")
    venv = make_vec_env(BudgetToyEnv, n_envs=3)
    loaded = PPOLagrangian.load(tmp_path / "model", env=venv, device="cpu")
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps == 64


def test_learning_without_an_environment_says_how(tmp_path):
    make(BudgetToyEnv()).learn(16).save(tmp_path / "model")
    loaded = PPOLagrangian.load(tmp_path / "model", device="cpu")
    with pytest.raises(ValueError, match=r"env is None: .*Call set_env\(env\)"):
        loaded.learn(16, reset_num_timesteps=False)


def test_the_environment_owns_the_limit_unless_one_is_given(scripted_env):
    env = scripted_env((1.0, 1.0), limit=1.0)
    model = make(env).learn(16, log_interval=None)
    assert model.multiplier.value == 2.0
    env.cost_limit = 2.0
    model.learn(16)
    assert model.multiplier.value == 2.0
    given = make(scripted_env((1.0, 1.0)), cost_limit=0.5).learn(16)
    assert given.multiplier.value == 2.5


def test_dict_observations_learn(scripted_env):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=1.0, as_dict=True)] * 2)
    model = make(venv, policy="MultiInputPolicy").learn(64)
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


def test_works_inside_vec_normalize():
    model = make(VecNormalize(make_vec_env(BudgetToyEnv, n_envs=2))).learn(64)
    assert model.multiplier.value > 1.0


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
        ({"multiplier": 1.0}, TypeError, "multiplier is 1.0; .*GradientMultiplier"),
        ({"cost_limit": float("nan")}, ValueError, "cost_limit is nan"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        make(BudgetToyEnv(), **kwargs)


def test_policy_without_a_cost_critic_is_refused():
    plain = PPO.policy_aliases["MlpPolicy"]
    with pytest.raises(TypeError, match=r"ActorCriticPolicy, which has no cost critic.*MlpPolicy"):
        make(BudgetToyEnv(), policy=plain)
    assert make(BudgetToyEnv(), policy=CostCriticPolicy).learn(16).num_timesteps == 16


def test_costs_are_not_charged_twice():
    venv = make_vec_env(BudgetToyEnv)
    with pytest.raises(ValueError, match=r"LagrangianVecEnv, which already .*twice.*without"):
        make(LagrangianVecEnv(venv))
    model = make(venv)
    model.set_env(LagrangianVecEnv(venv))
    with pytest.raises(ValueError, match="would charge it twice"):
        model.learn(16)


def test_an_environment_without_a_limit_is_refused_at_once(scripted_env):
    with pytest.raises(ValueError, match=r"cost_limit: .*or pass cost_limit="):
        make(scripted_env())


def test_missing_cost_stops_training(scripted_env):
    with pytest.raises(ValueError, match="missing from the step info of env 0"):
        make(scripted_env((1.0, None), limit=1.0)).learn(16)
