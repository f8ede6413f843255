"""Replayed rewards are those of the multiplier of the moment, whatever it was when they came."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from agents import (
    BudgetToyEnv,
    CostReplayBuffer,
    FixedMultiplier,
    GradientMultiplier,
    VectorMultiplier,
    constrain,
)
from agents.algorithms.replay_buffer import CostDictReplayBuffer, CostNStepReplayBuffer, mix_rewards
from agents.errors import TrustError

BOX, ACTIONS = spaces.Box(0.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, (1,))
SIZE, N_ENVS = 10, 2  # the ring holds this many steps of every environment
KINDS = {
    "one step": (CostReplayBuffer, ReplayBuffer, {}),
    "three steps": (CostNStepReplayBuffer, NStepReplayBuffer, {"n_steps": 3, "gamma": 0.9}),
    "dict": (CostDictReplayBuffer, DictReplayBuffer, {}),
    "shared observations": (
        CostReplayBuffer,
        ReplayBuffer,
        {"optimize_memory_usage": True, "handle_timeout_termination": False},
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def rule(n_costs):
    if n_costs == 1:
        return GradientMultiplier()
    return VectorMultiplier([GradientMultiplier() for _ in range(n_costs)])


def build(kind, multiplier=None):
    ours, theirs, kwargs = KINDS[kind]
    space = spaces.Dict({"a": BOX}) if kind == "dict" else BOX
    shared = (SIZE * N_ENVS, space, ACTIONS, "cpu", N_ENVS)
    if multiplier is None:
        return theirs(*shared, **kwargs)
    return ours(*shared, multiplier=multiplier, **kwargs)


def steps(kind, n_steps, n_costs, seed=0):
    """Random steps, ended and cut off at random, with a reward and costs."""
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        one, two = ({"a": x} if kind == "dict" else x for x in rng.random((2, N_ENVS, 2)))
        dones = rng.random(N_ENVS) < 0.3
        cut = dones & (rng.random(N_ENVS) < 0.5)
        costs = rng.normal(size=(N_ENVS, n_costs))
        infos = [{"cost": c[0], "costs": c, "TimeLimit.truncated": t} for c, t in zip(costs, cut)]  # noqa: B905
        rewards = rng.normal(size=N_ENVS)
        yield one, two, rng.uniform(-1, 1, (N_ENVS, 1)), rewards, dones, infos


def penalised(rewards, infos, prices):
    costs = np.array([info["costs"] for info in infos])
    return (rewards - costs @ prices) / (1.0 + prices.sum())


def refilled(kind, n_steps, n_costs, prices):
    """A buffer of Stable-Baselines3 that saw the same steps at today's price."""
    buffer = build(kind)
    for one, two, action, rewards, dones, infos in steps(kind, n_steps, n_costs):
        buffer.add(one, two, action, penalised(rewards, infos, prices), dones, infos)
    return buffer


def samples(buffer):
    np.random.seed(1)  # noqa: NPY002 - which the buffers of Stable-Baselines3 draw from
    batch = buffer.sample(200)
    columns = {"observations": batch.observations, "next": batch.next_observations}
    flat = {k: v["a"] if isinstance(v, dict) else v for k, v in columns.items()}
    rest = {k: getattr(batch, k) for k in ("actions", "rewards", "dones")}
    rest["discounts"] = getattr(batch, "discounts", None)
    return {k: v.numpy() for k, v in {**flat, **rest}.items() if v is not None}


def assert_same_samples(one, other):
    first, second = samples(one), samples(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=1e-5, atol=1e-6, err_msg=name)


@each_kind
@pytest.mark.parametrize("n_costs", [1, 2])
@pytest.mark.parametrize("n_steps", [1, 7, SIZE, 26], ids=["one", "some", "full", "wrapped"])
def test_samples_are_those_of_a_buffer_filled_anew(kind, n_costs, n_steps):
    multiplier = rule(n_costs)
    buffer = build(kind, multiplier)
    for count, step in enumerate(steps(kind, n_steps, n_costs)):
        buffer.add(*step)
        if count % 5 == 4:
            multiplier.update(0.3 if n_costs == 1 else np.array([0.3, -0.4]))
            buffer.sample(2)  # rewrites what is there
    for violation in (0.0, 2.0, -1.5, -100.0):
        multiplier.update(violation if n_costs == 1 else np.array([violation, -violation]))
        prices = np.atleast_1d(multiplier.value)
        assert_same_samples(buffer, refilled(kind, n_steps, n_costs, prices))


@each_kind
def test_at_a_price_of_zero_they_are_the_rewards_themselves(kind):
    buffer = build(kind, FixedMultiplier(0.0))
    for step in steps(kind, 26, 1):
        buffer.add(*step)
    first, second = samples(buffer), samples(refilled(kind, 26, 1, np.zeros(1)))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@each_kind
