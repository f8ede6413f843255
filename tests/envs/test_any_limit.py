"""Environments whose limit changes from episode to episode."""

from __future__ import annotations

import json
import pickle

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from prune_gym import Budget, InfeasibleLimitError, ProjectionWrapper, RecordBest
from prune_gym.envs.observation import feature_names
from prune_gym.errors import NothingFeasibleError

RANGE = (0.2, 0.8)


def make(problem, granularity="layer", limit_range=RANGE, **arguments):
    arguments = {"problem": problem, "granularity": granularity, **arguments}
    return gym.make("PruneVGG-v0", limit_range=limit_range, **arguments)


def play(env, seed=0, options=None, keep=0.0):
    """Observations and infos of an episode of random actions."""
    generator = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed, options=options)
    observations, infos, ended = [observation], [info], False
    while not ended:
        action = generator.uniform(-1.0, 1.0, env.action_space.shape) - keep
        observation, _, ended, _, info = env.step(action.clip(-1.0, 1.0).astype(np.float32))
        observations.append(observation)
        infos.append(info)
    return observations, infos


@pytest.mark.parametrize("granularity", ["layer", "filter", "network"])
@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_checks_and_seeded_rollouts(tiny_problem, granularity, cost_mode):
    env = make(tiny_problem, granularity, cost_mode=cost_mode)
    check_env(env.unwrapped, skip_render_check=True)
    sb3_check_env(env)
    seen = tiny.rollout(env, 3)
    tiny.assert_identical(
        seen, tiny.rollout(make(tiny_problem, granularity, cost_mode=cost_mode), 3)
    )
    tiny.assert_identical(seen, tiny.rollout(pickle.loads(pickle.dumps(env)), 3))
    assert len({step[4]["limit"] for step in seen}) == 3
    assert all(type(step[4]["limit"]) is float for step in seen)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    cost_mode=st.sampled_from(["terminal", "dense"]),
    granularity=st.sampled_from(["layer", "filter", "network"]),
)
def test_cost_is_relative_to_this_episodes_limit(tiny_problem, seed, cost_mode, granularity):
    env = make(tiny_problem, granularity, cost_mode=cost_mode)
    observations, infos = play(env, seed)
    limit, base = infos[0]["limit"], env.unwrapped
    assert RANGE[0] <= limit <= RANGE[1]
    assert all(info["limit"] == limit for info in infos)
    assert base.cost_limit == 1.0
    np.testing.assert_array_equal(base.cost_limits, [limit])
    cost = float(tiny_problem.costs(base.last_masks())[0])
    charged = [info["cost"] for info in infos]
    assert sum(charged) == pytest.approx(cost / limit, abs=1e-12)
    assert min(charged) >= -1e-12
    assert sum(info["costs"][0] for info in infos) == pytest.approx(cost, abs=1e-6)
    outcome = base.last_outcome()
    assert infos[-1]["feasible"] is outcome.feasible is (cost <= limit)
    assert outcome.cost == cost / limit
    for observation in observations:
        seen = dict(zip(feature_names(("params",), RANGE), observation, strict=True))
        assert seen["limit"] == pytest.approx(np.log(limit / 0.2) / np.log(4.0), abs=1e-6)
        floor = min(1.0, seen["floor:params"] / limit)
        assert seen["floor_of_limit:params"] == pytest.approx(floor, abs=1e-6)


def test_every_doubling_is_as_likely(tiny_problem):
    env = make(tiny_problem)
    env.reset(seed=0)
    drawn = np.array([env.reset()[1]["limit"] for _ in range(2000)])
    assert drawn.min() >= RANGE[0]
    assert drawn.max() <= RANGE[1]
    assert abs((drawn < 0.4).mean() - 0.5) < 0.04


def test_options_and_schedules_set_the_limit(tiny_problem):
    env = make(tiny_problem)
    for limit in (0.2, 0.3, 0.8):
        _, info = env.reset(seed=0, options={"limit": limit})
        assert info["limit"] == limit
    assert env.reset()[1]["limit"] not in (0.2, 0.3, 0.8)  # for that episode only
    env.unwrapped.set_schedule(limit=0.25)
    assert [env.reset()[1]["limit"] for _ in range(2)] == [0.25, 0.25]
    assert env.reset(options={"limit": 0.5})[1]["limit"] == 0.5
    env.unwrapped.set_schedule(limit=None)
    assert env.reset()[1]["limit"] != env.reset()[1]["limit"]


