"""What is no value at all, for arguments of make_problem: an error that names the argument."""

from __future__ import annotations

import pytest

from prune_gym import PruneGymError, load_pruned, make_problem, search

NONSENSE = [{"params": 0.1}, {1, 2}, 1.5, 10**47, b"x", object()]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("name", ["network", "dataset", "ignore", "device", "criterion"])
def test_errors_name_the_argument(name, value):
    with pytest.raises(PruneGymError, match=rf"{name}\b") as caught:
        make_problem(**{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("ignore", [None, "classifier", ["classifier", 3]], ids=repr)
def test_ignore_is_a_list_of_names(ignore):
    with pytest.raises(TypeError, match=r"ignore=.*: expected a list of layer names, e\.g\. \["):
        make_problem(ignore=ignore)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("algo", [], r"unknown algorithm \[\]"),
        ("granularity", {}, r"unknown granularity \{\}"),
        ("out", {"params": None}, r"\{'params': None\} is no path; give a text"),
        ("on_progress", 5, r"on_progress=5: expected a function of a Progress"),
    ],
)
def test_search(tiny_problem, name, value, words):
    with pytest.raises(PruneGymError, match=words):
        search(tiny_problem, **{"algo": "random", "evaluations": 2, name: value})


def test_load_pruned():
    with pytest.raises(PruneGymError, match=r"None is no path; give a text or a pathlib\.Path"):
        load_pruned(None)