@pytest.mark.parametrize("n_costs", [1, 2])
def test_a_saved_buffer_keeps_its_mixture_until_it_gets_a_multiplier(kind, n_costs, tmp_path):
    multiplier = rule(n_costs)
    buffer = build(kind, multiplier)
    for step in steps(kind, 13, n_costs):
        buffer.add(*step)
    multiplier.update(0.5 if n_costs == 1 else np.array([0.5, 0.7]))
    before = samples(buffer)
    save_to_pkl(tmp_path / "buffer", buffer)
    loaded = load_from_pkl(tmp_path / "buffer")
    for name, values in samples(loaded).items():
        np.testing.assert_array_equal(values, before[name])
    np.testing.assert_array_equal(loaded.multiplier.value, multiplier.value)
    loaded.multiplier = rule(n_costs)
    assert_same_samples(loaded, refilled(kind, 13, n_costs, np.ones(n_costs)))


def test_sampling_when_nothing_moved_rewrites_nothing():
    buffer = build("one step", GradientMultiplier())
    for step in steps("one step", 4, 1):
        buffer.add(*step)
    buffer.rewards[:] = 7.0
    assert set(samples(buffer)["rewards"].flatten()) == {7.0}
    buffer.multiplier.update(1.0)
    assert 7.0 not in samples(buffer)["rewards"]


def test_bad_costs_are_refused():
    buffer = build("one step", GradientMultiplier())
    one, two, action, rewards, dones, infos = next(steps("one step", 1, 1))
    with pytest.raises(ValueError, match=r'"cost"\] is missing from the step info of env 1'):
        buffer.add(one, two, action, rewards, dones, [infos[0], {}])
    assert buffer.pos == 0
    several = build("one step", rule(2))
    with pytest.raises(ValueError, match=r'"costs"\] of env 0 is .*must be 2 finite numbers'):
        several.add(one, two, action, rewards, dones, infos)


numbers = st.floats(-100.0, 100.0, width=32)


@settings(deadline=None)
@given(hnp.arrays(np.float32, 4, elements=numbers), hnp.arrays(np.float32, 4, elements=numbers))
def test_penalised_rewards_are_no_larger_than_the_largest_of_both(rewards, costs):
    for price in (0.0, 0.3, 1e6):
        mixed = mix_rewards(rewards, costs[:, None], np.array([price]))
        assert mixed.dtype == np.float32
        expected = (rewards.astype(float) - price * costs) / (1.0 + price)
        np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=1e-4)
        assert np.abs(mixed).max() <= max(np.abs(rewards).max(), np.abs(costs).max()) * 1.001


# -- in a model ------------------------------------------------------------------------------------


def make(env, algorithm=SAC, **kwargs):
    small = {
        "learning_starts": 8,
        "batch_size": 8,
        "buffer_size": 40,
        "policy_kwargs": {"net_arch": [8]},
        "episodes_per_update": 1,
        "device": "cpu",
        "seed": 0,
    }
    return constrain(algorithm, env, **{**small, **kwargs})


class AsDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = spaces.Dict({"time": env.observation_space})

    def observation(self, observation):
        return {"time": observation}


MODELS = {
    "one step": lambda: make(BudgetToyEnv(), multiplier=GradientMultiplier()),
    "three steps": lambda: make(BudgetToyEnv(), n_steps=3),
    "dict": lambda: make(AsDict(BudgetToyEnv())),
    "three environments": lambda: make(make_vec_env(BudgetToyEnv, n_envs=3), n_steps=2),
    "values": lambda: make(BudgetToyEnv(0.05, n_actions=5), DQN, n_steps=2),
    "shared observations": lambda: make(
        BudgetToyEnv(),
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
    ),
}
each_model = pytest.mark.parametrize("name", MODELS)


def assert_mixed_by(model):
    buffer, price, units = model.replay_buffer, model.multiplier.value, model.units
    np.random.seed(0)  # noqa: NPY002
    buffer.sample(1)
    np.testing.assert_array_equal(buffer.mixed_at, [price])
    worth = buffer.raw_rewards / units.reward - price * buffer.costs[..., 0] / units.costs[0]
    expected = worth / (1.0 + price)
    np.testing.assert_allclose(buffer.rewards, expected, rtol=1e-5, atol=1e-7)


@each_model
def test_a_model_owns_a_buffer_that_follows_its_multiplier(name):
    model = MODELS[name]().learn(60)
    buffer = model.replay_buffer
    assert buffer.multiplier is model.multiplier
    assert buffer.full or name in ("three environments",)
    filled = buffer.costs[: buffer.size()]
    fractions = (buffer.raw_rewards[: len(filled)] * 8) ** 2
    np.testing.assert_allclose(filled[..., 0] * 8, fractions, rtol=1e-5)
    before = model.multiplier.value
    model.multiplier.update(1.0)
    assert model.multiplier.value == before + 1.0
    assert_mixed_by(model)


