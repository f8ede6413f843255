"""`RayVecEnv` whose workers die and hang, with a Ray that runs everything here."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from fake_ray import FakeRay, exceptions
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import ray_crew, ray_tasks, train
from agents.errors import ClusterError, InvalidTypeError, UsageError
from agents.ray_env_worker import EnvWorker, Past
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
    assert len(ray.killed) == 2  # the last one, too: it holds no place any more
    assert 6.0 in ray.waits
    assert None not in ray.waits


def test_a_worker_that_was_out_of_memory_is_named_with_its_machine():
    def happens(name, *given):
        if name == "step":
            raise exceptions.OutOfMemoryError(
                "Task was killed due to the node running low on memory.\nMemory on the node (IP: "
                "10.0.0.5) was 15GB / 16GB.\nTop 10 memory users:\nRefer to the documentation"
            )

    envs = RayVecEnv([Counting], ray=FakeRay(happens=happens))
    envs.reset()
    with pytest.raises(
        ClusterError, match=r"running low on memory\. .*10\.0\.0\.5\) was 15GB / 16"
    ):
        envs.step(np.zeros((1, 1)))


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

    ray = FakeRay(happens=happens)
    envs = RayVecEnv([Counting], ray=ray)
    envs.reset()
    with pytest.raises(kind, match=words):
        envs.step(np.zeros((1, 1)))
    assert len(ray.killed) == ray.calls.count("open")


@pytest.mark.parametrize(("took", "most"), [(0.0, 4.0), (10.0, 4.0 + 3 * 10 * 10.0)])
def test_restoring_may_take_some_times_what_the_steps_took(monkeypatch, took, most):
    def happens(name, *given):
        clock[0] += took * (name == "step")
        if name == "get" and "step" in ray.calls and "restore" not in ray.calls:
            raise exceptions.ActorDiedError
        if name == "restore":
            ray.waits.clear()

    class Long(Counting):
        def step(self, action):
            observation, reward, _, *others = super().step(action)
            return observation, reward, self.steps == 30, *others

    clock = [1.0]
    monkeypatch.setattr(ray_crew, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    ray = FakeRay(happens=happens)
    envs = RayVecEnv([Long] * 2, 1, ray=ray, timeout_s=2.0)
    envs.reset()
    for _ in range(100):  # three episodes, and ten steps
        envs.step(np.zeros((2, 1)))
    envs.get_attr("steps")
    assert ray.waits[0] == pytest.approx(most)


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
    monkeypatch.setattr(EnvWorker, "versions", lambda self: there)
    with pytest.raises(ClusterError, match=r"machine far .*: install"):
        RayVecEnv([Counting], ray=FakeRay())


def test_a_machine_that_lacks_a_module_of_environments_is_named(monkeypatch):
    def make():
        import a_module_that_is_not_there

        return a_module_that_is_not_there.Env()

    monkeypatch.setattr(platform, "node", lambda: "far")
    with pytest.raises(ClusterError, match=r"could not make .*: machine far lacks code .* 'a_modu"):
        RayVecEnv([make], ray=FakeRay())


def test_a_machine_without_these_packages_can_say_so():
    """The worker's class travels as code: it comes up where nothing of ours is installed."""
    ray = FakeRay()
    ray.cloudpickle = cloudpickle
    known = cloudpickle.list_registry_pickle_by_value()
    try:
        RayVecEnv([Counting], ray=ray).close()
        sent = cloudpickle.dumps((EnvWorker, Past(log=[("step", (1.0,))])))
    finally:
        for name in cloudpickle.list_registry_pickle_by_value() - known:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
    code = (
        "import pickle, sys; sys.modules.update(dict.fromkeys("
        "('agents', 'numpy', 'gymnasium', 'stable_baselines3', 'torch'))); "
        "worker, past = pickle.loads(sys.stdin.buffer.read()); "
        "print(worker().versions()['agents'], len(past.log))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=sent, capture_output=True, check=False
    )
    assert found.stdout.decode().strip().endswith(" 1"), found.stderr.decode()
    assert found.stdout.startswith(b"missing: ModuleNotFoundError")


