"""Tasks of a cluster and sweeps, with a Ray that runs them here: deaths, stops, other versions."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import fake_ray
import pytest

import agents
import prune_gym
from agents import ray_machines, ray_tasks
from agents.benchmark import whole
from agents.errors import BenchmarkError, ClusterError, InvalidTypeError, InvalidValueError
from agents.ray_errors import words_of
from agents.ray_tasks import Cluster, in_cluster, run_tasks
from agents.stopping import Stopped, request_stop, stopping


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster that runs tasks here."""

    def make(**arguments):
        ray = fake_ray.FakeRay(**arguments)
        monkeypatch.setattr(ray_tasks, "connected", ray.connected)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        return ray

    return make


def run_all(tasks, cluster, **options):
    return run_tasks(tasks.__getitem__, len(tasks), cluster, **options)


def test_versions_are_those_of_one_distribution():
    assert agents.__version__ == prune_gym.__version__


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("agents", "0.0.1", r"machine .* has agents .*, and here it is 0\.0\.1: install the same"),
        ("python", "3.1.2", r"has python .*, and here it is 3\.1\.2"),
        ("absent", "1.0", r"cannot import absent \(ModuleNotFoundError.*\): install there"),
    ],
)
def test_tasks_are_not_run_on_machines_with_other_versions(
    cluster, monkeypatch, name, version, words
):
    cluster()
    monkeypatch.setattr(ray_tasks, "versions", lambda names: {"node": "here", name: version})
    with pytest.raises(ClusterError, match=words):
        list(run_all([lambda: pytest.fail("it ran")], Cluster(1)))


def test_versions_by_which_numbers_may_differ_are_told_once(cluster, monkeypatch):
    cluster()
    monkeypatch.setattr(ray_tasks, "versions", lambda names: {"node": "here", "numpy": "1.0"})
    with pytest.warns(UserWarning, match=r"has numpy .* it is 1\.0: numbers may differ") as told:
        assert [one.value for one in run_all([lambda: 1, lambda: 2], Cluster(1))] == [1, 2]
    assert len(told) == 1


def test_what_is_ready_when_a_stop_is_asked_for_is_given(cluster):
    cluster()
    with stopping():
        found = []
        for done in run_all([partial(int, n) for n in range(6)], Cluster(3)):
            found.append(done.value)
            if len(found) == 1:
                request_stop()
    assert found == [0, 1, 2]


def take(work, found):
    """What runs give; a stop is asked for at the first."""
    for *_, run in work:
        found.append(run())
        request_stop()


def test_runs_side_by_side_that_are_done_at_a_stop_are_kept(monkeypatch):
    class Pool(nullcontext):
        def __init__(self, *arguments, **options):
            super().__init__(self)

        def submit(self, function, suite, train, algorithm, task, seed):
            future = Future()
            if seed < 3:  # the others wait
                future.set_result(seed)
            return future

        def shutdown(self, cancel_futures):
            pass

    monkeypatch.setattr(whole, "ProcessPoolExecutor", Pool)
    ahead, found = [(None, seed) for seed in range(5)], []
    with stopping(), pytest.raises(Stopped):
        take(whole._side_by_side(None, None, "any", ahead, 2), found)
    assert sorted(found) == [0, 1, 2]


def test_runs_in_a_cluster_that_are_done_at_a_stop_are_kept(cluster, monkeypatch):
    cluster()
    monkeypatch.setattr(whole, "_run", lambda suite, train, algorithm, task, seed: seed)
    ahead, found = [(SimpleNamespace(name="task"), seed) for seed in range(5)], []
    with stopping(), pytest.raises(Stopped):
        take(whole._in_cluster(Cluster(3), None, None, "any", ahead, 1), found)
    assert found == [0, 1, 2]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_runs_in_a_cluster_that_are_done_when_one_fails_are_kept(cluster, monkeypatch, is_stopped):
    def run(suite, train, algorithm, task, seed):
        if seed == 0:
            raise ZeroDivisionError("of the algorithm")
        return seed

    cluster()
    monkeypatch.setattr(whole, "_run", run)
    ahead, found = [(SimpleNamespace(name="task"), seed) for seed in range(5)], []
    work = whole._in_cluster(Cluster(3), None, None, "any", ahead, 1)
    error = pytest.raises(BenchmarkError, match="any on task, seed 0: ZeroDivisionError: of the")
    with stopping(), pytest.raises(Stopped) if is_stopped else error:
        if is_stopped:
            take(work, found)
        for *_, one in work:
            found.append(one())
    assert found == [1, 2]


def test_a_task_that_died_is_told_of_before_the_next_try(cluster):
    told = []
    cluster(happens=fake_ray.first("run_here", fake_ray.exceptions.WorkerCrashedError))
    done = list(run_all([lambda: len(told)], Cluster(1), on_death=told.append))
    assert (told, [one.value for one in done]) == ([0], [1])


