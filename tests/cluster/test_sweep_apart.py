"""Sweeps on machines that do not see the sweep's folder: nothing is lost on the way back."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_ray
import pytest
from fake_ray import exceptions, first

from agents import BudgetToyEnv, PPOLagrangian, ray_tasks
from agents.errors import RunFolderError
from agents.locking import locked_folder
from agents.ray_tasks import Cluster
from agents.runs.checkpoint import Checkpoints
from agents.runs.folder import RunFolder
from agents.runs.training import Training
from agents.sweep import brought, report, runs

RUN = {"algo": "ppo_lag", "env": "agents.toy:BudgetToy-v0", "timesteps": 256, "eval_episodes": 2}
NAME = "algo=ppo_lag,seed=0"
BACK = ["fetched", "removed"]


@pytest.fixture
def ray(monkeypatch):
    """A cluster that runs tasks here."""
    made = fake_ray.FakeRay()
    monkeypatch.setattr(ray_tasks, "connected", made.connected)
    monkeypatch.setattr(runs, "node_here", lambda: "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


@pytest.fixture
def apart(monkeypatch, tmp_path):
    """Machines do not see the sweep's folder; gives their folder for temporary files."""
    place = tmp_path / "far"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(runs, "_is_seen", lambda token: False)
    return place


def sweep_of(out, grid=RUN, **options):
    return list(runs.sweep(runs.sweep_runs(grid), out, Cluster(1), **options))


def trains(monkeypatch, *tries):
    """What becomes of one try after another: functions of the run's folder and configuration."""
    left = list(tries)

    def trained(config, path, trust):
        return left.pop(0)(path, config)

    monkeypatch.setattr(runs, "_trained", trained)
    monkeypatch.setattr(runs, "Exception", ValueError, raising=False)  # a death is none


