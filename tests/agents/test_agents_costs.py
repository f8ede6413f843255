import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from agents import BudgetToyEnv
from agents.costs import (
    EpisodeCosts,
    check_cost_limit,
    check_cost_limits,
    read_cost,
    read_cost_limit,
    read_cost_limits,
    read_cost_names,
    read_cost_vectors,
    read_costs,
)


def test_costs_are_read_in_order():
    costs = read_costs([{"cost": 0.5}, {"cost": np.float32(2.0)}, {"cost": -1}])
    np.testing.assert_array_equal(costs, [0.5, 2.0, -1.0])
    assert costs.dtype == np.float64


def test_a_missing_cost_is_not_zero():
    with pytest.raises(ValueError, match=r"missing from the step info of env 1.*into the info"):
        read_costs([{"cost": 0.0}, {"costs": 1.0}])


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), "1", None, np.zeros(1)])
def test_an_unusable_cost_is_named(cost):
    with pytest.raises(ValueError, match=r"of env 2 is .*finite number.*python float"):
        read_cost({"cost": cost}, 2)


def test_limit_is_found_through_every_wrapper():
    env = gym.wrappers.TimeLimit(BudgetToyEnv(0.3), 5)
    assert read_cost_limit(env) == 0.3
    venv = VecMonitor(VecNormalize(DummyVecEnv([lambda: BudgetToyEnv(0.3)] * 2)))
    assert read_cost_limit(venv) == 0.3


def test_limit_is_found_in_other_processes(scripted_env):
    good = SubprocVecEnv([lambda: BudgetToyEnv(0.3)])
    bad = SubprocVecEnv([scripted_env])
    try:
        assert read_cost_limit(good) == 0.3
        with pytest.raises(ValueError, match="no attribute of this name"):
            read_cost_limit(bad)
    finally:
        good.close()
        bad.close()


@pytest.mark.parametrize("vectorised", [False, True])
def test_missing_limit_says_what_to_do(scripted_env, vectorised):
    env = DummyVecEnv([scripted_env]) if vectorised else scripted_env()
    with pytest.raises(ValueError, match=r"cost_limit: .* no attribute .* or pass cost_limit="):
        read_cost_limit(env)


def test_limits_must_agree():
    venv = DummyVecEnv([lambda: BudgetToyEnv(0.3), lambda: BudgetToyEnv(0.4)])
    with pytest.raises(ValueError, match=r"differs .*\[0.3, 0.4\].*build them alike"):
        read_cost_limit(venv)


@pytest.mark.parametrize("limit", [None, float("nan"), np.zeros(2), "0.1"])
def test_limit_must_be_a_number(limit):
    with pytest.raises(ValueError, match="must be one finite number"):
        check_cost_limit(limit)


# -- several costs ---------------------------------------------------------------------------------


def test_vectors_of_costs_are_read_in_order():
    costs = read_cost_vectors([{"costs": [1, 2.5]}, {"costs": np.float32([0.5, -1.0])}], 2)
    np.testing.assert_array_equal(costs, [[1.0, 2.5], [0.5, -1.0]])
    assert costs.dtype == np.float64


def test_a_missing_vector_says_when_it_is_needed():
    with pytest.raises(ValueError, match=r'"costs"\] is missing .* env 1 .*\[\'cost\'\].*with one'):
        read_cost_vectors([{"costs": [0.0]}, {"cost": 1.0}], 1)


@pytest.mark.parametrize(
    "costs", [[1.0], [1.0, 2.0, 3.0], 1.0, [1.0, float("nan")], [[1.0, 2.0]], "12", None, ["a", 1]]
)
def test_an_unusable_vector_is_named(costs):
    with pytest.raises(ValueError, match=r'"costs"\] of env 0 is .* must be 2 finite numbers'):
        read_cost_vectors([{"costs": costs}], 2)


def test_limits_of_several_costs_are_read(two_costs):
    env = gym.wrappers.TimeLimit(two_costs(), 5)
    venv = DummyVecEnv([two_costs] * 2)
    for thing in (env, venv):
        np.testing.assert_array_equal(read_cost_limits(thing, 2), [0.25, 5.0])
        assert read_cost_names(thing, 2) == ("energy", "noise")
        assert read_cost_names(thing, 3) == ("0", "1", "2")
    assert read_cost_names(BudgetToyEnv(), 2) == ("0", "1")


def test_missing_limits_say_what_to_do():
    with pytest.raises(ValueError, match=r"cost_limits: .* no attribute .* a single multiplier"):
        read_cost_limits(BudgetToyEnv(), 2)


def test_limits_of_several_costs_must_agree(scripted_env):
    venv = DummyVecEnv([lambda n=n: scripted_env(limit=(1.0, n)) for n in (2.0, 3.0)])
    with pytest.raises(ValueError, match=r"cost_limits differ .*Build them alike"):
        read_cost_limits(venv, 2)


@pytest.mark.parametrize("limits", [[1.0], 1.0, [1.0, float("inf")], [1, 2, 3], "ab", ["a", "b"]])
def test_limits_must_be_one_for_every_cost(limits):
    with pytest.raises(ValueError, match=r"cost limits are .*must be 2 finite numbers, one for"):
        check_cost_limits(limits, 2)


# -- episodes --------------------------------------------------------------------------------------


def test_episode_costs_carry_over_and_restart():
    episodes = EpisodeCosts(2)
    charge = np.array([[1.0], [2.0]])
    assert episodes.add(charge, np.array([False, True])) == [[2.0]]
    assert episodes.add(charge, np.array([True, False])) == [[2.0]]
    assert episodes.add(charge, np.array([True, True])) == [[1.0], [4.0]]
    assert episodes.add(charge, np.array([False, False])) == []


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_episode_costs_lose_nothing(n_envs, n_costs, seed):
    rng = np.random.default_rng(seed)
    episodes, total = EpisodeCosts(n_envs, n_costs), np.zeros(n_costs)
    for _ in range(10):
        costs = rng.integers(0, 9, (n_envs, n_costs)).astype(float)
        finished = episodes.add(costs, rng.random(n_envs) < 0.3)
        total += costs.sum(axis=0) - sum(finished, np.zeros(n_costs))
        np.testing.assert_array_equal(episodes.running.sum(axis=0), total)
