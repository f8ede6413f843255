"""The benchmark: one line for any algorithm, every evaluation counted.

``python -m agents.benchmark mymodule:train`` on the command line, ``agents.benchmark(train)`` in
Python: this package can be called, and is then `agents.benchmark.whole.benchmark`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Callable(ModuleType):
    """A package that is called as its main function: ``agents.benchmark(train)``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.benchmark(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