@each_model
def test_another_multiplier_is_followed_from_then_on(name):
    model = MODELS[name]().learn(48)
    model.multiplier = FixedMultiplier(5.0)
    model.learn(16, reset_num_timesteps=False)
    assert_mixed_by(model)
    assert model.replay_buffer.multiplier is model.multiplier


@each_model
def test_a_loaded_buffer_follows_the_multiplier_of_its_new_model(name, tmp_path):
    model = MODELS[name]().learn(48)
    model.save_replay_buffer(tmp_path / "buffer")
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env(), device="cpu")
    assert loaded.replay_buffer.size() == 0
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.multiplier is loaded.multiplier
    assert type(loaded.replay_buffer) is type(model.replay_buffer)
    np.testing.assert_array_equal(loaded.replay_buffer.raw_rewards, model.replay_buffer.raw_rewards)
    np.testing.assert_array_equal(loaded.replay_buffer.costs, model.replay_buffer.costs)
    assert_mixed_by(loaded)
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.multiplier != model.multiplier
    assert loaded.units.episodes > model.units.episodes
    assert_mixed_by(loaded)


def test_other_buffers_are_not_loaded(tmp_path, two_costs):
    model = make(BudgetToyEnv()).learn(16)
    kept = model.replay_buffer
    plain = SAC("MlpPolicy", BudgetToyEnv(), buffer_size=9, device="cpu")
    plain.save_replay_buffer(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"plain.* is no saved replay buffer"):
        model.load_replay_buffer(tmp_path / "plain.pkl")
    rules = [GradientMultiplier(), GradientMultiplier()]
    make(two_costs(), multiplier=rules).save_replay_buffer(tmp_path / "two")
    with pytest.raises(ValueError, match=r"holds 2 costs per step, the model 1. Load a buffer of"):
        model.load_replay_buffer(tmp_path / "two")
    assert model.replay_buffer is kept
    model.learn(16, reset_num_timesteps=False)


@pytest.mark.parametrize("kind", [ReplayBuffer, HerReplayBuffer, NStepReplayBuffer])
def test_buffers_without_a_place_for_costs_are_refused(kind):
    message = f"replay_buffer_class is {kind.__name__}, which has no place .*CostReplayBuffer"
    with pytest.raises(TypeError, match=message):
        make(BudgetToyEnv(), replay_buffer_class=kind)


def test_a_buffer_of_one_s_own(tmp_path):
    model = make(BudgetToyEnv(), replay_buffer_class=Mine).learn(16)
    assert type(model.replay_buffer) is Mine
    model.save(tmp_path / "model")
    with pytest.raises(TrustError, match=r"replay_buffer_class is 'test_replay:Mine', .*--trust"):
        type(model).load(tmp_path / "model")
    for how in ({"trust": True}, {"custom_objects": {"replay_buffer_class": Mine}}):
        loaded = type(model).load(tmp_path / "model", env=BudgetToyEnv(), device="cpu", **how)
        assert type(loaded.learn(16).replay_buffer) is Mine


class Mine(CostReplayBuffer):
    """As its parent."""


def test_returns_of_several_steps_from_dict_observations_are_refused():
    with pytest.raises(ValueError, match=r"n_steps is 3, .*Dict observations.*n_steps=1"):
        make(AsDict(BudgetToyEnv()), n_steps=3)


def test_normalised_observations_are_replayed_with_raw_rewards(scripted_env):
    script = {"costs": (1.0, 2.0, 3.0), "rewards": (5.0, 6.0, 7.0), "limit": 1.0}
    venv = DummyVecEnv([lambda: scripted_env(**script, truncate=True)] * 2)
    env = VecNormalize(venv, norm_reward=False, clip_obs=2.0)
    model = make(env, unit_free=False).learn(60)
    buffer = model.replay_buffer
    assert set(buffer.raw_rewards.flatten()) == {5.0, 6.0, 7.0}
    np.testing.assert_array_equal(buffer.raw_rewards, buffer.costs[..., 0] + 4.0)
    assert buffer.observations.max() <= 1.0  # as the environment gave them
    assert_mixed_by(model)
    np.random.seed(0)  # noqa: NPY002
    batch = buffer.sample(50, env=env)
    assert batch.observations.min() < 0.0  # normalised only now
    assert batch.rewards.min() >= (5.0 - 3.0 * buffer.mixed_at[0]) / (1.0 + buffer.mixed_at[0])
