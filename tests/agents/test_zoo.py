import dataclasses
import sys
from types import MappingProxyType

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import AGENTS, BudgetToyEnv, FixedMultiplier, SauteBudget, make_agent
from agents.algorithms.constrained import Constrained
from agents.env_checks import env_id
from agents.multipliers.rules import check_multiplier
from agents.zoo.make import check_fit, find_agent
from agents.zoo.values import LinearSchedule

CHEAP_ON = {"n_epochs": 1, "n_critic_updates": 1, "cost_n_epochs": 1}
CHEAP_OFF = {"learning_starts": 16, "train_freq": 4, "gradient_steps": 1, "episodes_per_update": 1}
each = pytest.mark.parametrize("name", AGENTS)


class AsDict(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict({"time": env.observation_space})

    def observation(self, observation):
        return {"time": observation}


def fitting_env(name, *, as_dict=False, by_id=False):
    spec = AGENTS[name]
    n_actions = None if "Box" in spec.action_spaces else 9
    env = BudgetToyEnv(n_actions=n_actions)
    if by_id:
        env = gym.make("agents.toy:BudgetToy-v0", n_actions=n_actions)
    if as_dict:
        env = AsDict(env)
    return SauteBudget(env) if spec.wrapper else env


def make(name, env=None, **overrides):
    env = env or make_vec_env(lambda: fitting_env(name), n_envs=4)
    return make_agent(name, env, device="cpu", **overrides)


def cheap(name):
    spec = AGENTS[name]
    if spec.rollout_size is None:
        return {**CHEAP_OFF, "policy_kwargs": {"net_arch": [8]}}
    return {key: value for key, value in CHEAP_ON.items() if key in spec.kwargs}


@each
class TestEveryAgent:
    def test_learns_a_little(self, name):
        model, spec = make(name, **cheap(name)), AGENTS[name]
        if spec.rollout_size is not None:
            assert model.n_steps * model.n_envs == spec.rollout_size
        steps = 2 * (spec.rollout_size or 32)
        assert model.learn(steps).num_timesteps == steps
        if spec.wrapper is None:
            assert isinstance(model, Constrained)
            assert model.episodes > 0
            assert model.violation.shape == (1,)  # by which the multiplier has moved
        else:
            assert not hasattr(model, "multiplier")

    def test_is_saved_and_loaded_by_its_class(self, name, tmp_path):
        model = make(name, fitting_env(name))
        model.save(tmp_path / "model")
        loaded = AGENTS[name].constructor.load(tmp_path / "model", device="cpu")
        assert type(loaded) is type(model)
        observation = np.zeros(model.observation_space.shape, dtype=np.float32)
        for_both = [m.predict(observation, deterministic=True)[0] for m in (model, loaded)]
        np.testing.assert_array_equal(*for_both)

    def test_row_is_plain_data(self, name):
        spec = AGENTS[name]
        assert "\n" not in spec.description
        assert spec.description
        if spec.multiplier is not None:
            assert check_multiplier(spec.multiplier(**spec.multiplier_kwargs))
        with pytest.raises(dataclasses.FrozenInstanceError):
            spec.description = ""
        with pytest.raises(TypeError, match="does not support item assignment"):
            spec.kwargs["gamma"] = 1.0

    def test_agents_share_nothing(self, name):
        env = fitting_env(name)
        first, second = (make(name, env) for _ in range(2))
        before = second.policy_kwargs["net_arch"].copy()
        first.policy_kwargs["net_arch"].append(99)
        assert second.policy_kwargs["net_arch"] == before
        assert AGENTS[name].kwargs["policy_kwargs"]["net_arch"] == before
        assert "use_sde" not in AGENTS[name].kwargs["policy_kwargs"]  # which its owner writes in
        if AGENTS[name].wrapper is None:
            assert first.multiplier is not second.multiplier
        if AGENTS[name].noise is not None:
            assert first.action_noise is not second.action_noise

    def test_dict_observations_choose_their_policy(self, name):
        env = DummyVecEnv([lambda: fitting_env(name, as_dict=True)] * 2)
        if name == "crossq_lag":
            cure = r"CrossQ has no policy for observations of Dict\(.*FlattenObservation"
            with pytest.raises(ValueError, match=cure):
                make(name, env)
            return
        model = make(name, env, **cheap(name))
        assert model.learn(32).num_timesteps >= 32

    def test_values_of_an_environment_id_are_applied(self, name):
        env = make_vec_env(lambda: fitting_env(name, by_id=True), n_envs=2)
        assert env_id(env) == env_id(env.envs[0]) == "BudgetToy-v0"
        model, spec = make(name, env), AGENTS[name].tuned_for("BudgetToy-v0")
        assert spec.kwargs != AGENTS[name].kwargs
        for key in spec.kwargs.keys() - {"train_freq", "policy_kwargs", "clip_range"}:
            if key != "normalize_advantage" or hasattr(model, key):
                assert getattr(model, key) == spec.kwargs[key], key
        if spec.rollout_size is not None:
            assert model.n_steps * 2 == spec.rollout_size != AGENTS[name].rollout_size
        if spec.multiplier is not None:
            assert model.multiplier == spec.multiplier(**spec.multiplier_kwargs)

    def test_what_has_no_cost_limit_is_refused(self, name, scripted_env):
        n_actions = None if "Box" in AGENTS[name].action_spaces else 3
        with pytest.raises(ValueError, match=r"cost_limit: .* no attribute|needs each environment"):
            make(name, scripted_env(n_actions=n_actions))


# -- values by environment -------------------------------------------------------------------------


@pytest.fixture
def tuned_row(monkeypatch):
    """``ppo_lag`` with values for an environment of one's own."""
    values = {
        "kwargs": {"gae_lambda": 0.5, "policy_kwargs": {"net_arch": [4]}},
        "multiplier_kwargs": {"initial": 7.0},
        "rollout_size": 64,
    }
    row = dataclasses.replace(AGENTS["ppo_lag"], tuned={"Mine-v0": values})
    monkeypatch.setattr("agents.zoo.make.AGENTS", MappingProxyType({"ppo_lag": row}))
    gym.register("Mine-v0", entry_point="agents.toy:BudgetToyEnv")
    yield row
    del gym.registry["Mine-v0"]


def test_tuned_values_replace_arguments_one_by_one_and_other_fields_whole(tuned_row):
    model = make("ppo_lag", gym.make("Mine-v0"))
    assert model.gae_lambda == 0.5
    assert model.policy_kwargs["net_arch"] == [4]
    assert model.batch_size == tuned_row.kwargs["batch_size"]
    assert (model.multiplier.value, model.multiplier.learning_rate) == (7.0, 1.0)
    assert model.n_steps == 64
    assert make("ppo_lag", gym.make("Mine-v0"), gae_lambda=0.9).gae_lambda == 0.9


@pytest.mark.parametrize("named", [True, False])
def test_other_environments_get_the_values_of_the_row(tuned_row, named):
    env = gym.make("agents.toy:BudgetToy-v0") if named else BudgetToyEnv()
    assert env_id(env) == ("BudgetToy-v0" if named else "")
    model = make("ppo_lag", env)
    assert model.gae_lambda == tuned_row.kwargs["gae_lambda"]
    assert model.n_steps == tuned_row.rollout_size


def test_schedules_are_straight_lines():
    schedule = LinearSchedule(3.0, 1.0)
    assert [schedule(left) for left in (1.0, 0.5, 0.0)] == [3.0, 2.0, 1.0]


# -- overrides -------------------------------------------------------------------------------------


def test_overrides_win():
    multiplier = FixedMultiplier(3.0)
    model = make("ppo_lag", BudgetToyEnv(), seed=7, multiplier=multiplier, n_steps=64)
    assert (model.multiplier, model.n_steps, model.seed) == (multiplier, 64, 7)
    assert make("ppo_lag", BudgetToyEnv(), cost_limit=0.7).cost_limit == [0.7]
    assert make("sac_lag", BudgetToyEnv(), episodes_per_update=3).episodes_per_update == 3


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'ppo_lagg'; .*'ppo_lag', .*Did you mean 'ppo_lag'\?"):
        make("ppo_lagg", BudgetToyEnv())
    with pytest.raises(ValueError, match=r"name is 'zzz'; it must be one of .*'trpo_lag'\]\.$"):
        find_agent("zzz")


@pytest.mark.parametrize(
    ("name", "key", "near"),
    [
        ("ppo_lag", "learning_rat", "learning_rate"),
        ("sac_lag", "episode_per_update", "episodes_per_update"),
        ("recurrent_ppo_lag", "cost_limits", "cost_limit"),
        ("ppo_saute", "use_sd", "use_sde"),
    ],
)
def test_unknown_override(name, key, near):
    with pytest.raises(TypeError, match=f"'{key}' is no argument of {name}; .*'{near}'"):
        make(name, fitting_env(name), **{key: 1.0})


def test_what_is_no_argument_of_plain_ppo_is_none_of_saute():
    with pytest.raises(TypeError, match="'multiplier' is no argument of ppo_saute"):
        make("ppo_saute", fitting_env("ppo_saute"), multiplier=FixedMultiplier(1.0))
    with pytest.raises(TypeError, match="multiplier is not an argument of CPO"):
        make("cpo", BudgetToyEnv(), multiplier=FixedMultiplier(1.0))


@pytest.mark.parametrize(
    ("n_envs", "batch_size"), [(1, 64), (3, 63), (5, 125), (8, 64), (128, 64), (131, 131)]
)
def test_batches_divide_the_rollout(n_envs, batch_size):
    env = DummyVecEnv([BudgetToyEnv] * n_envs)  # without an id: the values of the row
    model = make("ppo_lag", env)
    assert model.batch_size == batch_size
    assert model.n_steps * n_envs % batch_size == 0


def test_batches_divide_the_rollout_asked_for():
    assert make("ppo_lag", BudgetToyEnv(), n_steps=80).batch_size == 80
    assert make("ppo_lag", BudgetToyEnv(), batch_size=32).batch_size == 32


# -- what does not fit -----------------------------------------------------------------------------


class Actions(gym.Wrapper):
    cost_limit = 1.0

    def __init__(self, space):
        super().__init__(BudgetToyEnv())
        self.action_space = space


SPACES = {
    "Box": gym.spaces.Box(-1.0, 1.0, (1,)),
    "Discrete": gym.spaces.Discrete(3),
    "MultiDiscrete": gym.spaces.MultiDiscrete([3, 2]),
    "MultiBinary": gym.spaces.MultiBinary(2),
}


@each
@pytest.mark.parametrize("kind", SPACES)
def test_rows_say_what_makes_an_action_space_fit(name, kind):
    spec, env = AGENTS[name], Actions(SPACES[kind])
    env = SauteBudget(env) if spec.wrapper else env
    if kind in spec.action_spaces:
        check_fit(name, env)
        check_fit(name, DummyVecEnv([lambda: env]))
        assert make(name, env, **cheap(name)).action_space == SPACES[kind]  # and it does
        return
    if kind == "Box":
        cure = "Wrap each environment so that it has one; gymnasium.wrappers.TransformAction does"
    elif kind == "MultiBinary" and "Box" in spec.action_spaces:
        cure = "Wrap each environment in gymnasium.wrappers.TransformAction, to a Box"
    else:
        cure = "Agents that take it: ppo_lag, .*maskable_ppo_lag"
    message = f"env: {name} takes an action space of {spec.action_spaces[0]}.*, not {kind}.* {cure}"
    for one in (env, DummyVecEnv([lambda: env])):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            make(name, one)


def test_rows_that_need_a_wrapper_say_so():
    message = r"each environment wrapped: from agents.wrappers import SauteBudget; SauteBudget\(env"
    wrapped, bare = SauteBudget(BudgetToyEnv()), BudgetToyEnv()
    for env in (bare, DummyVecEnv([lambda: bare]), DummyVecEnv([lambda: wrapped, lambda: bare])):
        with pytest.raises(ValueError, match=message):
            check_fit("ppo_saute", env)
    check_fit("ppo_saute", gym.wrappers.TimeLimit(wrapped, 5))


CONTRIB = [n for n, row in AGENTS.items() if "contrib" in row.algorithm or "trust" in row.algorithm]


@pytest.mark.parametrize("name", CONTRIB)
def test_a_missing_sb3_contrib_says_how_to_install_it(name, monkeypatch):
    env = fitting_env(name)
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    monkeypatch.delitem(sys.modules, "agents.algorithms.trust_region", raising=False)
    with pytest.raises(
        ModuleNotFoundError, match=r"built on sb3-contrib, .*not installed. pip ins"
    ):
        make(name, env)


def test_other_missing_packages_are_named_as_they_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ModuleNotFoundError, match="import of stable_baselines3 halted"):
        make("sac_lag", BudgetToyEnv())
