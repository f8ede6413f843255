import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check

from agents import BudgetToyEnv

TWINS = pytest.mark.parametrize("n_actions", [None, 5])


@TWINS
def test_passes_both_checkers_without_a_warning(n_actions):
    env = BudgetToyEnv(n_actions=n_actions)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gymnasium_check(env, skip_render_check=True)
        sb3_check(env)
    assert [str(warning.message) for warning in caught] == []


def play(env, fraction):
    env.reset(seed=0)
    total, cost, terminated = 0.0, 0.0, False
    while not terminated:
        if env.n_actions is None:
            action = np.array([2.0 * fraction - 1.0], dtype=np.float32)
        else:
            action = round(fraction * (env.n_actions - 1))
        _, reward, terminated, _, info = env.step(action)
        total, cost = total + reward, cost + info["cost"]
    return total, cost


@pytest.mark.parametrize(
    ("limit", "n_actions"), [(0.1, None), (0.25, None), (1.0, None), (2.0, None), (0.25, 5)]
)
def test_optimum(limit, n_actions):
    env = BudgetToyEnv(limit, n_actions)
    total, cost = play(env, env.optimal_fraction)
    assert cost == pytest.approx(min(limit, 1.0), rel=1e-5)
    assert total == pytest.approx(env.optimal_return, rel=1e-5)


def test_multiplier_is_the_slope_of_the_optimal_return():
    step = 1e-5
    above, below = BudgetToyEnv(0.25 + step), BudgetToyEnv(0.25 - step)
    slope = (above.optimal_return - below.optimal_return) / (2 * step)
    assert BudgetToyEnv(0.25).optimal_multiplier == pytest.approx(slope, rel=1e-6)
    assert BudgetToyEnv(2.0).optimal_multiplier == 0.0


@settings(deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8), st.floats(0.05, 1.0))
def test_no_policy_gains_by_leaving_the_optimum_at_its_price(fractions, limit):
    """Weak duality: return - multiplier * (cost - limit) is largest at the optimum."""
    env = BudgetToyEnv(limit)
    env.reset()
    lagrangian = env.optimal_multiplier * limit
    for fraction in fractions:
        _, reward, _, _, info = env.step(np.array([2.0 * fraction - 1.0]))
        lagrangian += reward - env.optimal_multiplier * info["cost"]
    assert lagrangian <= env.optimal_return + 1e-9


@pytest.mark.parametrize(("limit", "n_actions"), [(0.25, 5), (0.25, 9), (0.5, 3)])
def test_the_optimal_multiplier_lies_between_the_slopes_of_the_discrete_twin(limit, n_actions):
    env, step = BudgetToyEnv(limit, n_actions), 1.0 / (n_actions - 1)
    (best, cost), above, below = (play(env, limit + move) for move in (0.0, step, -step))
    assert cost == limit
    rising, falling = (above[0] - best) / step, (best - below[0]) / step
    assert rising < env.optimal_multiplier < falling


@TWINS
def test_cost_is_a_float_on_reset_and_on_every_step(n_actions):
    env = BudgetToyEnv(n_actions=n_actions)
    infos = [env.reset(seed=0)[1]] + [env.step(env.action_space.sample())[4] for _ in range(8)]
    assert all(type(info["cost"]) is float for info in infos)
    assert infos[0]["cost"] == 0.0


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_bad_limit(limit):
    with pytest.raises(ValueError, match=r"cost_limit is .*must be a finite number > 0"):
        BudgetToyEnv(limit)


@pytest.mark.parametrize("n_actions", [0, 1, 2.0, "9"])
def test_bad_number_of_actions(n_actions):
    with pytest.raises(ValueError, match=r"n_actions is .*must be an integer >= 2, or None"):
        BudgetToyEnv(n_actions=n_actions)


def test_the_discrete_twin_allows_every_action():
    assert BudgetToyEnv(n_actions=4).action_masks().tolist() == [True] * 4
    assert BudgetToyEnv().action_masks().shape == (0,)


def test_is_found_by_its_id():
    env = gym.make("agents.toy:BudgetToy-v0", cost_limit=0.5, n_actions=3)
    assert isinstance(env.unwrapped, BudgetToyEnv)
    assert env.spec.id == "BudgetToy-v0"
    assert env.get_wrapper_attr("cost_limit") == 0.5
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == gym.spaces.Discrete(3)
