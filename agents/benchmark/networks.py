"""Networks by what an environment decided: how a network is known again, and its test accuracy.

The environments of a suite have the attribute ``problem``, and on it either ``table`` (every
network of a grid) or ``data``, ``compact``, ``recover`` and ``accuracy``. Others have no test
split, and their networks none of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from typing import Any

import numpy as np

from agents.benchmark.suite import Suite
from agents.errors import BenchmarkError


def costs_of(env: Any, info: Mapping[str, Any]) -> dict[str, float]:
    """Costs of the finished network by budget, from an ended step's info; empty if not named.

    Args:
        env: The unwrapped environment.
        info: Of the step.
    """
    problem = getattr(env, "problem", None)
    if problem is None:
        return {}
    pairs = zip(problem.names, problem.unpruned_values, strict=True)
    return {name: float(info[name]) / float(unpruned) for name, unpruned in pairs}


def choice_of(env: Any, info: Mapping[str, Any]) -> Any:
    """What stands for the network that an environment just judged; None where nothing does.

    Args:
        env: The unwrapped environment.
        info: Of the step that ended the episode.
    """
    problem = getattr(env, "problem", None)
    if problem is None:
        return None
    if hasattr(problem, "table"):
        return tuple(np.rint(np.asarray(info["kept"]) * problem.sizes).astype(int).tolist())
    return tuple(env.last_masks())


def test_accuracy(problem: Any, choice: Any) -> float | None:
    """Accuracy on the test split; None where there is none.

    Args:
        problem: Of the environment.
        choice: As `choice_of` gave it.
    """
    if problem is None or choice is None:
        return None
    if hasattr(problem, "table"):
        found = problem.table.entry(problem.table.number(choice)).test_accuracy
        return None if found is None else float(found)
    if problem.data.test is None:
        return None
    network = problem.recover(problem.compact(choice))
    return float(problem.accuracy(network, problem.data.test))


def counts_of(choice: Any) -> list[int] | None:
    """Kept filters of each group of a network; None where nothing is known of it.

    Args:
        choice: As `choice_of` gave it: numbers, or masks.
    """
    return None if choice is None else [int(np.sum(one)) for one in choice]


def means_of(networks: Sequence[tuple[float, float | None]]) -> dict[str, float | None]:
    """Mean accuracies of networks, on the validation split and on the test split.

    Args:
        networks: Accuracies of each; None on a test split that is not there.
    """
    tests = [test for _, test in networks if test is not None]
    return {
        "accuracy": float(np.mean([accuracy for accuracy, _ in networks])),
        "test_accuracy": float(np.mean(tests)) if len(tests) == len(networks) else None,
    }


# -- tables ----------------------------------------------------------------------------------------


def table_of(suite: Suite, problem: Mapping[str, Any]) -> Any:
    """The table that holds all networks of one of a task's problems; None without one.

    Args:
        suite: With a ``table_loader``.
        problem: Arguments of the environment.

    Raises:
        BenchmarkError: The table holds other numbers than that of the suite.
    """
    name = problem.get("table")
    if name is None or not suite.table_loader:
        return None
    table, found = _loaded(suite.table_loader, str(name))
    check_digest(suite, str(name), found)
    return table


def check_digest(suite: Suite, name: str, found: str) -> None:
    """Raise a BenchmarkError where a table is another one than that of the suite.

    Args:
        suite: With the digests of its tables.
        name: Of the table.
        found: Its digest.
    """
    if found != suite.tables.get(name, found):
        raise BenchmarkError(
            f"table {name!r} holds other numbers ({found}) than those of {suite.protocol} "
            f"({suite.tables[name]}): scores would not compare. Install the version of this "
            "package that the suite came with."
        )


@lru_cache(maxsize=16)
def _loaded(loader: str, name: str) -> tuple[Any, str]:
    """Return a table and its digest."""
    module, _, function = loader.partition(":")
    table = getattr(import_module(module), function)(name)
    return table, table_digest(table)


def table_digest(table: Any) -> str:
    """16 digits that stand for what a table says of its networks."""
    found = sha256(repr(table.levels).encode())
    found.update(np.ascontiguousarray(table.right).astype("<u2").tobytes())
    for name in sorted(table.measured):
        found.update(name.encode() + np.ascontiguousarray(table.measured[name]).tobytes())
    return found.hexdigest()[:16]
