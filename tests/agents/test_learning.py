"""Every way to a constrained policy finds the known optimum of the toy.

The final policy (deterministic) is held against the optimal return and the limit; the mean
multiplier over the last third of the training against its value at the optimum.
"""

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from agents import (
    BudgetToyEnv,
    GradientMultiplier,
    LagrangianCallback,
    LagrangianVecEnv,
    PIDMultiplier,
    PPOLagrangian,
    evaluate,
)

ROLLOUT = 256
SETTINGS = {
    "n_steps": 8,
    "batch_size": 128,
    "n_epochs": 8,
    "gamma": 1.0,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [32], "log_std_init": -1.0},
}


class Trace(BaseCallback):
    def __init__(self):
        super().__init__()
        self.multipliers = []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.multipliers.append(self.model.multiplier.value)


def two_critics(multiplier, venv, **kwargs):
    model = PPOLagrangian("MlpPolicy", venv, multiplier=multiplier, **SETTINGS, **kwargs)
    return model, []


def wrapped(multiplier, venv, **kwargs):
    model = PPO("MlpPolicy", LagrangianVecEnv(venv, multiplier), **SETTINGS, **kwargs)
    return model, [LagrangianCallback()]


@pytest.mark.parametrize(
    ("build", "multiplier", "learning_rate", "rollouts"),
    [
        (two_critics, GradientMultiplier(learning_rate=0.5), 5e-3, 80),
        (two_critics, PIDMultiplier(), 5e-3, 80),
        (wrapped, GradientMultiplier(learning_rate=0.25), 3e-3, 120),
    ],
    ids=["two_critics-gradient", "two_critics-pid", "wrapped-gradient"],
)
def test_finds_the_optimum(build, multiplier, learning_rate, rollouts):
    venv = make_vec_env(BudgetToyEnv, n_envs=ROLLOUT // 8, seed=0)
    model, callbacks = build(multiplier, venv, learning_rate=learning_rate)
    trace = Trace()
    model.learn(rollouts * ROLLOUT, callback=[*callbacks, trace])
    env = BudgetToyEnv()
    result = evaluate(model, env, n_episodes=1, seed=0)
    assert result.return_mean == pytest.approx(env.optimal_return, rel=0.1)
    assert result.cost_mean == pytest.approx(env.cost_limit, rel=0.1)
    tail = np.mean(trace.multipliers[-rollouts // 3 :])
    assert tail == pytest.approx(env.optimal_multiplier, rel=0.1)


def test_multiplier_vanishes_where_the_limit_is_slack():
    venv = make_vec_env(BudgetToyEnv, n_envs=ROLLOUT // 8, seed=0, env_kwargs={"cost_limit": 2.0})
    model, _ = two_critics(GradientMultiplier(learning_rate=0.5), venv, learning_rate=5e-3)
    model.learn(30 * ROLLOUT)
    assert model.multiplier.value == 0.0
    assert evaluate(model, BudgetToyEnv(2.0), 1, seed=0).return_mean > 0.95
