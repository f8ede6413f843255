"""A tiny table that many tests share."""

from __future__ import annotations

import pytest

import prune_gym
from prune_gym.tables.make import make_table
from prune_gym.tables.problem import TabularProblem

LEVELS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="session")
def live(own_cache):
    """A VGG of three convolutions on random data, with two budgets."""
    import tiny

    return tiny.make_tiny(budgets={"params": 0.4, "macs": 0.5})


@pytest.fixture(scope="session")
def table(live):
    """Every network of three levels of it."""
    return make_table(live, LEVELS)


@pytest.fixture(scope="session")
def tabular(live, table) -> prune_gym.PruningProblem:
    """The same problem, looked up."""
    return TabularProblem.of(live, table)
