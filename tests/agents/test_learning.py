"""Every agent of the zoo finds the known optimum of the toy.

One limit and one seed each, a slack limit for some. Of their rows every fourth runs, with
``pytest --all`` each one; ``benchmarks/toy_table.py`` runs every agent at two limits and three
seeds with the same code and tolerances.
"""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

from agents import (
    AGENTS,
    BudgetToyEnv,
    FixedMultiplier,
    FixedPenalty,
    GradientMultiplier,
    PPOLagrangian,
    constrain,
    evaluate,
)

# CrossQ's wide networks and quantiles are slow; the table has them
SLOW = ("crossq_lag", "tqc_lag", "qrdqn_lag", "ddpg_lag")
QUICK = [name for name in AGENTS if name not in (*SLOW, "ppo_saute")]
SETTINGS = {"n_steps": 8, "batch_size": 128, "n_epochs": 8, "gamma": 1.0, "seed": 0}
NETWORK = {"net_arch": [32], "log_std_init": -1.0}


@pytest.fixture(scope="module")
def toy_table(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "benchmarks")
        import toy_table

        yield toy_table


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("name", QUICK)
def test_finds_the_optimum(toy_table, name):
    limit = (0.25, 0.5)[list(AGENTS).index(name) % 2]
    row = toy_table.run(name, limit, seed=0)
    assert row.cost == pytest.approx(1.0, abs=toy_table.COST_TOLERANCE)
    if name not in toy_table.NO_PRICE:  # prices that jump have no value to settle at
        assert row.multiplier == pytest.approx(1.0, abs=toy_table.PRICE_TOLERANCE)
    assert row.holds


@pytest.mark.slow
def test_saute_stays_below_the_limit(toy_table):
    """In every episode, not in their mean; some seeds learn to keep nothing, and stay there."""
    rows = [toy_table.run("ppo_saute", 0.25, seed=seed) for seed in range(3)]
    assert all(row.cost <= 1.0 for row in rows)
    assert sum(row.holds for row in rows) >= 2


@pytest.mark.slow
@pytest.mark.sampled
@pytest.mark.parametrize("name", ["ppo_lag", "ppo_penalised", "a2c_lag", "cpo", "td3_lag"])
def test_multiplier_vanishes_where_the_limit_is_slack(toy_table, name):
    row = toy_table.run(name, 2.0, seed=0)
    assert row.multiplier < 0.01
    assert row.cost > 0.45  # of a limit that is twice what the most expensive policy costs
    assert row.holds


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.parametrize("price", [0.8, 1.2])
def test_a_fixed_price_buys_what_it_is_worth(price):
    venv = make_vec_env(BudgetToyEnv, 32, seed=0)
    model = PPOLagrangian(
        "MlpPolicy",
        venv,
        multiplier=FixedMultiplier(price),
        learning_rate=5e-3,
        policy_kwargs=NETWORK,
        device="cpu",
        **SETTINGS,
    ).learn(60 * 256)
    best = (0.5 / price) ** 2  # where the slope of the root is the price
    assert evaluate(model, BudgetToyEnv(), 1).cost_mean == pytest.approx(best, rel=0.15)


@pytest.mark.slow
def test_the_wrapper_with_a_fixed_penalty_does_the_same_for_plain_ppo():
    venv = make_vec_env(BudgetToyEnv, 32, seed=0, wrapper_class=lambda env: FixedPenalty(env, 1.0))
    model = PPO(
        "MlpPolicy", venv, learning_rate=3e-3, policy_kwargs=NETWORK, device="cpu", **SETTINGS
    ).learn(80 * 256)
    assert evaluate(model, BudgetToyEnv(), 1).cost_mean == pytest.approx(0.25, rel=0.15)


class TwoBudgets(BudgetToyEnv):
    """The toy with a second cost, half of the first, under a limit that never binds."""

    cost_names = ("first", "half")
    cost_limits = np.array([0.25, 0.4])

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        info["costs"] = np.array([1.0, 0.5], dtype=np.float32) * info["cost"]
        return observation, reward, terminated, truncated, info


@pytest.mark.sampled
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["two critics", "penalised", "replay"])
def test_of_two_costs_the_binding_one_gets_the_price(kind):
    prices = [GradientMultiplier(learning_rate=0.1, initial=0.5) for _ in "ab"]
    venv = make_vec_env(TwoBudgets, 8 if kind == "replay" else 32, seed=0)
    shared = {"multiplier": prices, "device": "cpu"}
    if kind == "two critics":
        shared.update(SETTINGS, policy_kwargs=NETWORK, learning_rate=5e-3)
        model = PPOLagrangian("MlpPolicy", venv, **shared).learn(80 * 256)
    elif kind == "penalised":
        shared.update(SETTINGS, policy_kwargs=NETWORK, learning_rate=3e-3)
        model = constrain(PPO, venv, **shared).learn(120 * 256)
    else:
        shared.update(gamma=1.0, learning_rate=3e-3, tau=0.02, gradient_steps=3, ent_coef=0.001)
        shared.update(policy_kwargs={"net_arch": [32]}, learning_starts=256, seed=0)
        model = constrain(SAC, venv, **shared).learn(10_000)
    assert evaluate(model, BudgetToyEnv(), 1).cost_mean == pytest.approx(0.25, rel=0.1)
    binding, slack = model.prices
    assert slack == 0.0
    assert binding == pytest.approx(1.0, rel=0.25)
