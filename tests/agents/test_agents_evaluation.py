import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import BudgetToyEnv, FixedMultiplier, LagrangianVecEnv, evaluate


class Constant:
    """A policy that always keeps the same fraction."""

    def __init__(self, fraction):
        self.action = 2.0 * fraction - 1.0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 1), self.action, dtype=np.float32), state


def vector():
    return make_vec_env(lambda: BudgetToyEnv(0.16), n_envs=3)


def penalised():
    return LagrangianVecEnv(vector(), FixedMultiplier(5.0))


ENVIRONMENTS = {
    "env": lambda: BudgetToyEnv(0.16),
    "wrapped": lambda: gym.wrappers.TimeLimit(BudgetToyEnv(0.16), 100),
    "vector": vector,
    "penalised": penalised,
    "normalised": lambda: VecNormalize(vector()),
    "both": lambda: VecNormalize(penalised(), norm_reward=False),
}


@pytest.mark.parametrize("make", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_reports_what_the_environment_paid(make):
    result = evaluate(Constant(0.25), make(), n_episodes=5, seed=0)
    assert result.return_mean == pytest.approx(0.5, abs=1e-5)
    assert result.return_std == pytest.approx(0.0, abs=1e-5)
    assert result.cost_mean == pytest.approx(0.25)
    assert result.cost_limit == 0.16
    assert result.violation_rate == 1.0
    assert result.mean_excess == pytest.approx(0.09)
    assert result.episodes == 5


def test_meeting_the_limit_exactly_is_no_violation(scripted_env):
    result = evaluate(Constant(0.5), scripted_env((0.25, 0.5), limit=0.75), n_episodes=3)
    assert (result.violation_rate, result.mean_excess) == (0.0, 0.0)


def test_short_episodes_are_not_over_represented(scripted_env):
    lengths = [1, 9]
    envs = [lambda n=n: scripted_env((1.0,) * n, limit=5.0) for n in lengths]
    result = evaluate(Constant(0.5), DummyVecEnv(envs), n_episodes=10)
    assert result.episodes == 10
    assert result.cost_mean == result.return_mean == np.mean(lengths)
    assert result.return_std == np.std(lengths)
    assert result.violation_rate == 0.5
    assert result.mean_excess == 2.0


def test_seed_makes_it_repeatable():
    class Noisy(BudgetToyEnv):
        def step(self, action):
            return super().step(self.np_random.uniform(-1.0, 1.0, 1))

    env = Noisy()
    first, second, third = (evaluate(Constant(0.5), env, 4, seed=seed) for seed in (1, 1, 2))
    assert first == second != third


def test_limit_can_be_given(scripted_env):
    assert evaluate(Constant(0.5), scripted_env(), 1, cost_limit=2.0).mean_excess == 1.0
    with pytest.raises(ValueError, match="or pass cost_limit="):
        evaluate(Constant(0.5), scripted_env(), 1)


def test_bad_number_of_episodes():
    with pytest.raises(ValueError, match="n_episodes is 0; it must be at least 1"):
        evaluate(Constant(0.5), BudgetToyEnv(), n_episodes=0)


def test_missing_cost_is_an_error(scripted_env):
    with pytest.raises(ValueError, match="missing from the step info of env 0"):
        evaluate(Constant(0.5), scripted_env((None,), limit=1.0), 1)


def test_result_is_a_value():
    result = evaluate(Constant(0.5), BudgetToyEnv(), 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.cost_mean = 0.0
