"""Locks of run folders: one process at a time, and who it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from agents.errors import FileError, RunFolderError
from agents.locking import LOCK, locked, locked_folder
from agents.runs.folder import RunFolder


def in_a_thread(work):
    """What a function raises in a thread of its own, in words."""
    raised = []

    def run():
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def hold(path):
    with locked_folder(path):
        pass


def test_the_holder_is_named(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with locked_folder(run):
        (error,) = in_a_thread(lambda: hold(run))
        with locked_folder(run):  # the thread holds it already
            pass
        assert len(in_a_thread(lambda: hold(run))) == 1
    assert isinstance(error, RunFolderError)
    words = str(error)
    assert words.startswith(f"{run} is in use by process {os.getpid()} (this process) on ")
    assert " since 2" in words
    assert "\n" not in words
    assert in_a_thread(lambda: hold(run)) == []
    assert list(run.iterdir()) == []


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time\nfrom agents.locking import locked_folder\n"
        "with locked_folder(sys.argv[1]):\n print('held', flush=True)\n time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=f"is in use by process {process.pid} on "):
            hold(tmp_path)
        process.kill()
    RunFolder.check_free(tmp_path)  # what the lock left behind is in nobody's way
    hold(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_made_for_nothing_go_away(tmp_path):
    with pytest.raises(ValueError, match="no"), locked_folder(tmp_path / "a" / "b"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept"]


def test_a_damaged_note_of_the_holder(tmp_path):
    with locked(tmp_path / "x.lock", "x"):
        (tmp_path / "x.lock.json").write_text("{")
        (error,) = in_a_thread(lambda: locked(tmp_path / "x.lock", "x").__enter__())
    assert str(error) == "x is in use by another process. Wait for its end, or stop it."


def test_a_note_of_the_holder_moves_no_cursor(tmp_path):
    who = {"pid": 1, "host": "\x1b[2J", "since": "now", "command": "\x1b[31mprune"}
    with locked(tmp_path / "x.lock", "x"):
        (tmp_path / "x.lock.json").write_text(json.dumps(who))
        (error,) = in_a_thread(lambda: locked(tmp_path / "x.lock", "x").__enter__())
    assert "in use by process 1 on" in str(error)
    assert str(error).isprintable()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    hold(tmp_path / "file")  # whoever wants a folder says so
    with pytest.raises(FileError, match="file/run cannot be written"):
        hold(tmp_path / "file" / "run")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def acquire(self):
        raise NotImplementedError("no flock")

    monkeypatch.setattr("agents.locking.FileLock.acquire", acquire)
    with (
        pytest.warns(RuntimeWarning, match="has no locks .no flock.: take care that no second"),
        locked_folder(tmp_path),
    ):
        assert not (tmp_path / f"{LOCK}.json").exists()
