"""Files that are whole or not there."""

from __future__ import annotations

import json
import math
import os

import pytest

from agents.errors import FileError, InvalidTypeError, RunFolderError
from agents.files import make_folder, read_json, replacing, user_path, write_json
from agents.logs import count_lines


def test_a_file_that_was_not_finished_replaces_nothing(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": math.nan, "b": [math.inf, 1.5], "c": (1, None)})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5],
        "c": [1, None],
    }
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"a": object()})
    assert read_json(path, RunFolderError)["c"] == [1, None]
    write_json(str(path), {"a": 1}, indent=None)
    assert path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", r"x\.json is not JSON"), ("[]", r"x\.json holds no keys"), (None, "cannot be read")],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RunFolderError, match=message):
        read_json(path, RunFolderError)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"cannot be written \(Not a directory\); give another"):
        make_folder(tmp_path / "file" / "x")
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_json_that_would_not_end(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"[" * 200_000)
    with pytest.raises(RunFolderError, match=r"x.json is not JSON"):
        read_json(path, RunFolderError)
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunFolderError, match="more than 16,777,216 bytes"):
        read_json(path, RunFolderError)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_json_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(RunFolderError, match="cannot be read: it is no file"):
        read_json(tmp_path / "x.json", RunFolderError)


def test_a_log_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "episodes.csv")
    with pytest.raises(FileError, match=r"episodes.csv is no file, but a folder, a pipe or a dev"):
        count_lines(tmp_path / "episodes.csv")
    assert count_lines(tmp_path / "missing.csv") == 0


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        (
            "a" * 300,
            FileError,
            r"a{40}\.\.\. cannot be written or read \(File name too long: 300",
        ),
        ("a\0b", FileError, r"a\\x00b cannot be written or read \(control characters"),
        (5, InvalidTypeError, r"5 is no path; give a text or a pathlib\.Path"),
        ({"params": 0.1}, InvalidTypeError, r"\{'params': 0\.1\} is no path"),
        (b"runs", InvalidTypeError, r"b'runs' is no path"),
    ],
)
def test_what_cannot_be_a_path(path, kind, words):
    with pytest.raises(kind, match=words):
        user_path(path)