def test_a_fixed_limit_is_the_environment_that_has_it(tiny_problem):
    """Besides the scale of cost and the last feature, a limit from reset is one of the problem."""
    fixed = tiny.make_tiny(budgets={"params": 0.3})
    for cost_mode in ("terminal", "dense"):
        one = make(tiny_problem, cost_mode=cost_mode)
        other = gym.make("PruneVGG-v0", problem=fixed, cost_mode=cost_mode)
        for seed in range(4):
            left, infos = play(one, seed, {"limit": 0.3})
            right, expected = play(other, seed)
            np.testing.assert_array_equal([o[:-1] for o in left], right)
            for info, plain in zip(infos, expected, strict=True):
                assert info.pop("cost") == pytest.approx(plain.pop("cost") / 0.3, abs=1e-12)
                assert info.pop("limit") == 0.3
                tiny.assert_identical(info, plain)


def test_limits_do_not_meet_in_the_memory():
    """The same network under two limits: remembered, and yet judged by its own limit."""
    problem = tiny.make_tiny()
    env = make(problem, "network")
    half = np.zeros(3, dtype=np.float32)
    told = []
    for limit in (0.8, 0.2, 0.8):
        env.reset(seed=0, options={"limit": limit})
        info = env.step(half)[4]
        told.append((info["feasible"], info["cost"] * limit))
    assert [feasible for feasible, _ in told] == [True, False, True]
    assert told[0][1] == pytest.approx(told[1][1], abs=1e-15)
    assert (problem.evaluator.memory.misses, problem.evaluator.memory.hits) == (1, 2)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    granularity=st.sampled_from(["layer", "filter", "network"]),
    cost_mode=st.sampled_from(["terminal", "dense"]),
)
def test_projection_keeps_every_drawn_limit(tiny_problem, seed, granularity, cost_mode):
    env = ProjectionWrapper(make(tiny_problem, granularity, cost_mode=cost_mode))
    keep = -0.5 if granularity == "filter" else 0.5
    for options in (None, {"limit": 0.2}):
        _, infos = play(env, seed, options, keep)
        assert infos[-1]["feasible"]
        total = sum(info["cost"] for info in infos)
        cost = float(tiny_problem.costs(env.unwrapped.last_masks())[0])
        assert total == pytest.approx(cost / infos[0]["limit"], abs=1e-12)
        assert total <= 1.0 + 1e-12


def test_the_archive_judges_by_the_episodes_limit(tiny_problem):
    env = RecordBest(make(tiny_problem, "network"))
    for limit, action in ((0.8, -0.4), (0.2, -0.4), (0.2, 0.9)):
        env.reset(seed=0, options={"limit": limit})
        env.step(np.full(3, action, dtype=np.float32))
    rows = env.archive.trials
    assert [row.feasible for row in rows] == [True, False, True]
    assert rows[0].cost * 0.8 == pytest.approx(rows[1].cost * 0.2)
    assert rows[0].costs == rows[1].costs
    assert env.archive.best_within({"params": 0.2}).costs["params"] == rows[2].costs["params"]


@pytest.mark.parametrize("kind", [np.float32, np.float64, float])
def test_limits_are_numbers_of_any_kind(tiny_problem, kind):
    env = make(tiny_problem, limit_range=(kind(0.2), kind(0.8)))
    for limit in (0.2, 0.3, 0.8):
        observation, info = env.reset(seed=0, options={"limit": kind(limit)})
        assert info["limit"] == pytest.approx(limit, abs=1e-7)
        assert observation in env.observation_space
        assert type(info["limit"]) is float
    whole = make(tiny_problem, limit_range=(0.2, 1))
    assert whole.reset(seed=0, options={"limit": np.int64(1)})[1]["limit"] == 1.0
    with pytest.raises(ValueError, match=r"limit=.*True.* must be a number in"):
        whole.reset(options={"limit": np.True_})


