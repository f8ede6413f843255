"""Validation at the environments' door; every error names the argument, the value and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.problem.make import shared_problem
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.sharing import SharedProblem
from prune_gym.utils.registry import suggest, unknown_name
from prune_gym.utils.threads import pin_worker

SCHEDULED = ("max_ratio", "recovery_steps", "limit")


def resolve_problem(problem: Any, arguments: dict[str, Any]) -> PruningProblem:
    """The problem given (or shared by another process), or the one that the arguments describe."""
    pin_worker()
    if problem is None:
        return shared_problem(**arguments)
    if isinstance(problem, SharedProblem):
        problem = problem.open()
    if not isinstance(problem, PruningProblem):
        raise InvalidTypeError(
            f"problem={problem!r}: expected a PruningProblem; build one with make_problem()."
        )
    if arguments:
        raise InvalidValueError(
            f"problem is given, so {', '.join(arguments)} cannot be; say it to make_problem()."
        )
    return problem


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise unknown_name(name, value, [str(choice) for choice in allowed])


def check_structure(problem: PruningProblem, granularity: str, structures: Sequence[str]) -> None:
    """Raise where a granularity has no meaning for the problem's structure."""
    if problem.structure not in structures:
        raise InvalidValueError(
            f"structure={problem.structure!r} does not go with granularity={granularity!r}; use "
            f"structure={' or '.join(structures)}."
        )


def check_dense(problem: PruningProblem, cost_mode: str) -> None:
    """Raise where a dense cost is asked for a budget that is not known to be monotone."""
    unknown = [budget for budget in problem.budgets if not budget.monotone]
    if cost_mode == "dense" and unknown:
        noise = ", and by noise a smaller network can cost more here"
        raise InvalidValueError(
            f"cost_mode='dense' with budget {unknown[0].name!r}: the dense cost is the growth of a "
            "floor, which holds for monotone budgets only"
            f"{'' if unknown[0].is_deterministic else noise}. Use cost_mode='terminal'; a budget "
            "of yours that never rises can be declared: Budget(..., monotone=True)."
        )


def check_schedule(settings: dict[str, Any]) -> None:
    """Raise for an unknown option, or a value that is not allowed."""
    for name, value in settings.items():
        if name not in SCHEDULED:
            raise InvalidValueError(
                f"unknown option {name!r}.{suggest(name, list(SCHEDULED))} "
                f"Known: {', '.join(SCHEDULED)}."
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name == "max_ratio" and not (number and 0.0 < value <= 1.0):
            raise InvalidValueError(f"max_ratio={value!r} must be a number in (0, 1].")
        if name == "recovery_steps" and not (number and isinstance(value, int) and value >= 0):
            raise InvalidValueError(f"recovery_steps={value!r} must be a whole number, 0 or above.")


def check_action(action: Any, shape: tuple[int, ...] | None) -> NDArray[np.float32]:
    """The action as float32 within [-1, 1]; raises for a wrong shape or values not finite."""
    try:
        array = np.asarray(action, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"action {action!r} is no array of numbers: {error}") from error
    if array.shape != shape:
        raise InvalidValueError(f"action has shape {array.shape}; this environment takes {shape}.")
    if not np.isfinite(array).all():
        raise InvalidValueError("action holds NaN or infinity; give numbers in [-1, 1].")
    return np.clip(array, -1.0, 1.0)
