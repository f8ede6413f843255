"""Files that are whole or not there, and what is said where they cannot be written."""

from __future__ import annotations

import errno

import pytest

from prune_gym.errors import CheckpointError, FileError, PruneGymError
from prune_gym.utils.files import check_writable, reading, replacing


def test_a_folder_that_is_missing_is_made(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_what_the_system_refuses_is_a_user_error(tmp_path):
    with (
        pytest.raises(FileError, match=r"^.*x.txt cannot be written: No space left") as caught,
        replacing(tmp_path / "x.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, PruneGymError)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(FileError, match=r"file.x.txt cannot be written: "),
        replacing(tmp_path / "file" / "x.txt"),
    ):
        pytest.fail("there is no place for it")
    with pytest.raises(NotADirectoryError, match="is no folder; give another"):
        check_writable(tmp_path / "file" / "x.txt")
    with pytest.raises(IsADirectoryError, match="is a folder; give a file") as caught:
        check_writable(tmp_path)
    assert isinstance(caught.value, FileError)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError, match="a bug"), replacing(tmp_path / "x.txt"):
        raise KeyError("a bug")


@pytest.mark.parametrize("error", [OSError("input/output error"), KeyError("step")])
def test_a_file_that_cannot_be_taken_up(error):
    with (
        pytest.raises(CheckpointError, match=r"x is damaged .*(error|step).*delete it to start"),
        reading("x", CheckpointError),
    ):
        raise error
