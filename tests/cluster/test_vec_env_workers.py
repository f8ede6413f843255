"""`RayVecEnv` whose workers die and hang, with a Ray that runs everything here."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from fake_ray import FakeRay, exceptions
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import ray_vec_env
from agents.errors import ClusterError, UsageError
from agents.ray_machines import PACKAGES, versions
from agents.ray_vec_env import RayVecEnv


class Counting(gym.Env):
    """Counts in steps that can be set, from a random number; five steps an episode."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
    width, factor, number = 1.0, 1.0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.steps = self.np_random.uniform(), 0
        return np.array([self.number]), {}

    def step(self, action):
        self.steps += 1
        self.number += self.width * self.factor * float(action[0])
        return np.array([self.number]), self.number, self.steps == 5, False, {}

    def scale(self, factor):
        self.factor = factor

    def add(self, number):
        self.number += number


def walked(envs, steps, changes):
    """What comes of some steps, with changes before some of them."""
    envs.seed(1)
    found, generator = [envs.reset()], np.random.default_rng(0)
    actions = np.empty((envs.num_envs, 1))  # one array for all steps, as loops may have
    for step in range(steps):
        for method, *given in changes.get(step, ()):
            getattr(envs, method)(*given)
        actions[:] = generator.uniform(-1, 1, actions.shape)
        found += [np.array(value) for value in envs.step(actions)[:2]]
    return np.array([value.ravel() for value in found])


CHANGES = {
    1: [("set_attr", "width", 2.0)],
    3: [("env_method", "add", 1.0), ("set_attr", "width", 3.0, [1]), ("env_method", "add", 2.0)],
    6: [("env_method", "scale", 0.5)],
    8: [("env_method", "add", 5.0), ("set_attr", "width", 7.0)],
}


@pytest.mark.parametrize("deadly", [2, 4, 7, 9, 12])
def test_a_new_worker_goes_on_where_the_old_one_was(deadly):
    def happens(name, *given):
        steps.append(name == "step")
        if sum(steps) == 2 * deadly and steps[-1]:  # of two workers
            steps[-1] = False
            steps.append(True)
            raise exceptions.ActorDiedError

    steps: list[bool] = []
    expected = walked(DummyVecEnv([Counting] * 4), 14, CHANGES)
    ray = FakeRay(happens=happens)
    envs = RayVecEnv([Counting] * 4, 2, ray=ray)
    np.testing.assert_array_equal(walked(envs, 14, CHANGES), expected)
    assert ray.calls.count("restore") == 1
    assert len(ray.killed) == 1


def test_changes_are_not_kept_for_ever():
    envs = RayVecEnv([Counting], ray=FakeRay())
    envs.reset()
    for step in range(50):
        envs.set_attr("width", step)
        envs.env_method("scale", 1.0)
        envs.step(np.zeros((1, 1)))
    past = envs._crews[0].past[0]
    assert len(past.settings) == 2
    assert not past.log


def test_a_worker_that_hangs_is_ended_and_then_named():
    def hangs(name, *given):
        if name == "step":
            raise exceptions.GetTimeoutError

    ray = FakeRay(happens=hangs)
    envs = RayVecEnv([Counting] * 3, 1, ray=ray, timeout_s=2.0, retries=1)
    envs.reset()
    with pytest.raises(ClusterError, match=r"step of env.* in 2 trials: .* took longer than 6 s"):
        envs.step(np.zeros((3, 1)))
    assert len(ray.killed) == 1
    assert 6.0 in ray.waits
    assert None not in ray.waits


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ZeroDivisionError("no"), ClusterError, "could not be brought to where.*DivisionError: no"),
        (exceptions.ActorDiedError(), ClusterError, "step of environments failed in 4 trials"),
    ],
)
def test_environments_that_cannot_be_brought_back_are_told_of(error, kind, words):
    def happens(name, *given):
        if name == "step":
            raise exceptions.ActorDiedError
        if name == "restore":
            raise error

    envs = RayVecEnv([Counting], ray=FakeRay(happens=happens))
    envs.reset()
    with pytest.raises(kind, match=words):
        envs.step(np.zeros((1, 1)))


def test_nothing_is_asked_while_a_step_is_in_work():
    envs = RayVecEnv([Counting] * 2, 1, ray=FakeRay())
    first = envs.reset()
    with pytest.raises(UsageError, match=r"step_wait\(\): no step is in work"):
        envs.step_wait()
    envs.step_async(np.ones((2, 1)))
    for call in (
        lambda: envs.step_async(np.ones((2, 1))),
        lambda: envs.get_attr("width"),
        lambda: envs.env_method("scale", 2.0),
    ):
        with pytest.raises(UsageError, match=r": a step is in work; call step_wait\(\), or reset"):
            call()
    np.testing.assert_array_equal(envs.step_wait()[0], first + 1.0)
    assert envs.get_attr("width", [1]) == [1.0]


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_that_dies_while_it_is_made(deaths):
    """It is replaced where it is to replace another one; the first one is named."""

    def happens(name, *given):
        seen.append(name)
        if name == "open" and deaths == 1:
            raise exceptions.ActorDiedError
        if (name == "open" and seen.count(name) == 2) or (name == "step" and "restore" not in seen):
            raise exceptions.ActorDiedError

    seen: list[str] = []
    ray = FakeRay(happens=happens)
    if deaths == 1:
        with pytest.raises(ClusterError, match="a worker could not make its environments"):
            RayVecEnv([Counting], ray=ray)
        return
    envs = RayVecEnv([Counting], ray=ray)
    first = envs.reset()
    np.testing.assert_array_equal(envs.step(np.ones((1, 1)))[0], first + 1.0)
    assert len(ray.killed) == 2


def test_other_versions_are_refused(monkeypatch):
    there = {**versions(PACKAGES), "node": "far", "agents": "0.0.1"}
    monkeypatch.setattr(ray_vec_env.EnvWorker, "versions", lambda self: there)
    with pytest.raises(ClusterError, match=r"machine far .*: install"):
        RayVecEnv([Counting], ray=FakeRay())


@pytest.mark.parametrize(("name", "value"), [("timeout_s", 0.0), ("retries", -1)])
def test_numbers_that_are_not_allowed(name, value):
    with pytest.raises(ValueError, match=name):
        RayVecEnv([Counting], ray=FakeRay(), **{name: value})
