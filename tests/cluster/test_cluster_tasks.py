"""Tasks of a cluster and sweeps, with a Ray that runs them here: deaths, stops, other versions."""

from __future__ import annotations

import tempfile
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
from agents.errors import ClusterError
from agents.ray_tasks import Cluster, run_tasks
from agents.runs.folder import RunFolder
from agents.stopping import Stopped, request_stop, stopping
from agents.sweep import brought, runs

RUN = {"algo": "ppo_lag", "env": "agents.toy:BudgetToy-v0", "timesteps": 256, "eval_episodes": 2}


def died(name="run_here"):
    """What happens to the first call of a name: its process dies."""
    left = [1]

    def happens(called, *given):
        if called == name and left:
            left.pop()
            raise fake_ray.exceptions.WorkerCrashedError

    return happens


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster that runs tasks here."""

    def make(**arguments):
        ray = fake_ray.FakeRay(**arguments)
        monkeypatch.setattr(ray_tasks, "connected", ray.connected)
        return ray

    return make


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
        list(run_tasks([lambda: pytest.fail("it ran")], Cluster(1)))


def test_versions_by_which_numbers_may_differ_are_told_once(cluster, monkeypatch):
    cluster()
    monkeypatch.setattr(ray_tasks, "versions", lambda names: {"node": "here", "numpy": "1.0"})
    with pytest.warns(UserWarning, match=r"has numpy .* it is 1\.0: numbers may differ") as told:
        assert [one.value for one in run_tasks([lambda: 1, lambda: 2], Cluster(1))] == [1, 2]
    assert len(told) == 1


def test_what_is_ready_when_a_stop_is_asked_for_is_given(cluster):
    cluster()
    with stopping():
        found = []
        for done in run_tasks([partial(int, n) for n in range(6)], Cluster(3)):
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


def test_a_task_that_died_is_told_of_before_the_next_try(cluster):
    told = []
    cluster(happens=died())
    done = list(run_tasks([lambda: len(told)], Cluster(1), told.append))
    assert (told, [one.value for one in done]) == ([0], [1])


# -- sweeps without shared storage -----------------------------------------------------------------


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """Machines do not see the sweep's folder; gives their folder for temporary files."""
    place = tmp_path / "far"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(runs, "_is_seen", lambda token: False)
    return place


def sweep_of(out):
    return list(runs.sweep(runs.sweep_runs(RUN), out, Cluster(1)))


def test_a_broken_run_is_brought_back_and_gone_on_with(cluster, apart, tmp_path, monkeypatch):
    cluster()
    out = tmp_path / "out"

    def breaks(config, path, trust):
        assert trust  # the folder is of this sweep
        RunFolder.create(path, config).checkpoint.touch()
        raise ZeroDivisionError("in the\nenvironment")

    monkeypatch.setattr(runs, "_trained", breaks)
    (broken,) = sweep_of(out)
    assert broken.words == "ZeroDivisionError: in the environment"
    assert RunFolder(out / broken.run.name).checkpoint.is_file()
    assert not list(apart.glob(".sweep-*"))

    def goes_on(config, path, trust):
        assert path.is_relative_to(apart)
        assert not trust  # it was there
        assert RunFolder(path).checkpoint.is_file()
        RunFolder(path).result.touch()
        return "done"

    monkeypatch.setattr(runs, "_trained", goes_on)
    (finished,) = sweep_of(out)
    assert finished.words == "done"
    assert RunFolder(out / broken.run.name).result.is_file()
    assert not list(apart.glob(".sweep-*"))
    assert [one.words for one in sweep_of(out)] == ["finished before"]


def test_a_run_whose_process_died_goes_on_elsewhere(cluster, apart, tmp_path, monkeypatch):
    tries = []

    def trained(config, path, trust):
        tries.append([file.name for file in path.glob("*")])
        if len(tries) == 1:
            path.mkdir()
            (path / "checkpoint.zip").write_text("half of it")
            raise fake_ray.exceptions.WorkerCrashedError
        return "done"

    monkeypatch.setattr(runs, "_trained", trained)
    monkeypatch.setattr(runs, "Exception", ValueError, raising=False)  # a death is none
    ray = cluster()
    (finished,) = sweep_of(tmp_path / "out")
    assert finished.words == "done"
    assert tries == [[], ["checkpoint.zip"]]
    assert ray.calls == ["run_here", "left_here", "run_here", "left_here"]
    assert not list(apart.glob(".sweep-*"))


def test_a_folder_that_is_brought_back_replaces_the_one_before(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, name in ((old, "result.json"), (new, "checkpoint.zip")):
        folder.mkdir()
        (folder / name).touch()
    brought.unpack(brought.taken(new), old)
    assert [file.name for file in old.iterdir()] == ["checkpoint.zip"]
    assert not new.exists()
    brought.unpack(brought.packed(new), old)
    assert [file.name for file in old.iterdir()] == ["checkpoint.zip"]


def test_versions_of_this_machine():
    found = ray_machines.versions(["numpy"])
    assert set(found) == {"node", "python", "numpy"}
    assert ray_machines.compared(found, {**found, "numpy": f"{found['numpy']}+cu9"}) == ("", [])
