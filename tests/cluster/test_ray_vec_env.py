"""`RayVecEnv` steps like `DummyVecEnv`, whatever happens to its workers."""

from __future__ import annotations

import os
import pickle
import signal
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import tiny
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import prune_gym
from agents.errors import ClusterError
from agents.ray_vec_env import RayVecEnv
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import SharingError
from prune_gym.problem import sharing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture
def ray(cluster):
    with RayWorkers(1).session():
        import ray

        yield ray


def toy():
    return gym.make("agents.toy:BudgetToy-v0")


def walked(envs, steps, on_step=lambda step: None):
    """Everything that comes out of some steps by random actions."""
    envs.seed(3)
    found, generator = [envs.reset()], np.random.default_rng(0)
    for step in range(steps):
        on_step(step)
        low, high = envs.action_space.low, envs.action_space.high
        actions = generator.uniform(low, high, (envs.num_envs, *low.shape)).astype(low.dtype)
        observations, rewards, dones, infos = envs.step(actions)
        found += [observations, rewards, dones, infos, envs.reset_infos]
    return found


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_equal(one, other)


def test_steps_are_those_of_one_process(ray):
    expected = walked(DummyVecEnv([toy] * 5), 30)
    envs = RayVecEnv([toy] * 5, 2, ray=ray, cpus=0.5)
    assert_same(walked(envs, 30), expected)
    assert envs.env_is_wrapped(gym.wrappers.OrderEnforcing) == [True] * 5
    assert len(envs.get_attr("spec", [1, 2])) == 2
    envs.close()


def test_an_agent_learns_the_same(ray):
    def trained(envs):
        agent = PPO("MlpPolicy", envs, n_steps=16, batch_size=16, n_epochs=1, seed=0)
        agent.learn(128)
        envs.close()
        return [p.detach().numpy() for p in agent.policy.parameters()]

    expected = trained(DummyVecEnv([toy] * 4))
    assert_same(trained(RayVecEnv([toy] * 4, 2, ray=ray, cpus=0.5)), expected)


def test_a_worker_that_dies_changes_nothing(ray):
    def kill(step):
        if step in (4, 17):
            os.kill(envs.get_attr("pid", [step % 2])[0], signal.SIGKILL)

    def with_pid():
        env = toy()
        env.unwrapped.pid = os.getpid()
        return env

    expected = walked(DummyVecEnv([toy] * 4), 25)
    envs = RayVecEnv([with_pid] * 4, 2, ray=ray, cpus=0.5)
    assert_same(walked(envs, 25, kill), expected)
    envs.close()


def test_environments_that_cannot_be_made_are_told_of(ray):
    def broken():
        raise ImportError("no module of that name")

    with pytest.raises(ClusterError, match=r"could not make its env.*no module of that name.*py_m"):
        RayVecEnv([broken] * 2, 1, ray=ray, cpus=0.5)


def make_pruning(problem):
    return gym.make("Prune-v0", problem=problem)


def test_machines_share_a_problem(ray):
    problem = tiny.make_tiny(batch_size=40)
    shared = prune_gym.share(problem, ray=ray)
    expected = walked(DummyVecEnv([partial(make_pruning, problem)] * 4), 10)
    envs = RayVecEnv([partial(make_pruning, shared)] * 4, 2, ray=ray, cpus=0.5)
    assert_same(walked(envs, 10), expected)
    envs.close()


def test_a_shared_problem_that_is_gone_is_named(ray, monkeypatch):
    shared = prune_gym.share(tiny.make_tiny(batch_size=40), ray=ray)
    twin = pickle.loads(pickle.dumps(shared))
    sharing._OPENED.clear()  # as in another process

    def lost(reference):
        raise ray.exceptions.RayError("its owner has died.")

    monkeypatch.setattr(ray, "get", lost)
    with pytest.raises(SharingError, match="no longer in the object store: its owner has died"):
        twin.open()
    monkeypatch.setattr(ray, "put", lost)
    with pytest.raises(SharingError, match=r"does not fit into the object store: .*object-store-m"):
        prune_gym.share(tiny.make_tiny(batch_size=40), ray=ray)
