import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

from agents import BudgetToyEnv
from agents.costs import EpisodeCosts, check_cost_limit, read_cost, read_cost_limit, read_costs


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


def test_episode_costs_carry_over_and_restart():
    episodes = EpisodeCosts(2)
    assert episodes.add(np.array([1.0, 2.0]), np.array([False, True])) == [None, 2.0]
    assert episodes.add(np.array([1.0, 2.0]), np.array([True, False])) == [2.0, None]
    episodes.reset(np.array([False, True]))
    assert episodes.add(np.array([1.0, 5.0]), np.array([True, True])) == [1.0, 5.0]