def test_the_best_network_is_one_within_limits(tiny_problem):
    """Without them it would be the best within another episode's limit."""
    env = RecordBest(make(tiny_problem, "network"))
    for action in (-0.4, 0.4, 0.8):
        env.reset(seed=0, options={"limit": 0.8})
        env.step(np.full(3, action, dtype=np.float32))
    with pytest.raises(ValueError, match=r"Say within which: best_network\(\{'params': 0\.1\}\)"):
        env.best_network()
    costs = {row.costs["params"] for row in env.archive.trials}
    for limit in sorted(costs):
        masks = env.archive.best_within({"params": limit}).masks
        expected = tiny_problem.recover(tiny_problem.compact(masks))
        tiny.assert_unchanged(env.best_network({"params": limit}), tiny.snapshot(expected))
    with pytest.raises(ValueError, match=r"expected limits by budget"):
        env.best_network({"parms": 0.2})
    with pytest.raises(NothingFeasibleError, match="The nearest is network 3"):
        env.best_network({"params": min(costs) / 2})


def test_vectors(tiny_problem):
    envs = gym.make_vec("PruneVGGAnyLimit-v0", num_envs=3, problem=tiny_problem, limit_range=RANGE)
    _, infos = envs.reset(seed=0)
    assert len(set(infos["limit"].tolist())) == 3
    assert envs.cost_limit == 1.0
    _, infos = envs.reset(seed=0, options={"limit": 0.5})
    assert infos["limit"].tolist() == [0.5] * 3
    envs.close()


def test_the_registered_environment():
    env = gym.make("PruneVGGAnyLimit-v0")
    limits = [env.reset(seed=seed)[1]["limit"] for seed in range(30)]
    assert 0.05 <= min(limits) < 0.1 < 0.2 < max(limits) <= 0.4
    text = env.spec.to_json()
    again = gym.make(EnvSpec.from_json(text))
    assert json.loads(text)["kwargs"]["limit_range"] == [0.05, 0.4]
    assert again.unwrapped.limit_range == (0.05, 0.4)
    assert again.observation_space == env.observation_space


def test_the_picture_names_the_episodes_limit(tiny_problem):
    env = make(tiny_problem, render_mode="ansi")
    env.reset(seed=0, options={"limit": 0.25})
    assert "params 1.000 of 0.25" in env.render()


# -- what is refused -------------------------------------------------------------------------------


WRONG_RANGES = [
    *[(0.4, 0.05), (0.1, 0.1), (0.0, 0.4), (-0.1, 0.4), (0.1, 1.5), (float("nan"), 0.4)],
    *[(0.1,), (0.1, 0.2, 0.3), (), 0.3, "0.1", (0.1, "a"), (0.1, True)],
]


@pytest.mark.parametrize("limit_range", WRONG_RANGES, ids=repr)
def test_wrong_ranges(tiny_problem, limit_range):
    with pytest.raises(
        ValueError, match=r"limit_range=.*: expected .* 0 < low < high <= 1, e\.g\."
    ):
        make(tiny_problem, limit_range=limit_range)


def test_ranges_that_cannot_be(tiny_problem):
    with pytest.raises(
        InfeasibleLimitError, match=r"'params': limit 0.001 is below the floor 0\.0"
    ):
        make(tiny_problem, limit_range=(0.001, 0.4))
    several = tiny.make_tiny(budgets={"params": 0.5, "macs": 0.5})
    with pytest.raises(ValueError, match=r"limit_range with 2 budgets \(params, macs\): one limit"):
        make(several)
    strange = tiny.make_tiny(budgets={Budget("strange", lambda network: 1.0): 1.0})
    with pytest.raises(ValueError, match=r"cost_mode='dense' with budget 'strange'"):
        make(strange, cost_mode="dense")
    env = make(tiny_problem)
    with pytest.raises(InfeasibleLimitError, match=r"limit 0.2 is below the floor"):
        env.reset(options={"max_ratio": 0.3, "limit": 0.8})


@pytest.mark.parametrize("limit", [0.1, 0.9, "0.3", True, float("nan")])
def test_wrong_limits(tiny_problem, limit):
    env = make(tiny_problem)
    for call in (
        lambda: env.reset(options={"limit": limit}),
        lambda: env.unwrapped.set_schedule(limit=limit),
    ):
        with pytest.raises(ValueError, match=r"limit=.* must be a number in \[0\.2, 0\.8\]"):
            call()


def test_environments_with_one_limit_say_how_to_get_more(tiny_problem):
    env = gym.make("PruneVGG-v0", problem=tiny_problem)
    with pytest.raises(
        ValueError, match=r"limit=0\.3: .* its problem.*limit_range=\(0\.05, 0\.4\)"
    ):
        env.reset(options={"limit": 0.3})
    assert "limit" not in env.reset(seed=0)[1]
