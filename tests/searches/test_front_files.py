"""What a killed search leaves: rows, front and masks that agree, whenever it was."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from prune_gym.errors import RunFolderError
from prune_gym.problem.archive import Front
from prune_gym.searches import front_files
from prune_gym.searches.front_files import FrontFiles
from prune_gym.searches.search import search


@pytest.fixture
def killed(tiny_problem, tmp_path, monkeypatch):
    """A run folder as it is when each network has been judged, the front long not saved."""
    monkeypatch.setattr(front_files, "SAVING_SHARE", 1e-9)

    def keep(progress):
        shutil.copytree(tmp_path / "run", tmp_path / f"killed-{progress.evaluations}")

    result = search(
        tiny_problem, "random", evaluations=14, out=tmp_path / "run", seed=3, on_progress=keep
    )
    assert not (tmp_path / "run" / "front.jsonl").exists()
    return tmp_path, result


def test_nothing_judged_is_lost(killed, tiny_problem):
    folder, whole = killed
    assert len((folder / "killed-14" / "front.jsonl").read_text().splitlines()) > 1
    for number in (1, 6, 14):
        run = folder / f"killed-{number}"
        saved = FrontFiles(run / "front.npz").read(number)
        again = search(tiny_problem, "random", evaluations=number, out=run, resume=True)
        np.testing.assert_array_equal(
            again.networks["accuracy"], whole.networks["accuracy"][:number]
        )
        expected = (
            search(tiny_problem, "random", evaluations=14, seed=3).front if number == 14 else None
        )
        assert [one.number for one in saved] == [one.number for one in again.front]
        if expected is not None:
            assert [one.number for one in again.front] == [one.number for one in expected]
            assert all((a.bits == b.bits).all() for a, b in zip(again.front, expected, strict=True))
        if again.feasible:
            rows = again.networks
            assert (
                tiny_problem.evaluate(again.masks).accuracy
                == rows["accuracy"][rows["feasible"]].max()
            )
        assert not (run / "front.jsonl").exists()


def test_a_network_whose_row_is_missing_does_not_count(killed, tiny_problem):
    """It is killed after masks and plan are written, before the row is."""
    folder, whole = killed
    run = folder / "killed-14"
    rows = (run / "episodes.csv").read_text().splitlines(keepends=True)
    (run / "episodes.csv").write_text("".join(rows[:7]))  # with its head
    again = search(tiny_problem, "random", evaluations=6, out=run, resume=True)
    assert max(one.number for one in again.front) <= 6
    best = whole.networks[:6]
    if again.feasible:
        expected = best["accuracy"][best["feasible"]].max()
        assert tiny_problem.evaluate(again.masks).accuracy == expected


def test_a_line_that_was_cut_off_is_left_out_and_a_damaged_one_is_named(killed):
    run = killed[0] / "killed-14"
    log = run / "front.jsonl"
    before = [one.number for one in FrontFiles(run / "front.npz").read(14)]
    with log.open("a") as file:
        file.write('{"number": 15, "accu')
    assert [one.number for one in FrontFiles(run / "front.npz").read(15)] == before
    row = json.loads(log.read_text().splitlines()[0])
    for name, value in (("bits", "A"), ("sizes", [10**12]), ("costs", 3), ("number", None)):
        log.write_text(json.dumps({**row, name: value}) + "\n")
        with pytest.raises(RunFolderError, match=r"front.jsonl is damaged \("):
            FrontFiles(run / "front.npz").read(14)


def test_a_front_that_is_nowhere_is_empty(tmp_path):
    assert len(FrontFiles(tmp_path / "front.npz").read(5)) == 0
    assert isinstance(FrontFiles(tmp_path / "front.npz").read(5), Front)


ROW = {"number": 9, "accuracy": 0.5, "costs": {"params": 0.1}, "sizes": [8], "bits": "/w=="}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": float("nan")}, "accuracy is nan"),
        ({"costs": {"params": -1.0}}, "costs.params is -1.0"),
        ({"costs": {"\x1b[2J": 0.1}}, "control characters"),
        ({"costs": {}}, "costs is {}"),
        ({"number": "9"}, "number is '9'"),
        ({"sizes": [8.5]}, "sizes"),
        ({"sizes": [10**14]}, "bytes of masks"),
        ({"bits": "AA=="}, "keeps nothing of a filter group"),
        ({"bits": "?"}, "damaged"),
        ({"more": 1}, "more is a key that does not belong"),
    ],
)
def test_networks_of_the_log_are_checked(tmp_path, change, message):
    log = tmp_path / "front.jsonl"
    log.write_text(json.dumps({**ROW, **change}) + "\n")
    with pytest.raises(RunFolderError, match=r"front.jsonl is damaged") as error:
        FrontFiles(tmp_path / "front.npz").read(10)
    assert message in str(error.value)
    assert str(error.value).isprintable()


def test_networks_of_the_log_are_of_one_search(tmp_path):
    rows = (ROW, {**ROW, "number": 10, "costs": {"macs": 0.1}})
    (tmp_path / "front.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunFolderError, match="network 10 has other groups or costs"):
        FrontFiles(tmp_path / "front.npz").read(10)


@pytest.mark.parametrize("content", [b"[" * 100_000 + b"\n", b"null\n", b"\xff\n"])
def test_a_log_that_holds_something_else(tmp_path, content):
    (tmp_path / "front.jsonl").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"front.jsonl is damaged"):
        FrontFiles(tmp_path / "front.npz").read(10)


def test_a_log_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "front.jsonl").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunFolderError, match="more than 536,870,912 bytes"):
        FrontFiles(tmp_path / "front.npz").read(10)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", ["front.npz", "front.jsonl"])
def test_a_pipe_in_the_place_of_the_front(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunFolderError, match=rf"{name} is no file"):
        FrontFiles(tmp_path / "front.npz").read(10)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_the_log_is_not_written_through_a_link(tmp_path):
    target, log = tmp_path / "target", tmp_path / "front.jsonl"
    target.write_text("theirs\n")
    log.symlink_to(target)
    front = Front()
    front.add(1, 0.5, {"params": 0.1}, (np.ones(8, dtype=np.bool_),))
    FrontFiles(tmp_path / "front.npz").note(front, 1)
    assert target.read_text() == "theirs\n"
    assert not log.is_symlink()
    assert '"number": 1' in log.read_text()