# -- what is restored otherwise --------------------------------------------------------------------


class Drawing(Counting):
    """With random numbers of its own where they are asked for; an observation of several parts."""

    observation_space = gym.spaces.Dict(
        {"number": Counting.observation_space, "drawn": Counting.observation_space}
    )

    def __init__(self, part=None):
        self.part, self.own = part, np.random.default_rng()

    def drawn(self, part):
        return self.own.uniform(1.0, 9.0) if part == self.part else 0.0

    def seen(self):
        return {"number": np.array([np.nan]), "drawn": np.array([self.drawn("observation")])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action):
        _, reward, ends, *others = super().step(action)
        ends = ends or (self.part == "end" and "RESTORED" in os.environ)
        return self.seen(), reward + self.drawn("reward"), ends, *others


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("part", [None, "observation", "reward", "end"])
def test_an_environment_that_is_restored_otherwise_is_told_of(monkeypatch, part, steps, recwarn):
    def happens(name, *given):
        if name == "get" and "reset" in ray.calls and "restore" not in ray.calls:
            raise exceptions.ActorDiedError
        if name == "restore":
            monkeypatch.setenv("RESTORED", "1")

    ray = FakeRay(happens=happens)
    envs = RayVecEnv([partial(Drawing, part)], ray=ray)
    envs.reset()
    for _ in range(steps):
        envs.step(np.full((1, 1), 0.5))
    assert envs.get_attr("steps") == [steps]
    said = [str(warning.message) for warning in recwarn]
    if part is None or (steps == 0 and part != "observation"):
        assert not said
    else:
        what = {"end": "end of the episode"}.get(part, part)
        assert len(said) == 1
        assert said[0].startswith("environment 0 was made anew, as its worker died or hung")
        assert f"random numbers and actions gave another {what}: from here on" in said[0]


class InPlace(Counting):
    """Writes every observation into one array, as does a method."""

    def reset(self, *, seed=None, options=None):
        self.array = np.zeros(1)
        return self.array, super().reset(seed=seed)[1]

    def step(self, action):
        self.array += 1.0
        return self.array, 1.0, False, False, {}

    def add(self, number):
        self.array += number


def test_observations_in_one_array_are_compared_as_they_were():
    past, worker = Past(), EnvWorker()
    past.begin((np.random.default_rng(0).bit_generator.state, None, None), np.zeros(1))
    past.step(np.zeros(1), np.ones(1), 1.0)
    past.log.append(("method", ("add", (5.0,), {})))
    worker.open(cloudpickle.dumps([InPlace]))
    assert worker.restore([past]) == [""]


def test_code_of_the_users_own_in_arguments_goes_by_value(monkeypatch, tmp_path):
    """As on another machine, the worker has no such module."""
    (tmp_path / "own_rule.py").write_text("class Rule:\n    width = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    rule = importlib.import_module("own_rule").Rule()

    def happens(name, *given):
        if name in ("set", "restore"):
            monkeypatch.delitem(sys.modules, "own_rule", raising=False)
            monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(tmp_path)])
            importlib.invalidate_caches()

    envs = RayVecEnv([Counting], ray=FakeRay(happens=happens))
    envs.reset()
    envs.set_attr("rule", rule)
    (there,) = envs.get_attr("rule")
    assert there is not rule
    assert there.width == 7


# -- what cannot be sent, and what is ended --------------------------------------------------------


@pytest.mark.parametrize("error", [exceptions.ObjectStoreFullError, exceptions.OutOfDiskError])
@pytest.mark.parametrize("name", ["put", "EnvWorker", "versions", "open"])
def test_a_store_that_is_full_while_workers_are_hired_is_named(name, error):
    def sends(called, *given):
        seen.append(called)
        if seen.count(name) == 2:  # of the second worker
            raise error

    seen: list[str] = []
    ray = FakeRay(sends=sends)
    with pytest.raises(ClusterError, match=r"the object store .* is full\. Start Ray with more"):
        RayVecEnv([Counting] * 3, ray=ray)
    assert len(ray.killed) == (1 if name in ("put", "EnvWorker") else 2)


