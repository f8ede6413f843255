"""The benchmark: one line for any algorithm, every evaluation counted.

``python -m agents.benchmark mymodule:train`` on the command line, ``agents.benchmark(train)`` in
Python: this package can be called, and is then `agents.benchmark.whole.benchmark`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agents.lazy import lazy_names

if TYPE_CHECKING:
    from agents.benchmark.environments import MakeEnv
    from agents.benchmark.ledger import EvaluationsSpent, Judged
    from agents.benchmark.policies import Plan
    from agents.benchmark.rows import read_row, read_rows
    from agents.benchmark.suite import Reference, Suite, Task, load_suite
    from agents.benchmark.whole import benchmark

__all__ = [
    "EvaluationsSpent",
    "Judged",
    "MakeEnv",
    "Plan",
    "Reference",
    "Suite",
    "Task",
    "benchmark",
    "load_suite",
    "read_row",
    "read_rows",
]

_HOME = {
    "EvaluationsSpent": "ledger",
    "Judged": "ledger",
    "MakeEnv": "environments",
    "Plan": "policies",
    "Reference": "suite",
    "Suite": "suite",
    "Task": "suite",
    "benchmark": "whole",
    "load_suite": "suite",
    "read_row": "rows",
    "read_rows": "rows",
}


__getattr__, __dir__ = lazy_names(__name__, {name: f".{home}" for name, home in _HOME.items()})


class _Callable(ModuleType):
    """A package that is called as its main function: ``agents.benchmark(train)``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.benchmark(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
