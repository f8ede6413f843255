"""Any algorithm made constrained: what every one of them can do, and what it learns from."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import (
    BudgetToyEnv,
    FixedMultiplier,
    GradientMultiplier,
    PIDMultiplier,
    PPOLagrangian,
    VectorMultiplier,
    constrain,
    constrained,
)
from agents.algorithms.lagrangian import fitting_policy

NET = {"policy_kwargs": {"net_arch": [8]}}
ON = {"n_steps": 16, **NET}
OFF = {"learning_starts": 16, "buffer_size": 200, "batch_size": 16, "train_freq": 4, **NET}
OFF_VALUES = {**OFF, "target_update_interval": 8}
ALGORITHMS = {
    PPO: {**ON, "batch_size": 16, "n_epochs": 2},
    A2C: ON,
    TRPO: {**ON, "batch_size": 16, "n_critic_updates": 2},
    RecurrentPPO: {
        "n_steps": 16,
        "batch_size": 16,
        "n_epochs": 2,
        "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8},
    },
    MaskablePPO: {**ON, "batch_size": 16, "n_epochs": 2},
    SAC: OFF,
    TD3: OFF,
    DDPG: OFF,
    TQC: {**OFF, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}},
    CrossQ: OFF,
    DQN: OFF_VALUES,
    QRDQN: {**OFF_VALUES, "policy_kwargs": {"net_arch": [8], "n_quantiles": 5}},
}
DISCRETE = (DQN, QRDQN, MaskablePPO)
ON_POLICY = [kind for kind in ALGORITHMS if issubclass(kind, OnPolicyAlgorithm)]
OFF_POLICY = [kind for kind in ALGORITHMS if kind not in ON_POLICY]
each = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda kind: kind.__name__)
each_on_policy = pytest.mark.parametrize("algorithm", ON_POLICY, ids=lambda kind: kind.__name__)


class AsDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict({"time": env.observation_space})

    def observation(self, observation):
        return {"time": observation}


class Penalise(gym.Wrapper):
    """What an algorithm would learn from if the multiplier were a part of the environment."""

    def __init__(self, env, multiplier):
        super().__init__(env)
        self.price = multiplier

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = (reward - self.price * info["cost"]) / (1.0 + self.price)
        return observation, reward, terminated, truncated, info

    def action_masks(self):
        return self.env.get_wrapper_attr("action_masks")()


class Unmasked(gym.Wrapper):
    """Allows every action."""

    def action_masks(self):
        return np.ones(self.action_space.n, dtype=bool)


def toy(algorithm, *, as_dict=False, time_limit=None):
    env = BudgetToyEnv(n_actions=9 if algorithm in DISCRETE else None)
    if time_limit is not None:
        env = gym.wrappers.TimeLimit(env, time_limit)
    return AsDict(env) if as_dict else env


def vector(algorithm, n_envs=2, **kwargs):
    return make_vec_env(lambda: toy(algorithm, **kwargs), n_envs=n_envs)


def values(algorithm):
    return deepcopy(ALGORITHMS[algorithm])  # Stable-Baselines3 writes into policy_kwargs


def make(algorithm, env=None, **kwargs):
    shared = {"seed": 0, "device": "cpu", **values(algorithm)}
    if algorithm in OFF_POLICY:
        shared["episodes_per_update"] = 2
    env = vector(algorithm) if env is None else env
    return constrain(algorithm, env, **{**shared, **kwargs})


def plain(algorithm, env, **kwargs):
    policy = fitting_policy(algorithm, env)
    return algorithm(policy, env, **{"seed": 0, "device": "cpu", **values(algorithm), **kwargs})


def learnt(model):
    """Every tensor of a model."""
    states = [state for name, state in model.get_parameters().items() if "optimizer" not in name]
    return {f"{i}.{k}": v for i, state in enumerate(states) for k, v in state.items()}


def assert_same_networks(one, other):
    first, second = learnt(one), learnt(other)
    assert first.keys() == second.keys()
    assert all(th.equal(first[name], second[name]) for name in first)


# -- every algorithm -------------------------------------------------------------------------------


@each
def test_learns_saves_loads_and_goes_on(algorithm, tmp_path):
    model = make(algorithm, multiplier=PIDMultiplier(initial=5.0)).learn(64)
    assert isinstance(model, algorithm)
    assert model.multiplier != PIDMultiplier(initial=5.0)
    assert model.episodes == 8
    model.save(tmp_path / "model")
    loaded = constrained(algorithm).load(tmp_path / "model", device="cpu")

    assert type(loaded) is type(model)
    assert_same_networks(loaded, model)
    observations = np.linspace(0.0, 1.0, 5, dtype=np.float32)[:, None]
    for deterministic in (True, False) if algorithm in ON_POLICY else (True,):
        actions = []
        for one in (model, loaded):
            th.manual_seed(1)
            actions.append(one.predict(observations, deterministic=deterministic)[0])
        np.testing.assert_array_equal(*actions)
    assert loaded.multiplier == model.multiplier
    assert loaded.multiplier is not model.multiplier
    for name in ("episodes", "violations", "num_timesteps"):
        assert getattr(loaded, name) == getattr(model, name)
    np.testing.assert_array_equal(loaded.cost_sum, model.cost_sum)

    loaded.set_env(vector(algorithm))
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128
    assert loaded.episodes == 16
    assert loaded.multiplier != model.multiplier
    if algorithm in OFF_POLICY:
        assert loaded.replay_buffer.multiplier is loaded.multiplier


@each
def test_learns_from_one_environment_of_dict_observations(algorithm):
    if algorithm is CrossQ:
        with pytest.raises(ValueError, match=r"CrossQ has no policy .*FlattenObservation"):
            make(algorithm, toy(algorithm, as_dict=True))
        return
    model = make(algorithm, toy(algorithm, as_dict=True)).learn(64)
    assert model.multiplier.value != 1.0
    assert model.predict({"time": np.zeros(1, np.float32)})[0] is not None


@each
def test_loads_with_an_environment_and_more_of_them(algorithm, tmp_path):
    make(algorithm).learn(32).save(tmp_path / "model")
    kind = constrained(algorithm)
    loaded = kind.load(tmp_path / "model", env=vector(algorithm, n_envs=3), device="cpu")
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps == 80
    assert loaded._episode_costs.running.shape == (3, 1)


@each
@pytest.mark.parametrize("n_envs", [1, 3])
def test_with_multiplier_zero_it_is_the_algorithm_to_the_last_bit(algorithm, n_envs):
    ours, theirs = (vector(algorithm, n_envs, time_limit=6) for _ in range(2))  # truncated
    model = make(algorithm, ours, multiplier=FixedMultiplier(0.0)).learn(96)
    other = plain(algorithm, theirs).learn(96)
    assert_same_networks(model, other)
    assert model._n_updates == other._n_updates > 0


@pytest.mark.parametrize("algorithm", [SAC, TD3, TQC, CrossQ, DQN, QRDQN])
def test_so_it_is_with_returns_of_several_steps(algorithm):
    ours, theirs = (vector(algorithm, time_limit=6) for _ in range(2))
    model = make(algorithm, ours, multiplier=FixedMultiplier(0.0), n_steps=3).learn(64)
    assert_same_networks(model, plain(algorithm, theirs, n_steps=3).learn(64))


@each
def test_the_policy_is_found_by_the_observations(algorithm):
    lstm = "Lstm" if algorithm is RecurrentPPO else ""
    assert fitting_policy(algorithm, toy(algorithm)) == f"Mlp{lstm}Policy"
    if algorithm is CrossQ:
        return  # has one for flat observations only
    assert fitting_policy(algorithm, vector(algorithm, as_dict=True)) == f"MultiInput{lstm}Policy"
    images = gym.wrappers.TransformObservation(
        toy(algorithm), lambda _: None, gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    )
    assert fitting_policy(algorithm, images) == f"Cnn{lstm}Policy"


def test_environments_are_found_by_their_id():
    model = constrain(PPO, "agents.toy:BudgetToy-v0", "MlpPolicy", device="cpu", **values(PPO))
    assert model.learn(16).multiplier.value != 1.0


# -- penalised rollouts ----------------------------------------------------------------------------


def rollouts_of(algorithm, n_steps, n_envs=3):
    batch = {"batch_size": n_envs * n_steps} if "batch_size" in ALGORITHMS[algorithm] else {}
    return {"n_steps": n_steps, "gamma": 0.9, "gae_lambda": 0.8, **batch}


@each_on_policy
@pytest.mark.parametrize("time_limit", [None, 6], ids=["terminated", "truncated"])
@pytest.mark.parametrize("n_steps", [13, 24])
def test_a_rollout_is_that_of_a_penalising_environment(algorithm, time_limit, n_steps):
    size = rollouts_of(algorithm, n_steps)
    ours = vector(algorithm, 3, time_limit=time_limit)
    rule = GradientMultiplier(learning_rate=4.0)
    model = make(algorithm, ours, multiplier=rule, unit_free=False, **size)
    moved = model.learn(3 * n_steps).multiplier.value
    assert moved != 1.0  # by this very rollout
    theirs = make_vec_env(lambda: Penalise(toy(algorithm, time_limit=time_limit), moved), n_envs=3)
    other = plain(algorithm, theirs, **size).learn(3 * n_steps)
    for name in ("rewards", "values", "returns", "advantages"):
        mine, expected = (getattr(m.rollout_buffer, name) for m in (model, other))
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@each_on_policy
def test_penalised_rewards_are_the_formula_and_logged_returns_are_not(algorithm, scripted_env):
    n_actions = 2 if algorithm is MaskablePPO else None
    script = {"costs": (1.0, 2.0), "rewards": (5.0, -3.0), "limit": 1.0, "n_actions": n_actions}
    env = make_vec_env(lambda: Unmasked(scripted_env(**script)), n_envs=2)
    model = make(algorithm, env, multiplier=FixedMultiplier(3.0), **rollouts_of(algorithm, 6, 2))
    model.learn(12, log_interval=None)
    expected = np.array([(5.0 - 3.0 * 1.0) / 4.0, (-3.0 - 3.0 * 2.0) / 4.0] * 3)
    rewards = model.rollout_buffer.rewards.reshape(6, 2)
    np.testing.assert_allclose(rewards, np.stack([expected] * 2, axis=1), rtol=1e-6)
    assert {episode["r"] for episode in model.ep_info_buffer} == {2.0}


@each_on_policy
def test_one_multiplier_for_a_whole_rollout(algorithm, scripted_env, trace):
    n_actions = 2 if algorithm is MaskablePPO else None
    make_one = lambda: Unmasked(scripted_env((1.0, 2.0), limit=2.5, n_actions=n_actions))  # noqa: E731
    model = make(
        algorithm,
        DummyVecEnv([make_one] * 2),
        multiplier=GradientMultiplier(learning_rate=0.5, initial=1.0),
        unit_free=False,
        n_steps=4,
        **({"batch_size": 8} if "batch_size" in ALGORITHMS[algorithm] else {}),
    )
    model.learn(24, callback=trace, log_interval=None)
    assert trace.steps == [1.0] * 4 + [1.25] * 4 + [1.5] * 4
    assert [log["lagrange/multiplier"] for log in trace.logs] == [1.25, 1.5, 1.75]
    assert {log["lagrange/cost"] for log in trace.logs} == {3.0}
    assert {log["lagrange/violation_rate"] for log in trace.logs} == {1.0}


def test_the_multiplier_moves_before_the_policy_is_updated(monkeypatch):
    seen = []
    model = make(PPO)
    monkeypatch.setattr(model, "train", lambda: seen.append(model.multiplier.value))
    model.learn(64)
    assert seen[0] != 1.0
    assert seen[1] != seen[0]
    assert seen[1] == model.multiplier.value


def test_a_rollout_that_is_stopped_leaves_nothing_behind():
    model = make(PPO)
    model.learn(64, callback=lambda scope, _: scope["n_steps"] < 5)
    assert (model.num_timesteps, model.multiplier.value) == (12, 1.0)
    model.learn(32)
    assert len(model._rewards) == len(model._costs) == 16  # of the last one only
    assert model.multiplier.value != 1.0


# -- off-policy ------------------------------------------------------------------------------------


def test_the_multiplier_moves_once_per_so_many_episodes_after_the_start(scripted_env, trace):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=2.5)] * 2)
    model = make(
        SAC,
        venv,
        multiplier=GradientMultiplier(learning_rate=0.5),
        unit_free=False,
        episodes_per_update=4,
        learning_starts=9,
    )
    model.learn(32, callback=trace, log_interval=None)
    # two episodes end at every second step; those of steps 2 and 4 (8 timesteps) do not count
    assert trace.steps == [1.0] * 7 + [1.25] * 4 + [1.5] * 4 + [1.75]
    logged = model.logger.name_to_value
    assert logged["lagrange/multiplier"] == 1.75
    assert logged["lagrange/cost"] == 3.0
    assert logged["lagrange/cost_rate"] == 1.5
    assert (model.episodes, model.violations) == (16, 16)


def test_nothing_moves_before_learning_starts(scripted_env, trace):
    env = scripted_env((1.0,), limit=0.0)
    sizes = {"learning_starts": 20, "episodes_per_update": 1, "unit_free": False}
    model = make(DDPG, env, **sizes).learn(24, callback=trace)
    assert trace.steps == [1.0] * 20 + [2.0, 3.0, 4.0, 5.0]
    assert model.episodes == 24  # all are counted, though


@pytest.mark.parametrize("number", [0, 1.5, None, "8"])
def test_the_number_of_episodes_per_update_is_checked(number):
    with pytest.raises(ValueError, match=r"episodes_per_update is .*integer >= 1. Try 8"):
        make(SAC, episodes_per_update=number)


# -- what does not fit -----------------------------------------------------------------------------


def test_algorithms_that_show_no_single_costs_are_refused():
    with pytest.raises(TypeError, match=r"ARS, which cannot be made .*whole episodes.*FixedPenal"):
        constrain(ARS, BudgetToyEnv())
    with pytest.raises(TypeError, match="algorithm is BaseAlgorithm, which cannot be"):
        constrained(BaseAlgorithm)


@pytest.mark.parametrize("kind", [PPOLagrangian, constrained(PPO), constrained(SAC)])
def test_what_is_constrained_already_is_refused(kind):
    with pytest.raises(TypeError, match=f"algorithm is {kind.__name__}, which is constrained alre"):
        constrain(kind, BudgetToyEnv())


@pytest.mark.parametrize("thing", ["PPO", int, None, PPO.policy_aliases["MlpPolicy"]])
def test_what_is_no_algorithm_is_refused(thing):
    with pytest.raises(TypeError, match=r"algorithm is .*a class of Stable-Baselines3, such as"):
        constrained(thing)


def test_there_is_one_class_for_an_algorithm():
    assert constrained(PPO) is constrained(PPO)
    assert constrained(PPO) is not constrained(A2C)
    assert constrained(PPO).__name__ == "ConstrainedPPO"
    assert "PPO under a cost limit" in constrained(PPO).__doc__


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG, TQC, CrossQ, DQN, QRDQN, MaskablePPO])
def test_an_unfit_action_space_names_the_wrapper(algorithm):
    other = PPO if algorithm in DISCRETE else DQN
    cure = "TransformAction .*becomes Discrete for .*MultiBinary becomes a Box"
    with pytest.raises(ValueError, match=f"(?s)env: The algorithm only supports .*{cure}"):
        make(algorithm, toy(other))


@each
def test_rewards_that_are_divided_by_their_spread_are_refused(algorithm):
    message = r"norm_reward=True: .*no unit. Use VecNormalize\(..., norm_reward=False\)"
    with pytest.raises(ValueError, match=message):
        make(algorithm, VecNormalize(vector(algorithm)))
    model = make(algorithm)
    model.set_env(VecNormalize(vector(algorithm)))
    with pytest.raises(ValueError, match=message):
        model.learn(16)


def test_rewards_are_not_divided_in_any_layer():
    with pytest.raises(ValueError, match=r"VecNormalize with norm_reward=True: .*no unit"):
        make(PPO, VecNormalize(VecNormalize(vector(PPO)), norm_reward=False))


class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2.0 * reward


REWARD_WRAPPERS = {
    "NormalizeReward": gym.wrappers.NormalizeReward,
    "TransformReward": lambda env: gym.wrappers.TransformReward(env, lambda reward: 2.0 * reward),
    "ClipReward": lambda env: gym.wrappers.ClipReward(env, 0.0, 1.0),
    "RewardWrapper": Doubled,
}


@pytest.mark.parametrize("algorithm", [PPO, SAC])
@pytest.mark.parametrize("name", REWARD_WRAPPERS)
def test_wrappers_that_change_rewards_are_refused(name, algorithm):
    message = f"env is in a {name}: .*no unit. Leave the wrapper out .*or take .*PPOLagrangian"
    env = gym.wrappers.TimeLimit(REWARD_WRAPPERS[name](toy(algorithm)), 9)
    with pytest.raises(ValueError, match=message):
        make(algorithm, env)
    with pytest.raises(ValueError, match=message):
        make(algorithm, DummyVecEnv([lambda: toy(algorithm), lambda: env]))
    model = PPOLagrangian("MlpPolicy", env, n_steps=16, batch_size=16, gamma=0.9)
    assert model.learn(16).num_timesteps == 16  # two critics: the cost has one of its own


@pytest.mark.parametrize("algorithm", [PPO, RecurrentPPO, MaskablePPO, SAC, DQN])
def test_observations_may_be_normalised(algorithm):
    model = make(algorithm, VecNormalize(vector(algorithm), norm_reward=False)).learn(64)
    assert model.multiplier.value != 1.0


# -- several costs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_two_costs_have_a_multiplier_each(algorithm, two_costs, tmp_path):
    env = DummyVecEnv([two_costs] * 2)
    rules = [GradientMultiplier(), GradientMultiplier()]
    model = make(algorithm, env, multiplier=rules).learn(64, log_interval=None)
    binding, slack = model.multiplier.value
    assert binding > 1.0 > slack
    logged = model.logger.name_to_value
    assert logged["lagrange/multiplier_energy"] == binding
    assert logged["lagrange/multiplier_noise"] == slack
    assert logged["lagrange/cost_noise"] == pytest.approx(logged["lagrange/cost_energy"] / 2.0)
    assert logged["lagrange/cost_rate_noise"] == pytest.approx(model.cost_sum[1] / 64)
    assert "lagrange/cost" not in logged
    model.save(tmp_path / "model")
    loaded = constrained(algorithm).load(tmp_path / "model", env=env, device="cpu")
    assert loaded.multiplier.multipliers == model.multiplier.multipliers
    assert loaded.learn(64, reset_num_timesteps=False).multiplier.value[0] != binding


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_one_cost_in_a_vector_is_the_same_as_a_number(algorithm, scripted_env):
    costs, limit = (0.5, 0.25, 2.0), 1.0
    states = []
    for vectorised in (False, True):
        script = [(c,) for c in costs] if vectorised else costs
        env = scripted_env(script, limit=(limit,) if vectorised else limit)
        rule = PIDMultiplier()
        model = make(algorithm, env, multiplier=[rule] if vectorised else rule).learn(64)
        states.append((model, rule))
    assert states[0][1] == states[1][1] != PIDMultiplier()
    assert_same_networks(states[0][0], states[1][0])


def test_rewards_of_two_costs(scripted_env):
    env = scripted_env([(1.0, 4.0), (2.0, 0.0)], limit=(1.0, 1.0), rewards=(5.0, 7.0))
    rules = [FixedMultiplier(0.5), FixedMultiplier(2.0)]
    model = make(A2C, env, multiplier=rules, n_steps=2).learn(2)
    expected = [(5.0 - 0.5 - 8.0) / 3.5, (7.0 - 1.0) / 3.5]
    np.testing.assert_allclose(model.rollout_buffer.rewards.flatten(), expected, rtol=1e-6)


def test_a_limit_is_given_for_every_cost(two_costs):
    rules = [GradientMultiplier(), GradientMultiplier()]
    model = make(PPO, two_costs(), multiplier=rules, cost_limit=[5.0, 0.01]).learn(32)
    assert model.multiplier.value[0] == 0.0
    assert model.multiplier.value[1] > 1.0


def two(n=2):
    return VectorMultiplier([GradientMultiplier() for _ in range(n)])


def test_numbers_of_costs_must_agree(two_costs):
    with pytest.raises(ValueError, match=r"cost limits are .* must be 3 finite numbers"):
        make(PPO, two_costs(), multiplier=two(3))
    with pytest.raises(ValueError, match=r"cost limits are 0.5; they must be 2 finite numbers"):
        make(PPO, two_costs(), multiplier=two(), cost_limit=0.5)
    with pytest.raises(ValueError, match=r"cost_limit is \[1.0\]; it must be one finite number"):
        make(PPO, BudgetToyEnv(), cost_limit=[1.0])
    model = make(PPO, two_costs(), multiplier=two(3), cost_limit=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"of env 0 is .* must be 3 finite numbers, one for every"):
        model.learn(16)


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_several_multipliers_need_vectors_of_costs_and_limits(algorithm):
    with pytest.raises(ValueError, match=r"cost_limits: .* no attribute of this name"):
        make(algorithm, BudgetToyEnv(), multiplier=two())
    model = make(algorithm, BudgetToyEnv(), multiplier=two(), cost_limit=[1.0, 1.0])
    with pytest.raises(ValueError, match=r'"costs"\] is missing .* of env 0'):
        model.learn(32)
