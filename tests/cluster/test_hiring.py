"""How workers come about, and what is said where they do not: with a Ray that runs all here."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import tiny
from fake_ray import FakeRay, exceptions

from prune_gym import Budget
from prune_gym.cluster import hiring
from prune_gym.cluster.hiring import Hiring, HiringJudges, NoPlaceError
from prune_gym.cluster.measuring import Measurer
from prune_gym.cluster.pool import Pool
from prune_gym.cluster.shipping import stored
from prune_gym.errors import ClusterError, WorkerError


@pytest.fixture(scope="module")
def problem():
    return tiny.make_tiny(batch_size=40)


@pytest.fixture
def measurer():
    def make(ray, **how):
        ray.sends = how.get("sends", ray.sends)
        return Measurer(ray, "phone", 60.0, 3, how.get("runtime_env"), None)

    return make


def failing(name, error):
    """Let a call fail in the worker."""

    def happens(called, *given):
        if called == name:
            raise error

    return happens


def size(network):
    return float(sum(p.numel() for p in network.parameters()))


def measured(measurer, problem):
    return measurer.measure(Budget("size", size), "__call__", problem.network, None)


@pytest.mark.parametrize("megabytes", [0, 9000])
def test_a_worker_has_as_long_for_its_problem_as_that_is_large(problem, monkeypatch, megabytes):
    arrays = SimpleNamespace(nbytes=megabytes * 10**6)
    said: list[str] = []
    monkeypatch.setattr(hiring, "pack", lambda problem: (b"", arrays))
    ray = FakeRay(happens=failing("open", exceptions.GetTimeoutError))
    judges = HiringJudges(ray, {}, said.append, problem, 1, "cpu")
    seconds = {0: 600, 9000: 2400}[megabytes]
    words = f"a worker is up, and still loads the problem, {megabytes:,} MB"
    with pytest.raises(exceptions.GetTimeoutError, match=f"{words}, after {seconds} s"):
        judges.hire()
    assert sum(ray.waits[1:]) == seconds
    assert said == [f"{words}."]
    assert len(ray.killed) == 1


def test_a_worker_that_loads_for_long_is_taken(problem):
    def happens(name, *given):
        if name == "open":
            raise exceptions.GetTimeoutError

    def get(answer, timeout=None):
        ray.waits.append(timeout)
        if len(ray.waits) == 5:
            return ""
        return plain(answer, timeout)

    ray = FakeRay(happens=happens)
    plain, ray.get = ray.get, get
    assert HiringJudges(ray, {}, None, problem, 1, "cpu").hire() is not None
    assert not ray.killed


def test_a_cluster_without_a_place_is_told_of():
    said: list[str] = []
    ray = FakeRay(happens=failing("versions", exceptions.GetTimeoutError))
    with pytest.raises(NoPlaceError, match=r"asks for cpus 2 of .* CPU 1, and none was free for 6"):
        Hiring(ray, {"num_cpus": 2}, said.append).hire()
    assert sum(ray.waits) == hiring.WAIT_S
    assert said == ["a worker is not up yet; it asks for cpus 2 of the cluster's CPU 1."]
    assert len(ray.killed) == 1


def test_a_worker_that_cannot_load_its_problem_says_why(problem, monkeypatch):
    """What it raised stands in one line, and not the beginning of its traceback."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    error = exceptions.RayTaskError(
        "open", "ray::Worker.open()\n  File\n    code\nOSError", OSError("no")
    )
    ray = FakeRay(happens=failing("open", error))
    pool = Pool(ray, HiringJudges(ray, {}, None, problem, 1, "cpu"), 1, 60.0, 0)
    pool._threads[0].join(10.0)
    with pytest.raises(ClusterError, match=r"^no worker came up in 3 trials: OSError: no$"):
        pool.ask(None)
    pool.close()
    assert len(ray.killed) == 3


@pytest.mark.parametrize("error", [exceptions.ObjectStoreFullError, exceptions.OutOfDiskError])
def test_a_full_store_ends_the_workers_at_once(problem, error):
    ray = FakeRay(happens=failing("open", error))
    pool = Pool(ray, HiringJudges(ray, {}, None, problem, 1, "cpu"), 1, 60.0, 0)
    pool._threads[0].join(10.0)
    with pytest.raises(ClusterError, match=r"store of the cluster is full: .* Start Ray with more"):
        pool.ask(None)
    pool.close()
    assert len(ray.killed) == 1


def test_options_that_ray_refuses_are_named(measurer):
    def sends(name, *given):
        if name == "Worker":
            raise TypeError("runtime_env['pip'] must be a list")

    with pytest.raises(
        ClusterError, match=r"worker with .*runtime_env=\{'pip': 3\}: runtime_env\["
    ):
        measurer(FakeRay(), sends=sends, runtime_env={"pip": 3})


def test_a_lost_connection_is_told_of_in_one_line():
    def sends(name, *given):
        raise exceptions.RaySystemError("gone\nwith many lines")

    with pytest.raises(
        ClusterError, match=r"^a network was not taken by the cluster: .*gone"
    ) as found:
        stored(FakeRay(sends=sends), b"", "a network", 0)
    assert "\n" not in str(found.value)


def test_threads_that_cannot_be_started_leave_no_workers(problem, monkeypatch):
    started = []

    class Thread(threading.Thread):
        def start(self):
            if started:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr(threading, "Thread", Thread)
    ray = FakeRay()
    judges = HiringJudges(ray, {}, None, problem, 1, "cpu")
    with pytest.raises(RuntimeError, match="can't start"):
        Pool(ray, judges, 2, 60.0, 0)
    started[0].join(10.0)
    assert not started[0].is_alive()
    assert len(ray.killed) == 1


def test_a_store_that_is_full_where_is_measured_is_named_at_once(measurer, problem):
    def sends(name, *given):
        if name == "call":
            raise exceptions.ObjectStoreFullError

    ray = FakeRay()
    one = measurer(ray, sends=sends)
    with pytest.raises(ClusterError, match=r"is full: budget 'size' is measured elsewhere.*Start"):
        measured(one, problem)
    assert not ray.killed
    one.close()
    assert len(ray.killed) == 1


def test_an_error_of_a_measurement_is_one_line(measurer, problem):
    error = exceptions.RayTaskError("call", "ray::call()\nmany\nlines", MemoryError("no\nroom"))
    one = measurer(FakeRay(happens=failing("call", error)))
    with pytest.raises(
        WorkerError, match=r"^budget 'size' was not measured: MemoryError: no room$"
    ):
        measured(one, problem)
