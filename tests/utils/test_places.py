"""Where files go: what is looked at before hours of work, links, full disks, killed writers."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents import files as plain
from agents.files import is_partial, remove_partials, replacing, write_json
from agents.logs import LineLog, keep_lines
from prune_gym.errors import FileError, RunFolderError
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.run_folder import RunFolder, how_to_go_on
from prune_gym.utils.files import check_place, check_writable, empty_folder, inner_folder

CONFIG = SearchConfig("PruneVGG-v0", "random", 8, 0, 0, {})


@pytest.fixture
def small_files():
    """No file may have more than 100 bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "dangling", "loop"])
def test_a_link_is_replaced_and_not_followed(tmp_path, kind):
    mine, path = tmp_path / "mine.json", tmp_path / "x.json"
    mine.write_text("mine")
    path.symlink_to({"link": mine, "dangling": tmp_path / "new", "loop": path}[kind])
    write_json(path, {"a": 1})
    assert not path.is_symlink()
    assert path.read_text().split() == ["{", '"a":', "1", "}"]
    assert mine.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["mine.json", "x.json"]


def test_a_log_that_is_a_link_becomes_a_file_with_the_same_lines(tmp_path):
    mine, path = tmp_path / "mine.csv", tmp_path / "x.csv"
    mine.write_text("a\n")
    path.symlink_to(mine)
    with LineLog(path) as log:
        log.add("b")
    assert (path.read_text(), mine.read_text(), path.is_symlink()) == ("a\nb\n", "a\n", False)
    path.unlink()
    os.link(mine, path)  # a copy of a run made of hard links
    with LineLog(path) as log:
        log.add("c")
    assert (path.read_text(), mine.read_text()) == ("a\nc\n", "a\n")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with LineLog(path) as log:
        log.add("d")
    assert path.read_text() == "d\n"
    assert not (tmp_path / "nowhere").exists()


def test_a_log_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(plain.FileError, match=r"pipe cannot be written: it is no file; move it"):
        LineLog(tmp_path / "pipe")
    with pytest.raises(plain.FileError, match=r"cannot be written: Is a directory"):
        LineLog(tmp_path)


