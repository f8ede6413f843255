"""Wrappers that add a cost, penalise by it, or make its budget a part of the task."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.costs import EpisodeCosts, read_cost, read_cost_limit
from agents.evaluation import evaluate
from agents.toy import BudgetToyEnv
from agents.wrappers import AddCost, FixedPenalty, SauteBudget

TOY = "WrappedToy-v0"


@pytest.fixture
def toy():
    """A constrained environment with a spec."""
    gym.register(TOY, entry_point="agents.toy:BudgetToyEnv")
    yield lambda **kwargs: gym.make(TOY, **kwargs)
    del gym.registry[TOY]


def effort(observation, action, reward, info):
    return float(np.abs(action).sum())


def play(env, actions, **reset):
    """Everything that reset and steps return."""
    seen = [(*env.reset(**reset), 0.0, False)]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation, info, reward, terminated or truncated))
    return seen


class Images(gym.Env):
    """Observations of a given space, two steps, whatever is done."""

    action_space = spaces.Discrete(2)
    cost_limit = 1.0

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(0)
        self._left = 2
        return self.observation_space.sample(), {"cost": 0.0}

    def step(self, action):
        self._left -= 1
        return self.observation_space.sample(), 1.0, self._left == 0, False, {"cost": 0.5}


WRAPPED = {
    "cost": lambda env: AddCost(env, effort, 2.0),
    "penalty": lambda env: FixedPenalty(env, 3.0),
    "saute": SauteBudget,
    "cost and saute": lambda env: SauteBudget(AddCost(env, effort, 2.0), unsafe_reward=-5.0),
}


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # it is meant
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_environments_pass_the_checks(name, toy):
    env = WRAPPED[name](toy())
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    assert read_cost_limit(env) == (2.0 if "cost" in name else 0.25)
    assert read_cost_limit(DummyVecEnv([lambda: env])) == read_cost_limit(env)


@pytest.mark.parametrize(
    "wrap",
    [lambda env: FixedPenalty(env, 0.5), lambda env: SauteBudget(env, -2.0, cost_limit=0.5)],
    ids=["penalty", "saute"],
)
def test_specs_survive_json(toy, wrap):
    env = wrap(toy())
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env)
    assert again.observation_space == env.observation_space
    actions = [np.array([0.7], dtype=np.float32)] * 8
    for one, other in zip(play(env, actions), play(again, actions), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def test_a_spec_remembers_the_cost_function(toy):
    again = gym.make(AddCost(toy(), effort, 2.0).spec)
    assert play(again, [np.array([-0.5], dtype=np.float32)])[1][1]["cost"] == 0.5


# -- a cost for any environment --------------------------------------------------------------------


def test_add_cost_calls_the_function_with_what_the_step_returned():
    calls = []

    def cost(*arguments):
        calls.append(arguments)
        return len(calls)

    env = AddCost(BudgetToyEnv(), cost, cost_limit=30)
    actions = [np.array([value], dtype=np.float32) for value in (-1.0, 0.0, 1.0)]
    seen = play(env, actions, seed=0)
    assert [info["cost"] for _, info, *_ in seen] == [0.0, 1.0, 2.0, 3.0]
    assert all(type(info["cost"]) is float for _, info, *_ in seen)
    assert [call[3]["cost"] for call in calls] == [0.0, 0.0625, 0.125]  # of the environment
    for (observation, _, reward, _), action, call in zip(seen[1:], actions, calls, strict=True):
        assert call[0] is observation
        assert call[1] is action
        assert call[2] == reward
    assert type(env.cost_limit) is float
    assert env.cost_limit == 30.0


def test_add_cost_makes_an_environment_that_agents_understand():
    def upright(observation, action, reward, info):
        return observation[0] < 0.0  # a numpy bool

    env = AddCost(gym.make("Pendulum-v1", max_episode_steps=5), upright, cost_limit=2.0)
    env.reset(seed=0)
    costs = [read_cost(env.step(np.zeros(1, dtype=np.float32))[4]) for _ in range(5)]
    assert set(costs) <= {0.0, 1.0}
    assert read_cost_limit(env) == 2.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1", np.ones(1)])
def test_a_cost_that_is_no_finite_number(value):
    def mine(observation, action, reward, info):
        return value

    env = AddCost(BudgetToyEnv(), mine, cost_limit=1.0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"cost function 'mine' returned .*finite number, e\.g\."):
        env.step(np.zeros(1, dtype=np.float32))


def test_add_cost_arguments():
    with pytest.raises(TypeError, match=r"cost is 3; it must be a function \(observation, action"):
        AddCost(BudgetToyEnv(), 3, cost_limit=1.0)
    with pytest.raises(ValueError, match=r"cost_limit is nan; it must be one finite number"):
        AddCost(BudgetToyEnv(), effort, cost_limit=float("nan"))


# -- a fixed multiplier ----------------------------------------------------------------------------


@settings(deadline=None)
@given(
    multiplier=st.floats(0.0, 1e6),
    values=st.lists(st.floats(-1.0, 1.0, width=32), min_size=8, max_size=8),
)
def test_fixed_penalty_is_the_lagrangian(multiplier, values):
    env = FixedPenalty(BudgetToyEnv(), multiplier)
    actions = [np.array([value], dtype=np.float32) for value in values]
    plain, paid = play(BudgetToyEnv(), actions, seed=0), play(env, actions, seed=0)
    for (observation, info, reward, ended), seen in zip(plain, paid, strict=True):
        np.testing.assert_array_equal(seen[0], observation)
        assert seen[1] == {**info, "reward": reward}  # as the environment paid and charged
        assert seen[2] == pytest.approx((reward - multiplier * info["cost"]) / (1 + multiplier))
        assert type(seen[2]) is type(seen[1]["reward"]) is float
        assert seen[3] == ended


def test_a_monitor_inside_logs_unpenalised_returns():
    env = FixedPenalty(Monitor(BudgetToyEnv()), 2.0)
    seen = play(env, [np.zeros(1, dtype=np.float32)] * 8, seed=0)
    plain = sum(info["reward"] for _, info, *_ in seen)
    assert seen[-1][1]["episode"]["r"] == pytest.approx(plain, abs=1e-6)
    assert sum(reward for _, _, reward, _ in seen) < plain
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu", seed=0).learn(64)
    assert all(episode["r"] > 0.0 for episode in model.ep_info_buffer)


class Constant:
    """A policy that always does the same."""

    def __init__(self, action):
        self._action = action

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self._action, dtype=np.float32), None


@pytest.mark.parametrize("wrap", [lambda env: FixedPenalty(env, 5.0), SauteBudget])
def test_evaluation_is_unpenalised(wrap):
    plain, wrapped = (
        evaluate(Constant(0.6), env, n_episodes=2, seed=0)
        for env in (BudgetToyEnv(), wrap(BudgetToyEnv()))
    )
    assert wrapped.return_mean == pytest.approx(plain.return_mean)  # vectors pay in float32
    assert plain.return_mean == pytest.approx(0.8**0.5)
    for name in ("cost_mean", "cost_limit", "violation_rate", "mean_excess"):
        assert getattr(wrapped, name) == getattr(plain, name) > 0.0


def test_the_optimal_multiplier_makes_the_constrained_optimum_the_best_policy():
    toy_env = BudgetToyEnv(cost_limit=0.25)
    env = FixedPenalty(toy_env, toy_env.optimal_multiplier)
    fractions = np.linspace(0.0, 1.0, 41)
    returns = [
        sum(step[2] for step in play(env, [np.array([2.0 * k - 1.0])] * env.unwrapped.n_steps))
        for k in fractions
    ]
    assert fractions[int(np.argmax(returns))] == toy_env.optimal_fraction


# -- the budget in the observation -----------------------------------------------------------------


def test_saute_by_hand(scripted_env):
    env = SauteBudget(scripted_env(costs=(1.0, 2.0, 1.0, 0.5, 8.0), limit=4.0), unsafe_reward=-3.0)
    assert env.observation_space == spaces.Box(
        np.array([0.0, 0.0, -1.0], dtype=np.float32), np.ones(3, dtype=np.float32)
    )
    for _ in range(2):  # the second episode begins with a whole budget
        seen = play(env, [np.zeros(1, dtype=np.float32)] * 5, seed=0)
        np.testing.assert_array_equal(
            [observation[-1] for observation, *_ in seen], [1.0, 0.75, 0.25, 0.0, -0.125, -1.0]
        )
        # what reaches the limit exactly is safe; from the step on that breaks it, -3
        assert [reward for _, _, reward, _ in seen[1:]] == [1.0, 1.0, 1.0, -3.0, -3.0]
        assert [info["reward"] for _, info, *_ in seen] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        assert [info["cost"] for _, info, *_ in seen] == [0.0, 1.0, 2.0, 1.0, 0.5, 8.0]
        assert all(env.observation_space.contains(observation) for observation, *_ in seen)
        assert seen[0][0].dtype == np.float32


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # a class
@given(costs=st.lists(st.floats(-2.0, 5.0), min_size=1, max_size=9), limit=st.floats(1e-3, 50.0))
def test_saute_punishes_where_the_running_sum_breaks_the_limit(scripted_env, costs, limit):
    env = SauteBudget(scripted_env(costs=costs, limit=limit))
    seen = play(env, [np.zeros(1, dtype=np.float32)] * len(costs))
    running = EpisodeCosts(1)
    for (observation, _, reward, _), cost in zip(seen[1:], costs, strict=True):
        running.add(np.array([[cost]]), np.array([False]))
        total = running.running[0, 0]
        assert reward == (1.0 if total <= limit else -1.0)
        left = np.clip(1.0 - total / limit, -1.0, 1.0)
        assert observation[-1] == pytest.approx(left, abs=1e-6)
        assert env.observation_space.contains(observation)


def test_costs_that_reach_the_limit_exactly_are_safe(scripted_env):
    costs = (0.1,) * 10
    limit = sum(costs)  # 0.9999999999999999; fractions of it do not add up to one
    seen = play(SauteBudget(scripted_env(costs=costs, limit=limit)), [np.zeros(1)] * 10)
    assert [reward for _, _, reward, _ in seen[1:]] == [1.0] * 10


def test_saute_adds_a_key_to_dict_observations(scripted_env):
    env = SauteBudget(scripted_env(limit=4.0, as_dict=True))
    assert env.observation_space["budget_left"] == spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"a", "b", "budget_left"}
    observation, *_ = env.step(np.zeros(1, dtype=np.float32))
    np.testing.assert_array_equal(observation["budget_left"], np.float32([0.75]))
    assert env.observation_space.contains(observation)
    sb3_check_env(env)


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        (spaces.Box(0, 255, (3,), np.uint8), np.float32),
        (spaces.Box(-np.inf, np.inf, (3,), np.float64), np.float64),
    ],
)
def test_saute_keeps_a_fraction_in_any_flat_box(space, dtype):
    env = SauteBudget(Images(space))
    assert env.observation_space.dtype == dtype
    first, _ = env.reset(seed=0)
    second, *_ = env.step(0)
    assert [first[-1], second[-1]] == [1.0, 0.5]
    assert env.observation_space.contains(first)
    assert env.observation_space.contains(second)


def test_an_own_limit_takes_the_place_of_the_environments():
    env = SauteBudget(BudgetToyEnv(cost_limit=0.25), cost_limit=0.5)
    assert read_cost_limit(env) == 0.5
    env.reset(seed=0)
    observation, *_ = env.step(np.ones(1, dtype=np.float32))
    assert observation[-1] == 0.75


def test_ppo_without_constraints_learns_on_it():
    env = SauteBudget(BudgetToyEnv())
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0, device="cpu").learn(128)
    assert model.policy.observation_space == env.observation_space


def test_errors(scripted_env):
    toy_env = BudgetToyEnv()
    for value in (-1.0, float("nan"), "1", None):
        with pytest.raises(ValueError, match=r"multiplier is .*; it must be a finite number >= 0"):
            FixedPenalty(toy_env, value)
    for value in (float("-inf"), None, "0"):
        with pytest.raises(ValueError, match=r"unsafe_reward is .*must be a finite number.*-1\.0"):
            SauteBudget(toy_env, unsafe_reward=value)
    for limit in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"cost_limit is .*must be > 0\. Shift costs"):
            SauteBudget(scripted_env(limit=limit))
    with pytest.raises(ValueError, match=r"cost_limit: .* has no attribute of this name"):
        SauteBudget(scripted_env())
    with pytest.raises(ValueError, match=r"observation space .*a flat Box or a Dict.*Flatten"):
        SauteBudget(Images(spaces.Box(0, 255, (4, 4, 3), np.uint8)))
    taken = spaces.Dict({"budget_left": spaces.Box(0.0, 1.0)})
    with pytest.raises(ValueError, match=r'observation "budget_left" already.*Rename it'):
        SauteBudget(Images(taken))
    for wrap in (lambda env: FixedPenalty(env, 1.0), SauteBudget):
        with pytest.raises(ValueError, match=r"penalised by FixedPenalty already.*Use one of them"):
            wrap(gym.wrappers.TimeLimit(FixedPenalty(toy_env, 1.0), 4))
        bare = wrap(scripted_env(costs=(None,), limit=1.0))
        bare.reset(seed=0)
        with pytest.raises(ValueError, match=r'info\["cost"\] is missing.*agents\.AddCost'):
            bare.step(np.zeros(1, dtype=np.float32))
