"""Files that are whole or not there."""

from __future__ import annotations

import json
import math

import pytest

from agents.errors import FileError, RunFolderError
from agents.files import (
    check_writable,
    fact_in,
    make_folder,
    read_json,
    reading,
    replacing,
    write_json,
)


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


def test_facts(tmp_path):
    path = tmp_path / "x.json"
    assert fact_in(path, "a") is None
    write_json(path, {"a": 3})
    assert (fact_in(path, "a"), fact_in(path, "b")) == (3, None)


def test_what_goes_wrong_with_content_is_the_fault_of_the_file():
    words = r"x\.npz is damaged or of another version \('a'\)"
    with pytest.raises(RunFolderError, match=words), reading("x.npz", RunFolderError):
        {}["a"]


def test_what_cannot_be_written_is_said_beforehand(tmp_path):
    check_writable(tmp_path / "new" / "folder" / "x.pt")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(IsADirectoryError, match=r"is a folder; give a file"):
        check_writable(tmp_path)
    with pytest.raises(NotADirectoryError, match=r"file is no folder; give another"):
        check_writable(tmp_path / "file" / "x.pt")
    with pytest.raises(FileError, match=r"cannot be written \(Not a directory\); give another"):
        make_folder(tmp_path / "file" / "x")
    assert make_folder(tmp_path / "a" / "b").is_dir()
    with pytest.raises(FileError, match=r"takes no file"):
        check_writable("/proc/x.pt")