@pytest.mark.parametrize("room", [0, 1, 2, 9])
def test_a_step_goes_on_once_there_is_room_in_the_store(room):
    """What had been sent meanwhile, as there was room for that, is not done again."""

    def sends(name, *given):
        if name == "step" and full:
            full.append(True)
            if len(full) - 2 != room:
                raise exceptions.ObjectStoreFullError

    def walk():
        found = []
        for step in range(3):
            if step == 1:
                full.append(True)
                envs.step_async(actions)
                with pytest.raises(ClusterError, match="step of environments: the object store"):
                    envs.step_wait()
                full.clear()
                found.append(envs.step_wait()[0])
            else:
                found.append(envs.step(actions)[0])
        return np.array(found)

    actions, full = np.full((2, 1), 0.5), []
    ray = FakeRay(sends=sends)
    envs = RayVecEnv([Counting] * 2, ray=ray)
    first = envs.reset()
    np.testing.assert_array_equal(walk()[:, 0], first[0] + [[0.5], [1.0], [1.5]])
    assert not ray.killed
    assert ray.calls.count("step") == 6


def test_an_answer_that_does_not_fit_into_the_store_is_no_death():
    def happens(name, *given):
        if name == "get" and "width" in given:
            raise exceptions.ObjectStoreFullError

    ray = FakeRay(happens=happens)
    envs = RayVecEnv([Counting], ray=ray)
    with pytest.raises(ClusterError, match="an answer of environments: the object store"):
        envs.get_attr("width")
    assert not ray.killed


def test_an_error_of_an_environment_that_cannot_be_sent_is_no_death():
    class Held(Exception):
        def __reduce__(self):
            raise TypeError("it holds a lock")

    def happens(name, *given):
        if name == "get" and "width" in given:
            raise Held("too hot")

    ray = FakeRay(happens=happens)
    envs = RayVecEnv([Counting], ray=ray)
    with pytest.raises(ClusterError, match="an environment failed: ") as found:
        envs.get_attr("width")
    assert "\n" not in str(found.value)
    assert not ray.killed


def unpicklable(*given):
    raise TypeError("Could not serialize the argument\nover many lines") from AttributeError(
        "a lock"
    )


@pytest.mark.parametrize("way", ["set_attr", "env_method", "set_options"])
def test_what_cannot_be_pickled_is_named_and_changes_nothing(way):
    def sends(name, *given):
        if bad:
            unpicklable()

    bad: list[bool] = []
    ray = FakeRay(sends=sends)
    envs = RayVecEnv([Counting] * 2, ray=ray)
    first = envs.reset()
    bad.append(True)
    with pytest.raises(
        InvalidTypeError, match=r"of env.* cannot be pickled, .*: a lock\. What bel"
    ):
        {
            "set_attr": lambda: envs.set_attr("width", 2.0),
            "env_method": lambda: envs.env_method("scale", 2.0),
            "set_options": lambda: (envs.set_options({"lock": 1}), envs.reset()),
        }[way]()
    bad.clear()
    assert not ray.killed
    np.testing.assert_array_equal(envs.step(np.ones((2, 1)))[0], first + 1.0)
    assert [len(past.log) for crew in envs._crews for past in crew.past.values()] == [1, 1]


def test_environments_that_cannot_be_pickled_are_named():
    lock = threading.Lock()
    ray = FakeRay()
    with pytest.raises(
        InvalidTypeError, match=r"env_fns: .*cannot pickle '_thread.lock' object\. "
    ):
        RayVecEnv([Counting, lambda: Counting() or lock], ray=ray)
    assert len(ray.killed) == 1


class Closing(Counting):
    """Notes that it was closed."""

    closed: ClassVar[list[int]] = []
    made: ClassVar[list[int]] = []

    def __init__(self, number=0, fails=""):
        if fails == "made":
            raise OSError("no file")
        self.label, self.fails = number, fails
        self.made.append(number)

    def close(self):
        if self.fails == "closed":
            raise OSError("it is held")
        self.closed.append(self.label)


