"""`FamilyPruneEnv`: an episode draws a network and a limit; one space for all."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tiny
from gymnasium.utils.env_checker import check_env

import prune_gym
from prune_gym.envs import FamilyPruneEnv, PriorLayerPruneEnv
from prune_gym.errors import InfeasibleLimitError

ZERO = np.zeros(1, dtype=np.float32)


@pytest.fixture
def env(tiny_problem, residual_problem):
    return FamilyPruneEnv([tiny_problem, lambda: residual_problem], limit_range=(0.3, 0.8))


def played(env, actions=None, **options):
    observation, info = env.reset(options=options or None)
    observations, ended = [observation], False
    while not ended:
        observation, reward, ended, _, info = env.step(ZERO if actions is None else actions)
        observations.append(observation)
    return observations, reward, info


def test_it_is_an_environment(env):
    check_env(env, skip_render_check=True)
    assert env.cost_limit == 1.0
    assert len(env) == 2


def test_problems_and_limits_are_drawn(env):
    env.reset(seed=0)
    infos = [env.reset()[1] for _ in range(40)]
    assert {info["problem"] for info in infos} == {0, 1}
    limits = [info["limit"] for info in infos]
    assert min(limits) >= 0.3
    assert max(limits) <= 0.8
    assert len(set(limits)) == 40
    again = FamilyPruneEnv(env._members, limit_range=(0.3, 0.8))
    again.reset(seed=0)
    assert [again.reset()[1]["limit"] for _ in range(40)] == limits


def test_an_episode_is_one_of_the_problem(env, residual_problem):
    observations, reward, info = played(env, problem=1, limit=0.5)
    alone = PriorLayerPruneEnv(residual_problem, limit_range=(0.3, 0.8))
    same, own_reward, own_info = played(alone, limit=0.5)
    np.testing.assert_array_equal(observations, same)
    assert reward == own_reward / residual_problem.sensitivity.unpruned
    assert info["cost"] == own_info["cost"] <= 1.0
    assert info["problem"] == 1
    assert info["feasible"]


def test_rewards_as_they_are(tiny_problem):
    env = FamilyPruneEnv([tiny_problem], relative=False, limit_range=(0.3, 0.8))
    _, reward, info = played(env, limit=0.4)
    assert reward == info["accuracy"]


def test_of_shipped_tables():
    env = gym.make("PruneFamily-v1", problems=["tiny_vgg-shapes-taylor", "tiny_resnet-shapes-l1"])
    for number in (0, 1):
        observations, reward, info = played(env, problem=number, limit=0.2)
        assert info["feasible"]
        assert 0.0 < reward <= 1.1
        assert len(observations) == len(env.unwrapped.problem.groups) + 1


def test_pictures(tiny_problem):
    env = FamilyPruneEnv([tiny_problem], render_mode="ansi", limit_range=(0.3, 0.8))
    env.reset(seed=0)
    assert tiny_problem.groups[0].name in env.render()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], ValueError, "problems is empty; give one at least"),
        ("small", TypeError, r"problems='small': expected a list of problems"),
        ([3], TypeError, r"problems\[0\] is, or gave, 3: expected a PruningProblem"),
        ([None], TypeError, r"problems\[0\] is, or gave, None"),
        ([lambda: 3], TypeError, r"problems\[0\] is, or gave, 3"),
        ([lambda x: x], TypeError, r"problems\[0\] is a function that cannot be called without"),
    ],
)
def test_bad_problems(given, error, words):
    with pytest.raises(error, match=words):
        FamilyPruneEnv(given)


def test_problems_of_other_budgets(tiny_problem):
    other = prune_gym.make_problem("tiny_vgg", budgets={"macs": 0.3})
    words = r"problems\[1\] has the budget 'macs', and problems\[0\] 'params'"
    with pytest.raises(ValueError, match=words):
        FamilyPruneEnv([tiny_problem, other], limit_range=(0.3, 0.8))
    env = FamilyPruneEnv([tiny_problem, lambda: other], limit_range=(0.3, 0.8))
    with pytest.raises(ValueError, match=words):
        env.reset(options={"problem": 1})


def test_limits_that_a_problem_cannot_keep_are_told_when_the_family_is_made(tiny_problem):
    words = r"problems\[1\] with limit_range=\(0.001, 0.8\): budget 'params': limit 0.001 is below"
    with pytest.raises(InfeasibleLimitError, match=words):
        FamilyPruneEnv([lambda: tiny_problem, tiny_problem], limit_range=(0.001, 0.8))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"history": True}, ValueError, "differ in their groups; leave it out"),
        ({"relative": "no"}, TypeError, "relative='no': expected True or False"),
    ],
)
def test_bad_arguments(tiny_problem, arguments, error, words):
    with pytest.raises(error, match=words):
        FamilyPruneEnv([tiny_problem], limit_range=(0.3, 0.8), **arguments)


def test_rewards_below_zero_are_not_divided_by():
    problem = tiny.make_tiny(metric=prune_gym.Metric(minus_the_spread, "spread"))
    with pytest.raises(ValueError, match=r"problems\[0\]: the reward of its unpruned network is -"):
        FamilyPruneEnv([problem], limit_range=(0.3, 0.8))
    env = FamilyPruneEnv([problem], limit_range=(0.3, 0.8), relative=False)
    assert played(env, problem=0, limit=0.5)[1] < 0.0


def minus_the_spread(outputs, labels):
    return -1.0 - float(outputs.std())


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (7, ValueError, r"problem=7 must be in \[0, 1\]; there are 2"),
        ("small", TypeError, "problem='small': expected the number"),
        (True, TypeError, "problem=True: expected the number"),
    ],
)
def test_bad_numbers(env, number, error, words):
    with pytest.raises(error, match=words):
        env.reset(options={"problem": number})