def ends(path, config):
    """It is finished."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        RunFolder.create(path, config)
    folder.result.touch()
    return "done"


def dies(path, config):
    """Half of it is done."""
    RunFolder.create(path, config).checkpoint.write_text("half of it")
    raise exceptions.WorkerCrashedError


def is_clean(*places):
    return not [one for place in places for one in place.glob(".sweep-*")]


def test_a_broken_run_is_brought_back_and_gone_on_with(ray, apart, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def breaks(config, path, trust):
        assert trust  # the folder is of this sweep
        RunFolder.create(path, config).checkpoint.touch()
        raise ZeroDivisionError("in the\nenvironment")

    monkeypatch.setattr(runs, "_trained", breaks)
    (broken,) = sweep_of(out)
    assert broken.words == f"machine {socket.gethostname()}: ZeroDivisionError: in the environment"
    assert RunFolder(out / NAME).checkpoint.is_file()
    assert is_clean(apart, out)

    def goes_on(config, path, trust):
        assert path.is_relative_to(apart)
        assert not trust  # it was there
        assert RunFolder(path).checkpoint.is_file()
        return ends(path, config)

    ray.calls.clear()
    monkeypatch.setattr(runs, "_trained", goes_on)
    assert [one.words for one in sweep_of(out)] == ["done"]
    # it is sent once a machine has said that it does not see the folder
    assert ray.calls == ["run_here", "run_here", *BACK, "tries_here"]
    assert RunFolder(out / NAME).result.is_file()
    assert is_clean(apart, out)
    assert [one.words for one in sweep_of(out)] == ["finished before"]


def test_runs_on_shared_storage_are_not_sent(ray, tmp_path, monkeypatch):
    def packed(path):
        assert not path.exists()
        return b""

    def breaks(path, config):
        RunFolder.create(path, config)
        raise ValueError

    monkeypatch.setattr(runs, "packed", packed)
    trains(monkeypatch, breaks, ends)
    found = [sweep_of(tmp_path)[0].is_finished for _ in range(3)]
    assert found == [False, True, True]
    assert ray.calls == ["run_here", "run_here"]
    assert [one.name for one in tmp_path.iterdir()] == [NAME]


def test_a_run_whose_process_died_goes_on_elsewhere(ray, apart, tmp_path, monkeypatch):
    def goes_on(path, config):
        assert RunFolder(path).checkpoint.read_text() == "half of it"
        return ends(path, config)

    trains(monkeypatch, dies, goes_on)
    assert [one.words for one in sweep_of(tmp_path / "out")] == ["done"]
    assert ray.calls == ["run_here", "tries_here", *BACK, "run_here", *BACK, "tries_here"]
    assert is_clean(apart, tmp_path / "out")


@pytest.mark.parametrize("is_late", [False, True])
def test_what_could_not_be_fetched_stays_where_it_is(ray, apart, tmp_path, monkeypatch, is_late):
    out = tmp_path / "out"
    trains(monkeypatch, ends)
    if is_late:
        ray.hangs, why = {"fetched"}, "no answer within 120 s"
    else:
        why = "ObjectStoreFullError"

        def happens(name, *given):
            if name == "fetched":
                raise exceptions.ObjectStoreFullError

        ray.happens = happens
    with pytest.warns(UserWarning, match=f"may hold runs .* the same command tries it.*{why}"):
        (outcome,) = sweep_of(out)
    assert not outcome.is_finished
    assert outcome.words.startswith("done; it is still on its machine, and could not be brought ba")
    assert why in outcome.words
    assert not (out / NAME).exists()
    assert len(list(apart.glob(".sweep-*/*/result.json"))) == 1
    assert len(ray.cancelled) == 2 * is_late
    ray.hangs, ray.happens = set(), lambda name, *given: None
    assert [one.words for one in sweep_of(out)] == ["finished before"]
    assert RunFolder(out / NAME).result.is_file()
    assert is_clean(apart, out)


def test_a_full_disk_here_loses_nothing_and_ends_no_other_run(ray, apart, tmp_path, monkeypatch):
    out, plain, left = tmp_path / "out", zipfile.ZipFile.extractall, [1, 1]
    grid = {**RUN, "seed": [0, 1]}

    def extractall(archive, path):
        if path.is_relative_to(out) and left and "large" in archive.namelist():
            left.pop()
            path.mkdir()
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(archive, path)

    def ends_large(path, config):
        words = ends(path, config)
        (path / "large").touch()
        return words

    monkeypatch.setattr(zipfile.ZipFile, "extractall", extractall)
    trains(monkeypatch, ends_large, ends)
    with pytest.warns(UserWarning, match="machines of the cluster may hold runs"):
        outcomes = sweep_of(out, grid)
    assert [one.is_finished for one in outcomes] == [False, True]
    assert "could not be brought back: seed=0: OSError: " in outcomes[0].words
    assert "No space left on device" in outcomes[0].words
    assert [one.name for one in out.iterdir() if not one.name.startswith(".")] == ["seed=1"]
    assert [one.words for one in sweep_of(out, grid)] == ["finished before"] * 2
    assert (out / "seed=0" / "large").is_file()
    assert is_clean(apart, out)


def test_a_full_disk_of_a_machine_is_named(ray, apart, tmp_path, monkeypatch):
    (tmp_path / "out" / NAME).mkdir(parents=True)
    (tmp_path / "out" / NAME / "any").touch()

    def unpack(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs, "unpack", unpack)
    (outcome,) = sweep_of(tmp_path / "out")
    assert outcome.words.startswith(f"machine {socket.gethostname()}: OSError: ")
    assert "No space left on device" in outcome.words
    assert (tmp_path / "out" / NAME / "any").is_file()


def test_a_machine_that_comes_back_overwrites_nothing(ray, apart, tmp_path, monkeypatch):
    out = tmp_path / "out"
    plain, happens = ray.nodes, first("tries_here", exceptions.NodeDiedError)

    def loses_the_machine(name, *given):  # the first try stays there
        lost = name == "tries_here"
        ray.nodes = lambda: [{**node, "Alive": not lost} for node in plain()]
        happens(name)

    ray.happens = loses_the_machine

    def begins_anew(path, config):
        assert not RunFolder(path).checkpoint.exists()
        return ends(path, config)

    trains(monkeypatch, dies, begins_anew)
    with pytest.warns(UserWarning, match="may hold runs that could not be brought back"):
        assert [one.words for one in sweep_of(out)] == ["done"]
    assert RunFolder(out / NAME).result.is_file()
    assert not RunFolder(out / NAME).checkpoint.exists()
    assert is_clean(apart, out)


@pytest.mark.parametrize("hanging", ["fetched", "tries_here"])
def test_a_run_that_a_machine_still_holds_is_not_trained_anew(
    ray, apart, tmp_path, monkeypatch, hanging
):
    out = tmp_path / "out"
    trains(monkeypatch, ends)  # once only
    ray.hangs = {"fetched"}
    with pytest.warns(UserWarning, match="may hold runs"):
        sweep_of(out)
    ray.hangs = {hanging}
    with pytest.warns(UserWarning, match="may hold runs"):
        (outcome,) = sweep_of(out)
    assert (outcome.words, outcome.is_finished) == (runs._HELD, False)
    ray.hangs = set()
    assert [one.words for one in sweep_of(out)] == ["finished before"]
    assert is_clean(apart, out)


def test_a_run_that_died_is_not_repeated_without_what_its_machine_holds(
    ray, apart, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    ray.happens = first("fetched", exceptions.ObjectStoreFullError)
    trains(monkeypatch, dies)  # once only
    with pytest.warns(UserWarning, match="may hold runs .*ObjectStoreFullError"):
        (outcome,) = sweep_of(out)
    assert outcome.words == f"its process died; {runs._HELD}"
    assert not outcome.is_finished
    assert RunFolder(out / NAME).checkpoint.read_text() == "half of it"  # at the end
    assert is_clean(apart, out)


def test_a_machine_that_cannot_run_the_package_holds_nothing(ray, apart, tmp_path, monkeypatch):
    ray.happens = first("tries_here", ModuleNotFoundError)
    trains(monkeypatch, dies, ends)
    with pytest.warns(UserWarning, match="may hold runs"):
        assert [one.words for one in sweep_of(tmp_path / "out")] == ["done"]


def test_what_a_sweep_that_was_killed_left_is_brought_back(ray, apart, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    killed = brought.Tries(out)
    here = apart / killed.folder.name
    (run,) = runs.sweep_runs(RUN)
    for name in ("an older try", killed.begin(NAME), f"{killed.last[NAME]}.partial"):
        RunFolder.create(here / name, run.config).checkpoint.write_text(name)

    def goes_on(path, config):
        assert RunFolder(path).checkpoint.read_text() == killed.last[NAME]
        assert path.parent == here
        return ends(path, config)

    trains(monkeypatch, goes_on)
    assert [one.words for one in sweep_of(out)] == ["done"]
    assert [one.name for one in out.iterdir()] == [NAME]
    assert is_clean(apart)


def test_a_cluster_that_is_lost_at_the_end_is_told_of(ray, apart, tmp_path, monkeypatch):
    def lost():
        raise exceptions.RaySystemError("the head is gone")

    def ends_and_is_lost(path, config):
        monkeypatch.setattr(ray, "nodes", lost)
        return ends(path, config)

    trains(monkeypatch, ends_and_is_lost)
    monkeypatch.setattr(ray_tasks.Place, "look", lambda place: None)
    with pytest.warns(UserWarning, match="may hold runs .*the head is gone"):
        assert [one.words for one in sweep_of(tmp_path / "out")] == ["done"]


@pytest.mark.parametrize("is_late", [False, True])
def test_one_try_at_a_time_is_fetched_of_a_machine(ray, apart, tmp_path, is_late):
    tries = brought.Tries(tmp_path)
    for run in runs.sweep_runs({**RUN, "seed": [0, 1, 2]}):
        RunFolder.create(apart / tries.folder.name / tries.begin(run.name), run.config)
    bringer = brought.Bringer(ray, tmp_path, tries)
    if is_late:
        ray.hangs = {"fetched"}
        with pytest.warns(UserWarning, match="no answer within 120 s"):
            assert bringer.collect() == {"seed=0", "seed=1", "seed=2"}
        assert len(ray.cancelled) == 1
    else:
        assert bringer.collect() == set()
        assert ray.calls == ["tries_here", *BACK * 3]
        assert not tries.last


def test_all_machines_are_asked_at_once(ray, tmp_path):
    ray.lent, ray.hangs = [{"CPU": 1.0}] * 5, {"tries_here"}
    bringer = brought.Bringer(ray, tmp_path, brought.Tries(tmp_path))
    with pytest.warns(UserWarning, match="no answer within 120 s"):
        bringer.collect()
    assert ray.waited == [5]
    assert len(ray.cancelled) == 5


def test_a_folder_that_is_brought_back_replaces_the_one_before(tmp_path):
    old, new, partial = (tmp_path / name for name in ("old", "new", "partial"))
    for folder, name in ((old, "episodes.csv"), (new, "checkpoint.zip")):
        folder.mkdir()
        (folder / name).touch()
    for content in (brought.packed(new), b""):
        brought.unpack(content, old, partial)
        assert [file.name for file in old.iterdir()] == ["checkpoint.zip"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


@pytest.mark.parametrize("kind", ["finished", "further", "in use"])
def test_what_is_further_or_in_use_here_is_not_replaced(ray, apart, tmp_path, monkeypatch, kind):
    out = tmp_path / "out"
    out.mkdir()
    tries = brought.Tries(out)
    (run,) = runs.sweep_runs(RUN)
    far = RunFolder.create(apart / tries.folder.name / tries.begin(NAME), run.config)
    here = RunFolder.create(out / NAME, run.config)  # of agents.train --resume, meanwhile
    for folder, steps in ((here, 2), (far, 2 if kind == "finished" else 1)):
        checkpoints = Checkpoints(folder.checkpoint)
        checkpoints.model = PPOLagrangian("MlpPolicy", BudgetToyEnv(), device="cpu")
        checkpoints.model.num_timesteps = steps
        checkpoints.save()
    if kind == "finished":
        here.result.touch()
    before = here.checkpoint.read_bytes()
    bringer = brought.Bringer(ray, out, tries)
    if kind != "in use":
        assert bringer.collect() == set()
        assert not far.path.exists()
        assert not tries.last
    else:
        with (
            locked_folder(here.path),
            ThreadPoolExecutor(1) as pool,
            pytest.warns(UserWarning, match="is in use by process"),
        ):
            assert pool.submit(bringer.collect).result() == {NAME}
        assert far.path.exists()
    assert here.checkpoint.read_bytes() == before


def test_a_folder_is_replaced_after_a_kill_and_stays_where_that_fails(tmp_path, monkeypatch):
    path, new, partial = (tmp_path / name for name in ("path", "new", "partial"))
    for folder in (path, new, tmp_path / "partial.old"):  # that of a process that was killed
        folder.mkdir()
        (folder / folder.name).touch()
    plain = Path.replace

    def replace(one, target):
        if one == partial:
            raise OSError(errno.EIO, "broken")
        return plain(one, target)

    content = brought.packed(new)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(OSError, match="broken"):
            brought.unpack(content, path, partial)
    assert [file.name for file in path.iterdir()] == ["path"]
    (tmp_path / "partial.old").mkdir()
    (tmp_path / "partial.old" / "any").touch()
    brought.unpack(content, path, partial)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new", "path"]


def test_what_was_here_before_a_kill_while_it_was_replaced_is_here_again(tmp_path):
    tries = brought.Tries(tmp_path)
    (tries.folder / f"{tries.begin(NAME)}.old").mkdir()
    brought.Tries(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [tries.folder.name, NAME]


@pytest.mark.parametrize("is_here", [False, True])
def test_a_run_that_comes_back_empty_is_not_finished(ray, apart, tmp_path, monkeypatch, is_here):
    def ends_and_is_gone(path, config):
        shutil.rmtree(path, ignore_errors=True)
        return "done"

    trains(monkeypatch, ends_and_is_gone)
    out = tmp_path / "out"
    if is_here:
        out.mkdir()
        (run,) = runs.sweep_runs({**RUN, "timesteps": 128})
        checkpoints = Checkpoints(RunFolder.create(out / NAME, run.config).checkpoint)
        checkpoints.model = PPOLagrangian("MlpPolicy", BudgetToyEnv(), device="cpu")
        checkpoints.save()
        RunFolder(out / NAME).result.touch()
    (outcome,) = sweep_of(out)
    assert not outcome.is_finished
    assert outcome.words.startswith("done; it came back without its result")
    assert is_clean(apart, out)


def test_a_run_whose_process_died_before_its_evaluation_goes_on(ray, tmp_path, monkeypatch):
    plain, left = Training._finish, [1]

    def finish(training, wall_s):
        if left:
            left.pop()
            raise exceptions.WorkerCrashedError
        return plain(training, wall_s)

    monkeypatch.setattr(Training, "_finish", finish)
    monkeypatch.setattr(runs, "Exception", ValueError, raising=False)
    (outcome,) = sweep_of(tmp_path, {**RUN, "timesteps": 64})  # a rollout is 256
    assert outcome.is_finished, outcome.words


def test_a_run_whose_process_died_once_it_was_finished_is_finished(ray, tmp_path, monkeypatch):
    plain, left = runs._trained, [1]

    def trained(config, path, trust):
        words = plain(config, path, trust)
        if left:
            left.pop()
            raise exceptions.WorkerCrashedError
        left.append(words)
        return words

    monkeypatch.setattr(runs, "_trained", trained)
    monkeypatch.setattr(runs, "Exception", ValueError, raising=False)
    (outcome,) = sweep_of(tmp_path, {**RUN, "timesteps": 64})
    assert outcome.is_finished, outcome.words
    assert outcome.words.startswith("2 episodes: return ")


def test_tries_in_a_folder_of_another_user_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = brought.new_place("token", "try").parent
    assert place.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(brought.os, "getuid", lambda: place.stat().st_uid + 1)
    with pytest.raises(OSError, match="is another user's: remove it"):
        brought.new_place("token", "try")


def test_one_sweep_at_a_time_works_in_a_folder(ray, tmp_path):
    with (
        locked_folder(tmp_path),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RunFolderError, match="is in use by process"),
    ):
        pool.submit(sweep_of, tmp_path).result()


def test_a_run_that_waits_is_not_shown_as_running(tmp_path):
    (run,) = runs.sweep_runs(RUN)
    table = report._Table([run], tmp_path)
    assert table._row(run)[1:] == ("waiting", "")
    episodes = RunFolder(tmp_path / NAME).episodes
    episodes.parent.mkdir()
    episodes.write_text("return\n1.0\n")
    assert table._row(run)[1:] == ("waiting", "1 episodes")
    table.start(NAME)
    assert table._row(run)[1:] == ("waiting", "1 episodes")
    episodes.write_text("return\n1.0\n2.0\n")
    assert table._row(run)[1:] == ("running", "2 episodes")


def test_a_run_is_told_of_before_it_is_handed_to_the_cluster(ray, tmp_path, monkeypatch):
    started = []
    trains(monkeypatch, lambda path, config: f"after {started}")
    (outcome,) = sweep_of(tmp_path, on_start=started.append)
    assert outcome.words == f"after {[NAME]}"


def test_a_run_that_took_more_steps_than_it_was_asked_for_is_finished(ray, tmp_path):
    assert [one.is_finished for one in sweep_of(tmp_path, {**RUN, "timesteps": 128})] == [True]
    (again,) = sweep_of(tmp_path, RUN)  # a rollout is 256
    assert (again.words, again.is_finished) == ("finished before", True)
    (longer,) = sweep_of(tmp_path, {**RUN, "timesteps": 257})
    assert longer.is_finished
    assert longer.words != "finished before"