def test_a_task_that_the_object_store_has_no_room_for_is_named_and_left(cluster):
    ray = cluster()
    ray.sends = fake_ray.first("run_here", fake_ray.exceptions.ObjectStoreFullError)
    first, second = run_all([lambda: 1, lambda: 2], Cluster(1))
    assert "the object store of the cluster is full. Start Ray with more" in first.error
    assert (second.value, second.error) == (2, None)


@pytest.mark.parametrize(
    "error", [fake_ray.exceptions.OutOfDiskError, partial(OSError, errno.ENOSPC, "no space left")]
)
@pytest.mark.parametrize("trials", [1, 4, 99])
def test_tasks_that_there_is_no_room_for_wait_until_others_have_ended(cluster, error, trials):
    def sends(name, *given):
        sent.append(name)
        if 2 <= len(sent) < 2 + trials:
            raise error()

    sent: list[str] = []
    cluster().sends = sends
    tasks = [partial(int, n) for n in range(6)]
    failed = [one.index for one in run_all(tasks, Cluster(2), stops=lambda: False) if one.error]
    assert failed == {1: [], 4: [1, 2, 3], 99: [1, 2, 3, 4, 5]}[trials]


def test_a_task_is_sent_again_only_once_another_one_has_ended(cluster, monkeypatch):
    """And given up after as many trials as it has."""

    def sends(name, *given):
        sent.append(name)
        if len(sent) > 3:
            raise fake_ray.exceptions.ObjectStoreFullError

    def wait(answers, **options):
        looks.append(len(sent))
        return plain(answers, **options) if len(looks) % 5 == 0 else ([], answers)

    sent: list[str] = []
    looks: list[int] = []
    ray = cluster()
    ray.sends, plain = sends, ray.wait
    monkeypatch.setattr(ray, "wait", wait)
    tasks = [partial(int, n) for n in range(4)]
    done = list(run_all(tasks, Cluster(4, retries=1), stops=lambda: False))
    assert [(one.index, one.error is None) for one in done] == [
        (0, True),
        (3, False),
        (1, True),
        (2, True),
    ]
    assert looks[:10] == [4] * 5 + [5] * 5


def test_a_task_that_cannot_be_read_is_named_and_left(cluster):
    def make(index):
        if index == 0:
            raise PermissionError("a folder of somebody else's")
        return lambda: index

    cluster()
    first, second = run_tasks(make, 2, Cluster(1))
    assert first.error == "it could not be sent to the cluster: a folder of somebody else's"
    assert second.value == 1


def test_what_is_in_work_is_given_where_one_machine_has_another_version(cluster, monkeypatch):
    cluster()
    there = iter([{"agents": "0.0.1"}])
    plain = ray_machines.versions
    monkeypatch.setattr(ray_machines, "versions", lambda names: {**plain(names), **next(there, {})})
    found = []
    with (
        pytest.warns(UserWarning, match=r"has agents 0\.0\.1.* 1 in work come to their end"),
        pytest.raises(ClusterError, match=r"has agents 0\.0\.1, and here it is"),
    ):
        found.extend(one.value for one in run_all([lambda: 0, lambda: 1, lambda: 2], Cluster(2)))
    assert found == [1]


# -- errors of Ray ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sends", "wait", "nodes"])
def test_a_cluster_that_fails_is_told_of_in_one_line(cluster, monkeypatch, way):
    def fail(*given, **options):
        raise fake_ray.exceptions.RaySystemError("the head is gone")

    monkeypatch.setattr(cluster(), way, fail)
    with pytest.raises(
        ClusterError, match=r"the cluster failed; .*: RaySystemError: .*head is gone"
    ):
        list(run_all([lambda: 1], Cluster(1)))


def test_what_else_is_asked_of_a_cluster_fails_in_one_line_likewise(cluster):
    cluster()
    with (
        pytest.raises(ClusterError, match=r"RaySystemError: .*gone"),
        in_cluster(Cluster(1)) as ray,
    ):
        raise ray.exceptions.RaySystemError("gone")


def test_tasks_that_cannot_be_pickled_are_refused(cluster):
    cluster()
    lock = threading.Lock()
    with pytest.raises(InvalidTypeError, match=r"cannot pickle '_thread\.lock' object\. What bel"):
        list(run_all([lambda: lock], Cluster(1)))


OUT_OF_MEMORY = """Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.5, ID: abc) where the task was running was 15GB / 16GB (0.95).
Top 10 memory users:
PID MEM(GB) COMMAND
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io"""