@pytest.fixture
def closing():
    Closing.closed.clear()
    Closing.made.clear()
    return Closing


def test_environments_are_closed(closing):
    ray = FakeRay()
    envs = RayVecEnv([partial(closing, number) for number in range(5)], 2, ray=ray)
    envs.reset()
    envs.step_async(np.zeros((5, 1)))
    envs.close()
    assert sorted(closing.closed) == [0, 1, 2, 3, 4]
    assert len(ray.killed) == 2
    assert ray.limits == [ray_crew.CLOSE_S]
    envs.close()
    assert len(ray.killed) == 2
    for call in (envs.reset, lambda: envs.step_async(np.zeros((5, 1))), lambda: envs.get_attr("a")):
        with pytest.raises(UsageError, match=r"close\(\) has ended the workers; make a new"):
            call()
    with pytest.raises(UsageError, match="no step is in work"):
        envs.step_wait()


def test_one_environment_that_cannot_be_closed_hinders_no_other(closing):
    ray = FakeRay()
    envs = RayVecEnv([partial(closing, n, "closed" if n == 1 else "") for n in range(3)], ray=ray)
    with pytest.warns(UserWarning, match="could not be closed: OSError: it is held"):
        envs.close()
    assert closing.closed == [0, 2]
    assert len(ray.killed) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_environments_that_were_made_are_closed_where_others_cannot_be(closing, workers):
    ray = FakeRay()
    with pytest.raises(ClusterError, match="could not make its environments"):
        RayVecEnv(
            [partial(closing, n, "made" if n == 2 else "") for n in range(3)], workers, ray=ray
        )
    assert closing.closed == closing.made == [0, 1]
    assert len(ray.killed) == workers


def test_spaces_that_the_library_does_not_take_leave_no_workers(closing, monkeypatch):
    def refuse(*given):
        raise NotImplementedError("no such space")

    monkeypatch.setattr("agents.ray_vec_env.DummyVecEnv", refuse)
    ray = FakeRay()
    with pytest.raises(NotImplementedError):
        RayVecEnv([closing], ray=ray)
    assert closing.closed == [0]
    assert len(ray.killed) == 1


def test_nothing_is_ended_where_there_is_no_connection_any_more(monkeypatch):
    """Ray would start a cluster to end a worker in it."""
    ray = FakeRay()
    envs = RayVecEnv([Counting], ray=ray)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    envs.close()
    assert not ray.killed
    assert "close" not in ray.calls


def test_environments_have_as_long_to_be_made_as_to_step():
    def happens(name, *given):
        if name == "open":
            raise exceptions.GetTimeoutError

    ray = FakeRay(happens=happens)
    with pytest.raises(
        ClusterError, match=r"timeout_s=2000: the 3 env.* not made after 6000 s\. Gi"
    ):
        RayVecEnv([Counting] * 3, 1, ray=ray, timeout_s=2000.0)
    assert ray.waits[:2] == [ray_crew.WAIT_S, 6000.0]


@pytest.mark.parametrize("workers", [None, 2])
def test_environments_of_a_training_are_closed_whatever_comes(monkeypatch, closing, workers):
    ray = FakeRay()
    ray.lent = [{"CPU": 2.0}]
    monkeypatch.setattr(ray_tasks, "connected", ray.connected)
    with suppress(KeyboardInterrupt), train._stepping(workers, None, 0.0) as vector:
        vector([partial(closing, number) for number in range(2)])
        raise KeyboardInterrupt
    assert sorted(closing.closed) == [0, 1]
    assert len(ray.killed) == (workers or 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout_s", 0.0),
        ("retries", -1),
        *[(name, value) for name in ("cpus", "gpus") for value in (-1.0, 1.5, float("nan"))],
    ],
)
def test_numbers_that_are_not_allowed(name, value):
    with pytest.raises(ValueError, match=name):
        RayVecEnv([Counting], ray=FakeRay(), **{name: value})
