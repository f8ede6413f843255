import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from agents import BudgetToyEnv


def test_passes_both_checkers_without_a_warning():
    env = BudgetToyEnv()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env)
    assert [str(warning.message) for warning in caught] == []


def play(env, fraction):
    env.reset(seed=0)
    total, cost, terminated = 0.0, 0.0, False
    while not terminated:
        action = np.array([2.0 * fraction - 1.0], dtype=np.float32)
        _, reward, terminated, _, info = env.step(action)
        total, cost = total + reward, cost + info["cost"]
    return total, cost


@pytest.mark.parametrize("limit", [0.1, 0.25, 1.0, 2.0])
def test_optimum(limit):
    env = BudgetToyEnv(limit)
    total, cost = play(env, env.optimal_fraction)
    assert cost == pytest.approx(min(limit, 1.0), rel=1e-5)
    assert total == pytest.approx(env.optimal_return, rel=1e-5)


def test_multiplier_is_the_slope_of_the_optimal_return():
    step = 1e-5
    above, below = BudgetToyEnv(0.25 + step), BudgetToyEnv(0.25 - step)
    slope = (above.optimal_return - below.optimal_return) / (2 * step)
    assert BudgetToyEnv(0.25).optimal_multiplier == pytest.approx(slope, rel=1e-6)
    assert BudgetToyEnv(2.0).optimal_multiplier == 0.0


def test_cost_is_a_float_on_reset_and_on_every_step():
    env = BudgetToyEnv()
    infos = [env.reset(seed=0)[1]] + [env.step(env.action_space.sample())[4] for _ in range(8)]
    assert all(type(info["cost"]) is float for info in infos)
    assert infos[0]["cost"] == 0.0


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_bad_limit(limit):
    with pytest.raises(ValueError, match=r"cost_limit is .*must be a finite number > 0"):
        BudgetToyEnv(limit)


def test_is_a_gymnasium_env():
    assert isinstance(BudgetToyEnv(), gym.Env)
