"""What is no value at all, for arguments of make_problem: an error that names the argument."""

from __future__ import annotations

import pytest

from prune_gym import PruneGymError, make_problem

NONSENSE = [{"params": 0.1}, {1, 2}, -1, 1.5, 10**47, b"x", object()]


@pytest.mark.parametrize("value", NONSENSE, ids=str)
@pytest.mark.parametrize("name", ["network", "dataset", "ignore", "device", "criterion"])
def test_errors_name_the_argument(name, value):
    with pytest.raises(PruneGymError, match=rf"{name}\b") as caught:
        make_problem(**{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("ignore", [None, "classifier", ["classifier", 3]])
def test_ignore_is_a_list_of_names(ignore):
    with pytest.raises(TypeError, match=r"ignore=.*: expected a list of layer names, e\.g\. \["):
        make_problem(ignore=ignore)
