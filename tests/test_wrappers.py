"""Wrappers: other action spaces, the best network, the episode's cost, and SB3 around them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from prune_gym import BinaryFilters, DiscreteRatios, RecordBest, RecordEpisodeCost
from prune_gym.search.archive import Archive


def make(problem, granularity="layer", **arguments):
    return gym.make("PruneVGG-v0", problem=problem, granularity=granularity, **arguments)


WRAPPED = {
    "ratios": lambda problem: DiscreteRatios(make(problem), n=5),
    "all ratios": lambda problem: DiscreteRatios(make(problem, "network"), n=5),
    "filters": lambda problem: BinaryFilters(make(problem, "filter")),
    "best": lambda problem: RecordBest(make(problem)),
    "cost": lambda problem: RecordEpisodeCost(make(problem)),
    "all": lambda problem: RecordEpisodeCost(RecordBest(DiscreteRatios(make(problem)))),
}


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # it is meant
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_environments_pass_the_checks(tiny_problem, name):
    env = WRAPPED[name](tiny_problem)
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    tiny.assert_identical(tiny.rollout(env, 2), tiny.rollout(WRAPPED[name](tiny_problem), 2))
    assert env.get_wrapper_attr("cost_limit") == 0.5


def test_ratios_are_an_even_grid(tiny_problem):
    env = DiscreteRatios(make(tiny_problem), n=5)
    assert env.action_space == gym.spaces.Discrete(5)
    np.testing.assert_array_equal(
        np.concatenate([env.action(index) for index in range(5)]), [-1.0, -0.5, 0.0, 0.5, 1.0]
    )
    env = DiscreteRatios(make(tiny_problem, "network"), n=3)
    assert env.action_space == gym.spaces.MultiDiscrete([3, 3, 3])
    np.testing.assert_array_equal(env.action(np.array([0, 1, 2])), [-1.0, 0.0, 1.0])


def test_bits_keep_filters(tiny_problem):
    env = BinaryFilters(make(tiny_problem, "filter"))
    assert env.action_space == gym.spaces.MultiBinary(8)
    env.reset(seed=0)
    bits = np.array([1, 0, 1, 1, 0, 0, 0, 1], dtype=np.int8)
    for _ in range(3):
        env.step(bits)
    assert [int(mask.sum()) for mask in env.unwrapped.last_masks()] == [3, 3, 4]


def test_record_best_keeps_the_best_feasible_network(tiny_problem):
    env = RecordBest(make(tiny_problem, "network"))
    outcomes = []
    for _ in range(12):
        tiny.rollout(env, seed=len(outcomes))
        outcomes.append((env.unwrapped.last_outcome(), env.unwrapped.last_masks()))
    assert len(env.archive.episodes) == 12
    feasible = [(outcome.accuracy, -outcome.cost) for outcome, _ in outcomes if outcome.feasible]
    assert 0 < len(feasible) < 12
    assert (env.archive.best.accuracy, -env.archive.best.cost) == max(feasible)
    again = tiny_problem.evaluate(env.archive.feasible_masks())
    assert (again.accuracy, again.cost) == (env.archive.best.accuracy, env.archive.best.cost)


def test_environments_share_an_archive(tiny_problem):
    archive = Archive()
    envs = [RecordBest(make(tiny_problem, "network"), archive) for _ in range(2)]
    for env in envs:
        tiny.rollout(env)
    assert len(archive.episodes) == 2
    assert all(env.archive is archive for env in envs)


@pytest.mark.parametrize("cost_mode", ["terminal", "dense"])
def test_record_episode_cost(tiny_problem, cost_mode):
    env = RecordEpisodeCost(make(tiny_problem, cost_mode=cost_mode))
    for seed in range(2):
        seen = tiny.rollout(env, seed=seed)
        running = np.cumsum([step[4]["cost"] for step in seen])
        np.testing.assert_allclose([step[4]["episode_cost"] for step in seen], running)
        assert all(type(step[4]["episode_cost"]) is float for step in seen)


def test_sb3_monitor_reads_the_episode_cost(tiny_problem):
    def one():
        env = RecordEpisodeCost(make(tiny_problem, cost_mode="dense"))
        return Monitor(env, info_keywords=("episode_cost",))

    venv = DummyVecEnv([one, one])
    venv.seed(0)
    venv.reset()
    for _ in range(3):
        _, rewards, dones, infos = venv.step(np.array([[0.2], [-0.4]], dtype=np.float32))
    assert dones.all()
    for reward, info in zip(rewards, infos, strict=True):
        expected = info["params"] / tiny_problem.dense_values[0]
        assert info["episode"]["episode_cost"] == pytest.approx(expected)
        assert info["episode"]["r"] == pytest.approx(reward, abs=1e-6)


@pytest.mark.parametrize(
    ("granularity", "wrap"),
    [
        ("layer", lambda env: DiscreteRatios(env, n=4)),
        ("filter", BinaryFilters),
        ("layer", RecordBest),
        ("layer", RecordEpisodeCost),
    ],
    ids=["ratios", "filters", "best", "cost"],
)
def test_specs_of_wrapped_environments_survive_json(granularity, wrap):
    env = wrap(gym.make("PruneVGG-v0", granularity=granularity))
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert type(again) is type(env)
    assert again.action_space == env.action_space


def test_wrapper_errors(tiny_problem):
    with pytest.raises(
        ValueError, match=r"granularity='filter' takes no ratios; use BinaryFilters"
    ):
        DiscreteRatios(make(tiny_problem, "filter"))
    with pytest.raises(ValueError, match=r"n=1 must be a whole number of at least 2"):
        DiscreteRatios(make(tiny_problem), n=1)
    with pytest.raises(ValueError, match=r"BinaryFilters needs granularity='filter'"):
        BinaryFilters(make(tiny_problem))
    with pytest.raises(ValueError, match=r"expected a Box action space.*wrap it only once"):
        DiscreteRatios(DiscreteRatios(make(tiny_problem)))
    env = DiscreteRatios(make(tiny_problem), n=3)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 3 is not in Discrete\(3\)"):
        env.step(3)
    bits = BinaryFilters(make(tiny_problem, "filter"))
    bits.reset(seed=0)
    with pytest.raises(ValueError, match=r"is not in MultiBinary\(8\)"):
        bits.step(np.zeros(3, dtype=np.int8))
    unconstrained = RecordEpisodeCost(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match=r"gives no info\['cost'\]"):
        unconstrained.reset(seed=0)