def test_a_death_names_its_machine_and_its_memory(cluster):
    def happens(name, *given):
        raise fake_ray.exceptions.OutOfMemoryError(OUT_OF_MEMORY)

    cluster(happens=happens)
    (done,) = run_all([lambda: 1], Cluster(1))
    assert "10.0.0.5, ID: abc) where the task was running was 15GB / 16GB" in done.error


def test_an_error_in_words_is_one_line_without_what_only_logs_need():
    died = fake_ray.exceptions.RayError(
        "The actor died.\n\tclass_name: A\n\tactor_id: 7\n\tpid: 5\n\tnamespace: n\n"
        "\tip: 10.0.0.5\nIts process has died.\nMore."
    )
    assert words_of(died) == "The actor died. ip: 10.0.0.5 Its process has died."
    failed = fake_ray.exceptions.RayTaskError("f", "line 1", ValueError("one\n  two"))
    assert words_of(failed) == "ValueError: one two"
    assert words_of(fake_ray.exceptions.RayError()) == "RayError"


# -- places ----------------------------------------------------------------------------------------


def test_what_fits_on_no_machine_of_a_local_cluster_is_refused_at_once(cluster):
    ray = cluster()
    ray.hangs = {"run_here"}
    with pytest.raises(
        ClusterError, match=r"no machine .* asks for \(1 CPU, 1 GPU\): ask for less"
    ):
        list(run_all([lambda: 1], Cluster(1, gpus=1.0)))
    assert len(ray.cancelled) == 1


def test_what_each_machine_has_a_part_of_fits_on_none(cluster):
    cluster().lent = [{"CPU": 4.0}, {"GPU": 4.0}]
    with pytest.raises(ClusterError, match="no machine of the cluster has"):
        list(run_all([lambda: 1], Cluster(1, gpus=1.0)))


def test_a_machine_that_a_cluster_may_start_is_waited_for(cluster, monkeypatch):
    ray = cluster()
    with pytest.warns(UserWarning, match=r"\(1 CPU, 1 GPU\): waiting up to 600 s for one that"):
        assert [one.value for one in run_all([lambda: 1], Cluster(1, "auto", gpus=1.0))] == [1]
    ray.hangs = {"run_here"}
    monkeypatch.setattr(ray_tasks, "PLACE_S", 0.0)
    monkeypatch.setattr(ray_tasks, "MACHINES_EVERY_S", 0.0)
    with (
        pytest.warns(UserWarning, match="waiting up to"),
        pytest.raises(ClusterError, match="no machine of the cluster has"),
    ):
        list(run_all([lambda: 1], Cluster(1, "auto", gpus=1.0)))


def test_a_machine_that_is_lost_while_tasks_wait_is_waited_for_likewise(cluster, monkeypatch):
    """As long as for one at the beginning, and once more where it had come back meanwhile."""

    def wait(answers, **options):
        looks.append(clock[0])
        clock[0] += 1.0
        ray.lent = [{"CPU": 4.0, **({"GPU": 1.0} if 100 < clock[0] < 200 else {})}]
        return [], answers

    ray, clock, looks = cluster(), [1.0], []
    ray.hangs, ray.lent = {"run_here"}, [{"CPU": 4.0, "GPU": 1.0}]
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray_tasks, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with (
        pytest.warns(UserWarning, match="waiting up to 600 s") as told,
        pytest.raises(ClusterError, match="no machine of the cluster has"),
    ):
        list(run_all([lambda: 1], Cluster(1, "auto", gpus=1.0)))
    assert len(told) == 2
    assert 800.0 <= looks[-1] <= 800.0 + 3 * ray_tasks.MACHINES_EVERY_S


@pytest.mark.parametrize("gpus", [1.5, -1.0, float("nan")])
@pytest.mark.parametrize("name", ["cpus", "gpus"])
def test_cores_and_gpus_that_are_not_lent(name, gpus):
    words = f"{name} of each worker is .* it must be a share of one from 0 to 1, or a whol"
    with pytest.raises(InvalidValueError, match=words):
        Cluster(1, **{name: gpus})


def test_versions_of_this_machine():
    found = ray_machines.versions(["numpy"])
    assert set(found) == {"node", "python", "numpy"}
    assert ray_machines.compared(found, {**found, "numpy": f"{found['numpy']}+cu9"}) == ("", [])


def test_workers_that_are_to_be_there_together_need_as_many_places(cluster):
    ray = cluster()
    ray.lent = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 2.0}]
    needs = Cluster(4, cpus=1.0, gpus=0.5)
    ray_tasks.Place(ray, needs, at_once=3).look()  # two by GPUs, one by cores
    words = r"have places for 3 of 4 workers that are to be there together \(1 CPU, 0.5 GPU each\)"
    with pytest.raises(ClusterError, match=words):
        ray_tasks.Place(ray, needs, at_once=4).look()
