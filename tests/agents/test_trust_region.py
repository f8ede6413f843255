import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import TRPO
from scipy.optimize import minimize
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import BudgetToyEnv, FixedMultiplier, GradientMultiplier, evaluate
from agents.algorithms.trust_region import CPO, SolvedMultiplier, TRPOLagrangian, solve_dual

SMALL = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu"}
TOY = {
    "n_steps": 8,
    "gamma": 1.0,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [32], "log_std_init": -1.0},
}


def make(env, policy="MlpPolicy", **kwargs):
    return CPO(policy, env, **{**SMALL, **kwargs})


def toys(n_envs=32, **kwargs):
    return make_vec_env(BudgetToyEnv, n_envs=n_envs, seed=0, env_kwargs=kwargs)


# -- the dual ------------------------------------------------------------------------------------


def problem(seed, size=4):
    """Return H, g, b and max_kl of a random problem, and its q, r, s."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    hessian = root @ root.T + 0.1 * np.eye(size)
    g, b, max_kl = rng.normal(size=size), rng.normal(size=size), float(rng.uniform(0.01, 0.1))
    natural_g, natural_b = np.linalg.solve(hessian, g), np.linalg.solve(hessian, b)
    return hessian, g, b, max_kl, (g @ natural_g, g @ natural_b, b @ natural_b)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [-1.5, -0.9, -0.3, 0.0, 0.3, 0.9])  # of what is within reach
def test_the_dual_solves_the_constrained_problem(share, seed):
    hessian, g, b, max_kl, (q, r, s) = problem(seed)
    violation = share * math.sqrt(2.0 * max_kl * s)
    nu, trust, feasible = solve_dual(q, r, s, violation, max_kl)
    assert feasible
    step = np.linalg.solve(hessian, g - nu * b) / trust
    assert nu >= 0.0
    assert violation + b @ step <= 1e-9
    assert nu * (violation + b @ step) == pytest.approx(0.0, abs=1e-9)
    assert step @ hessian @ step / 2.0 == pytest.approx(max_kl)  # as long as TRPO makes it
    numerical = minimize(
        lambda x: -g @ x,
        np.zeros(len(g)),
        jac=lambda x: -g,
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 1000},
        constraints=[
            {"type": "ineq", "fun": lambda x: -violation - b @ x},
            {"type": "ineq", "fun": lambda x: max_kl - x @ hessian @ x / 2.0},
        ],
    )
    assert numerical.success
    assert g @ step == pytest.approx(-numerical.fun, rel=1e-5, abs=1e-7)


def test_the_random_problems_have_every_case():
    prices = [
        solve_dual(*numbers, share * math.sqrt(2.0 * max_kl * numbers[2]), max_kl).multiplier
        for seed in range(8)
        for share in (-1.5, -0.9, -0.3, 0.0, 0.3, 0.9)
        for *_, max_kl, numbers in [problem(seed)]
    ]
    assert 5 < sum(price == 0.0 for price in prices[1:]) < 40


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [1.0001, 3.0])
def test_where_no_step_keeps_the_constraint_there_is_no_multiplier(share, seed):
    *_, max_kl, (q, r, s) = problem(seed)
    violation = share * math.sqrt(2.0 * max_kl * s)
    nu, _, feasible = solve_dual(q, r, s, violation, max_kl)
    assert not feasible
    assert nu == math.inf
    assert solve_dual(q, r, s, violation / share * 0.9999, max_kl).feasible


@pytest.mark.parametrize(
    ("violation", "feasible"), [(-1.0, True), (0.0, True), (1.0, False)], ids=str
)
def test_a_cost_that_the_policy_cannot_move(violation, feasible):
    assert solve_dual(1.0, 0.0, 0.0, violation, 0.01)[::2] == (
        0.0 if feasible else math.inf,
        feasible,
    )


def test_without_a_reward_only_the_cost_counts():
    assert not solve_dual(0.0, 0.0, 1.0, 0.01, 0.01).feasible
    assert solve_dual(0.0, 0.0, 1.0, -0.01, 0.01).multiplier == 0.0


def test_where_reward_and_cost_pull_apart_the_multiplier_is_their_ratio():
    # at the optimum of a constrained problem g = nu b, and nothing is left across
    assert solve_dual(4.0, 2.0, 1.0, 0.0, 0.01).multiplier == pytest.approx(2.0)


# -- CPO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"n_actions": 5}], ids=["box", "discrete"])
def test_far_from_its_limit_it_is_trpo_to_the_last_bit(kwargs):
    shared = {**SMALL, "learning_rate": 3e-3}
    plain = TRPO("MlpPolicy", toys(2, **kwargs), normalize_advantage=False, **shared).learn(160)
    far = {"cost_limit": 100.0, "unit_free": False}
    ours = CPO("MlpPolicy", toys(2, **kwargs), **far, **shared).learn(160)
    assert ours.multiplier.violation < -99.0
    assert ours.multiplier.value == 0.0
    state = ours.policy.state_dict()
    for name, value in plain.policy.state_dict().items():
        assert th.equal(state[name], value), name


@pytest.mark.parametrize("seed", [1, 2])
def test_the_step_brings_the_cost_to_its_limit_in_the_unit_of_an_episode(seed):
    class Recorded(CPO):
        def mix_advantages(self, reward_advantages, cost_advantages):
            self.cost_advantages = cost_advantages - cost_advantages.mean()
            return super().mix_advantages(reward_advantages, cost_advantages)

    venv = toys(64, cost_limit=0.5)  # the first policy costs a little more
    small = {"cg_damping": 1e-3, "target_kl": 1e-3, "seed": seed}
    model = Recorded("MlpPolicy", venv, **{**TOY, **small})
    model.learn(512, log_interval=None)
    assert model._episode_length == BudgetToyEnv.n_steps
    assert model.logger.name_to_value["lagrange/recovery"] == 0.0
    assert model.multiplier.value > 0.0
    buffer = model.rollout_buffer  # flattened by the update
    _, log_prob, _ = model.policy.evaluate_actions(
        th.as_tensor(buffer.observations), th.as_tensor(buffer.actions)
    )
    ratio = (log_prob.detach() - th.as_tensor(buffer.log_probs).flatten()).exp().numpy()
    advantages = buffer.swap_and_flatten(model.cost_advantages)[:, 0]
    change = BudgetToyEnv.n_steps * np.mean(ratio * advantages)
    assert change == pytest.approx(-model.multiplier.violation, rel=0.02)


@pytest.mark.parametrize("limit", [0.25, 0.5])
def test_finds_the_optimum(limit, trace):
    model = CPO("MlpPolicy", toys(cost_limit=limit), **TOY)
    model.learn(40 * 256, callback=trace)
    env = BudgetToyEnv(limit)
    result = evaluate(model, env, n_episodes=1, seed=0)
    assert result.cost_mean == pytest.approx(limit, rel=0.05)
    assert result.return_mean == pytest.approx(env.optimal_return, rel=0.05)
    tail = np.mean(trace.prices[-13 * 8 :])
    assert tail == pytest.approx(env.optimal_multiplier, rel=0.25)


def test_multiplier_stays_zero_where_the_limit_is_slack():
    model = CPO("MlpPolicy", toys(cost_limit=2.0), **TOY).learn(25 * 256)
    assert model.multiplier.value == 0.0
    assert evaluate(model, BudgetToyEnv(2.0), 1, seed=0).return_mean > 0.95


def test_recovery_lowers_the_cost_and_leaves_the_multiplier(trace):
    model = CPO("MlpPolicy", toys(), **TOY, cost_limit=0.02)
    model.learn(6 * 256, callback=trace)
    assert [log.get("lagrange/recovery") for log in trace.logs] == [None] + [1.0] * 5
    assert model.multiplier.value == 0.0
    costs = [log["lagrange/cost"] for log in trace.logs[1:]]
    assert costs[-1] < costs[0] - 0.1


def test_the_length_of_an_episode_is_measured(scripted_env):
    venv = DummyVecEnv([lambda n=n: scripted_env((1.0,) * n, limit=9.0) for n in (2, 6)])
    model = make(venv, n_steps=6, batch_size=12).learn(12)
    assert model._episode_length == 12 / 4  # three of two steps, one of six
    assert model.multiplier.violation == pytest.approx((12 / 4 - 9.0) / 9.0)


def test_before_an_episode_ends_the_step_is_that_of_trpo(scripted_env):
    costs = (1.0,) * 12
    shared = {**SMALL, "n_steps": 8, "batch_size": 8}
    model = CPO("MlpPolicy", scripted_env(costs, limit=0.0), unit_free=False, **shared)
    model.learn(8, log_interval=None)
    assert model.multiplier == SolvedMultiplier(0.0, None)
    assert "lagrange/recovery" not in model.logger.name_to_value
    plain = TRPO("MlpPolicy", scripted_env(costs), normalize_advantage=False, **shared).learn(8)
    for name, value in plain.policy.state_dict().items():
        assert th.equal(model.policy.state_dict()[name], value), name
    model.learn(8, reset_num_timesteps=False, log_interval=None)
    assert model._episode_length == 16.0  # all steps so far, for one episode
    assert model.multiplier.violation == 12.0


class Spaces(BudgetToyEnv):
    """The toy with another action space; the first number of the action counts."""

    def __init__(self, space):
        super().__init__()
        self.action_space = space

    def step(self, action):
        first = float(np.asarray(action, dtype=np.float32).flat[0])
        return super().step(np.array([first], dtype=np.float32))


@pytest.mark.parametrize("algorithm", [CPO, TRPOLagrangian])
@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
        gym.spaces.Discrete(2),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.MultiBinary(3),
    ],
    ids=lambda space: type(space).__name__,
)
def test_action_spaces(space, algorithm):
    venv = DummyVecEnv([lambda: Spaces(space)] * 2)
    model = algorithm("MlpPolicy", venv, **SMALL)
    before = [value.clone() for value in model.policy.action_net.parameters()]
    model.learn(64)
    after = model.policy.action_net.parameters()
    assert any(not th.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(th.isfinite(value).all() for value in model.policy.parameters())


@pytest.mark.parametrize("kwargs", [{}, {"use_sde": True}, {"sub_sampling_factor": 2}], ids=str)
def test_dict_observations_and_options_of_trpo(scripted_env, kwargs):
    venv = DummyVecEnv([lambda: scripted_env((1.0, 2.0), limit=3.0, as_dict=True)] * 2)
    if "sub_sampling_factor" in kwargs:
        venv = toys(2)
    policy = "MlpPolicy" if "sub_sampling_factor" in kwargs else "MultiInputPolicy"
    model = make(venv, policy, **kwargs).learn(64)
    assert np.isfinite(model.multiplier.value)


def test_save_load_continue(tmp_path):
    model = make(toys(2), cost_gamma=0.9).learn(96)
    model.multiplier.value = 0.5
    model.save(tmp_path / "model")
    loaded = CPO.load(tmp_path / "model", device="cpu")
    assert loaded.multiplier == model.multiplier
    assert loaded.multiplier.violation is not None
    assert loaded._episode_length == 8.0
    assert loaded.cost_gamma == 0.9
    restored = loaded.policy.state_dict()
    assert all(th.equal(restored[name], value) for name, value in model.policy.state_dict().items())
    loaded.set_env(toys(2))
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128


def test_only_cpo_loads_it(tmp_path):
    make(BudgetToyEnv()).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"cannot be loaded by TRPOLagrangian: .* made by CPO"):
        TRPOLagrangian.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("multiplier", "message"),
    [
        (FixedMultiplier(1.0), "not an argument of CPO, which solves for its own. Leave it out"),
        (None, "or take TRPOLagrangian"),
        ([GradientMultiplier(), GradientMultiplier()], "constrain one cost.*for several take TRPO"),
    ],
    ids=["one", "none", "several"],
)
def test_a_multiplier_is_refused(multiplier, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        make(BudgetToyEnv(), multiplier=multiplier)
    make(BudgetToyEnv()).save(tmp_path / "model")
    with pytest.raises(TypeError, match=message):
        CPO.load(tmp_path / "model", multiplier=multiplier)


def test_a_violation_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="violation is nan; it must be a finite number"):
        SolvedMultiplier().update(math.nan)
