"""Networks by what an environment decided: how a network is known again, and its test accuracy.

The environments of a suite have the attribute ``problem``, and on it either ``table`` (every
network of a grid) or ``data``, ``compact``, ``recover`` and ``accuracy``. Others have no test
split, and their networks none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np


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


def table_digest(problem: Any) -> str | None:
    """16 digits that stand for what a table says of its networks; None without a table."""
    table = getattr(problem, "table", None)
    if table is None:
        return None
    found = sha256(repr(table.levels).encode())
    found.update(np.ascontiguousarray(table.right).astype("<u2").tobytes())
    for name in sorted(table.measured):
        found.update(name.encode() + np.ascontiguousarray(table.measured[name]).tobytes())
    return found.hexdigest()[:16]