def test_a_folder_may_be_a_link_but_none_within_a_run(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    folder = RunFolder.create(tmp_path / "run", CONFIG)
    assert (tmp_path / "disk" / "config.json").is_file()
    (folder.path / "pictures").symlink_to(tmp_path)
    assert not inner_folder(folder.path / "pictures").is_symlink()
    empty_folder(folder.path)
    assert os.listdir(tmp_path / "disk") == []
    assert (tmp_path / "run").is_symlink()


# -- full disks ------------------------------------------------------------------------------------


def test_a_line_is_there_or_nothing_of_it(tmp_path, small_files):
    path = tmp_path / "x.csv"
    with LineLog(path) as log:
        assert log.is_empty
        log.add("a" * 60)
        with pytest.raises(
            plain.FileError, match=r"x\.csv cannot be written: File too large\. What was .* whole; "
        ) as caught:
            log.add("b" * 60)
        log.add("c")
    assert path.read_text() == "a" * 60 + "\nc\n"
    assert caught.value.errno == errno.EFBIG


def test_a_line_after_one_that_was_cut_off(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("whole\nha")
    with LineLog(path) as log:
        log.add("next")
        log.add("two\r\nlines\r\n")
    assert path.read_bytes() == b"whole\nha\nnext\ntwo\r\nlines\r\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_what_is_safe(tmp_path, number):
    words = r"x cannot be written: .+\. What was written before is whole; free space and go on\.$"
    with pytest.raises(plain.FileError, match=words), replacing(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert plain.is_full(OSError(number, ""))
    assert not plain.is_full(OSError(errno.EACCES, ""))


def test_a_file_within_another_is_named_by_the_one_that_it_becomes(tmp_path, small_files):
    with (
        pytest.raises(plain.FileError, match=r"/x\.json cannot be written: File too large"),
        replacing(tmp_path / "x.json") as partial,
    ):
        write_json(partial, ["y" * 200])
    assert os.listdir(tmp_path) == []


def test_a_run_says_how_it_goes_on(tmp_path):
    folder = RunFolder(tmp_path)
    folder.episodes.write_text("episode\n1\n2\n")
    words = rf"^full\. 2 networks are recorded; then: prune-gym prune --resume {tmp_path}, or"
    with pytest.raises(FileError, match=words), how_to_go_on(folder):
        raise FileError(errno.ENOSPC, "full.")
    with pytest.raises(FileError, match=r"^full\.$"), how_to_go_on(None):
        raise FileError(errno.ENOSPC, "full.")


def test_files_that_are_cut_back_stay_whole(tmp_path, small_files):
    path = tmp_path / "x.csv"
    path.write_text("1\n2\n3\n")
    keep_lines(path, 2)
    assert path.read_text() == "1\n2\n"


# -- places ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file/run", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", r"a\\x00b cannot be written or read \(control characters"),
        ("a\nb", r"a\\nb cannot be written \(control characters"),
        ("/proc/nowhere/run", "No such file or directory"),
        ("loop/run", "Too many levels"),
        ("gone/run", "No such file"),
    ],
)
def test_places_that_cannot_be(tmp_path, place, words):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(FileError, match=words) as caught:
        RunFolder.check_free(tmp_path / place)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(FileError, match=r"cannot be written"):
        check_place(tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_drive_that_is_missing_ends_the_search_for_a_folder(monkeypatch):
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: open(Path("/nowhere/x")))  # noqa: SIM115
    with pytest.raises(FileError, match=r"takes no file \(No such file or directory\)"):
        check_place("/z/runs/1")


def test_names_as_long_as_they_may_be(tmp_path):
    path = tmp_path / ("ü" * 120 + "x" * 15)  # 255 bytes
    write_json(path, {})
    assert os.listdir(tmp_path) == [path.name]


def test_a_stray_file_is_named(tmp_path):
    for name in ("notes.txt", "a\nb", "c", "d"):
        (tmp_path / name).touch()
    words = r"holds other files; choose another folder, or move them away: a\\nb, c, d and 1 more\."
    with pytest.raises(RunFolderError, match=words):
        RunFolder.check_free(tmp_path)
    with pytest.raises(RunFolderError, match=r"holds other files.*: notes\.txt\.$"):
        RunFolder.check_free(tmp_path / "notes.txt")


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = RunFolder.create("~/run", CONFIG)
    assert folder.path == tmp_path / "run"
    assert RunFolder.open("~/run")[0] == folder
    with pytest.raises(FileError, match=r"x{40}\.\.\. .* \(File name too long: 300 "):
        RunFolder.open("x" * 300)


# -- what a killed process leaves ------------------------------------------------------------------

KILLED = """
import os, signal, sys
from agents.files import replacing
with replacing(sys.argv[1]) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_known_and_removed(tmp_path):
    path = tmp_path / "model.zip"
    done = subprocess.run([sys.executable, "-c", KILLED, path], cwd=Path(plain.__file__).parents[1])
    assert done.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    assert is_partial(left)
    assert not path.exists()
    (tmp_path / ".DS_Store").touch()
    alive = tmp_path / f".other.zip.{os.getppid()}-0123abcd.partial"  # somebody writes it now
    alive.touch()
    RunFolder.check_free(tmp_path)  # no other files
    check_writable(tmp_path / "state.zip")
    assert left in os.listdir(tmp_path)  # that was of another file
    RunFolder.create(tmp_path, CONFIG)
    assert left not in os.listdir(tmp_path)
    assert alive.exists()


def test_only_partial_files_of_that_name_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".{name}.{dead.pid}-0123abcd.partial" for name in ("x.zip", "y.zip")]
    mine = [".x.zip.1-0.partial", "x.partial", ".y.zip.12-0123abcd.partial.txt"]
    for name in (*names, *mine):
        (tmp_path / name).touch()
    check_writable(tmp_path / "x.zip")
    assert sorted(os.listdir(tmp_path)) == sorted([names[1], *mine])
    remove_partials(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(mine)
    remove_partials(tmp_path / "nowhere")


def test_a_partial_file_is_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda n: "0123abcd")
    trap = tmp_path / f".x.{os.getpid()}-0123abcd.partial"
    trap.symlink_to(tmp_path / "mine")
    with (
        pytest.raises(plain.FileError, match=r"x cannot be written: File exists"),
        replacing(tmp_path / "x"),
    ):
        pytest.fail("it would be written through the link")
    assert not (tmp_path / "mine").exists()


def test_names_are_shown_in_one_line():
    assert re.fullmatch(r"\S+", plain.shown("a\nb\x1b[1m\udcff"))
