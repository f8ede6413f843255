"""``prune-gym inspect --sensitivity``: of a network, and of a run by its first rows."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tiny
from rich.console import Console

from prune_gym import search
from prune_gym.cli.sensitivity import say_sensitivity, scan_of_rows, scan_of_run
from prune_gym.errors import RunFolderError
from prune_gym.searches.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A problem, and the folder of a search that began with its scan."""
    out = tmp_path_factory.mktemp("runs") / "run"
    problem = tiny.make_tiny()
    search(problem, "evolution", evaluations=40, out=out)
    return problem, out


def test_the_scan_of_a_run_is_that_of_its_problem(run):
    problem, out = run
    folder, config = RunFolder.open(out)
    found = scan_of_rows(folder.read_episodes(), config.groups)
    expected = problem.sensitivity
    assert found.names == expected.names
    assert found.evaluations == expected.evaluations
    assert found.unpruned == pytest.approx(expected.unpruned)
    for one, other in zip(found.counts, expected.counts, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found.rewards, expected.rewards, strict=True):
        np.testing.assert_allclose(one, other)


def test_a_run_prints_its_scan(run):
    _, out = run
    console = Console(file=io.StringIO(), width=100)
    say_sensitivity(scan_of_run(out), console)
    text = console.file.getvalue()
    assert "what the reward loses where one group alone" in text
    assert "networks were judged" in text


def test_a_run_without_a_scan_says_so(tmp_path):
    search(tiny.make_tiny(), "random", evaluations=4, out=tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"began with no sensitivity scan; prune-gym inspect"):
        scan_of_run(tmp_path / "run")


def rows_of(*counts, names=("a", "b"), size=4):
    return [
        {
            "accuracy": "0.5",
            **{f"kept_{name}": str(n / size) for name, n in zip(names, row, strict=True)},
        }
        for row in counts
    ]


def test_what_is_no_scan():
    groups = {"a": 4, "b": 4}
    assert scan_of_rows([], groups) is None
    assert scan_of_rows(rows_of((4, 4)), groups) is None  # nothing was cut
    assert scan_of_rows(rows_of((2, 4), (4, 4)), groups) is None
    assert scan_of_rows(rows_of((4, 4), (2, 2)), groups) is None
    assert scan_of_rows(rows_of((4, 4), (1, 4)), {}) is None
    found = scan_of_rows(rows_of((4, 4), (1, 4), (2, 4), (4, 1), (4, 1), (3, 3)), groups)
    assert [own.tolist() for own in found.counts] == [[1, 2], [1]]
