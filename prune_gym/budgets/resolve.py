"""`as_budget`: a budget from whatever a user names it by."""

from __future__ import annotations

from prune_gym.budgets.base import BUDGETS, Budget, Measure
from prune_gym.budgets.command import is_command, parse_command
from prune_gym.errors import InvalidTypeError


def as_budget(budget: str | Budget | Measure) -> Budget:
    """A budget from its name, ``"module:function"``, ``"command:..."``, a callable, or itself.

    Raises:
        UnknownNameError: no such name, or nothing to import.
        BudgetError: a command that is not there.
        TypeError: something that is no budget.
    """
    if isinstance(budget, Budget):
        return budget
    if isinstance(budget, str):
        if is_command(budget):
            return parse_command(budget)
        found = BUDGETS.get(budget)
        if budget in BUDGETS:
            made: Budget = found()
            return made
        return found if isinstance(found, Budget) else Budget(budget, found)
    if callable(budget):
        name = getattr(budget, "__name__", type(budget).__name__)
        return Budget("custom" if name == "<lambda>" else name, budget)
    raise InvalidTypeError(
        f"budget {budget!r}: expected one of {', '.join(BUDGETS)}, 'module:function', "
        "'command:PROGRAM {onnx}', a callable (network) -> number, or a Budget."
    )
