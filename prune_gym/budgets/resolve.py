"""What budgets are named by: text of people, specs, callables; and how run folders hold it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, TypeVar

from prune_gym.budgets.base import BUDGETS, Budget, Measure
from prune_gym.budgets.command import CommandSpec
from prune_gym.errors import InvalidTypeError, InvalidValueError

T = TypeVar("T")

BudgetKey = str | CommandSpec  # a registered name, "module:function", or a program

# as older versions wrote programs: command[UNIT]@FOLDER:PROGRAM; FOLDER may begin with a drive
_OLD = re.compile(r"command(?:\[([^\]]*)\])?@((?:[A-Za-z]:(?=[\\/]))?[^:]*):(.*)", re.DOTALL)


def budget_key(text: str) -> BudgetKey:
    """What a budget's text stands for; that of a program gets its spec, and with it its folder.

    Raises:
        BudgetError: text of a program that is not of its form.
    """
    is_program = text.startswith(("command:", "command[", "command@"))
    return CommandSpec.parse(text) if is_program else text


def as_budget(budget: BudgetKey | Budget | Measure) -> Budget:
    """A budget from its name, ``"module:function"``, ``"command:..."``, a callable, or itself.

    Raises:
        UnknownNameError: no such name, or nothing to import.
        BudgetError: a command that is not there.
        TypeError: something that is no budget.
    """
    return _placed.get()(_resolved(budget))


@contextmanager
def placing(place: Callable[[Budget], Budget], run: Callable[..., Any]) -> Iterator[None]:
    """What `as_budget` gives in this block is passed through ``place``.

    So budgets of problems that are made within are measured on another machine.

    Args:
        place: gives a budget that is measured elsewhere, or the same one.
        run: calls a function of some arguments there; see `where_measured`.
    """
    tokens = _placed.set(place), _run.set(run)
    try:
        yield
    finally:
        _placed.reset(tokens[0])
        _run.reset(tokens[1])


def where_measured(function: Callable[..., T], *arguments: Any) -> T:
    """What a function gives on the machine that measures budgets: this one, mostly.

    Args:
        function: of a module, so that it can be pickled.
        arguments: of it.
    """
    found: T = _run.get()(function, *arguments)
    return found


def _here(budget: Budget) -> Budget:
    return budget


def _run_here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


_placed: ContextVar[Callable[[Budget], Budget]] = ContextVar("placed", default=_here)
_run: ContextVar[Callable[..., Any]] = ContextVar("run", default=_run_here)


def _resolved(budget: BudgetKey | Budget | Measure) -> Budget:
    if isinstance(budget, Budget):
        return budget
    key = budget_key(budget) if isinstance(budget, str) else budget
    if isinstance(key, CommandSpec):
        return key.budget()
    if isinstance(key, str):
        found = BUDGETS.get(key)
        if key in BUDGETS:
            made: Budget = found()
            return made
        return found if isinstance(found, Budget) else Budget(key, found)
    if callable(key):
        name = getattr(key, "__name__", type(key).__name__)
        return Budget("custom" if name == "<lambda>" else name, key)
    raise InvalidTypeError(
        f"budget {budget!r}: expected one of {', '.join(BUDGETS)}, 'module:function', "
        "'command:PROGRAM {onnx}', a callable (network) -> number, or a Budget."
    )


def budgets_to_json(budgets: Mapping[BudgetKey, Any]) -> dict[str, Any]:
    """Limits by budget as run folders hold them.

    A registered budget, or a ``"module:function"``, is its name: ``{"params": 0.1}``. A program is
    an object of its limit and the fields of its `CommandSpec`: ``{"measure": {"limit": "2ms",
    "command": "./measure.sh {onnx}", "folder": "/home/me", ...}}``.

    Args:
        budgets: limits, numbers or text, by key; no two programs of one name.
    """
    written: dict[str, Any] = {}
    for key, limit in budgets.items():
        if isinstance(key, CommandSpec):
            written[key.budget_name] = {"limit": limit, **asdict(key)}
        else:
            written[key] = limit
    return written


def budgets_from_json(written: Any) -> dict[BudgetKey, Any]:
    """The way back; programs as older versions wrote them are read as well.

    Raises:
        ValueError: it is none of these.
    """
    if not isinstance(written, Mapping):
        raise InvalidValueError(f"budgets={written!r}: expected limits by budget.")
    budgets: dict[BudgetKey, Any] = {}
    for name, held in written.items():
        if isinstance(held, Mapping):
            fields = {key: value for key, value in held.items() if key != "limit"}
            try:
                budgets[CommandSpec(**fields)] = held["limit"]
            except (KeyError, TypeError) as error:
                raise InvalidValueError(f"budgets: {name!r} is {held!r} ({error}).") from error
        elif old := _OLD.fullmatch(name):
            budgets[CommandSpec(old[3], old[2], unit=(old[1] or "").strip())] = held
        else:
            budgets[budget_key(name)] = held
    return budgets
