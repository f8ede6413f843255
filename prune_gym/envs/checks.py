"""Validation at the environments' door; every error names the argument, the value and the cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_gym.envs.episode import Schedule
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.problem.problem import PruningProblem
from prune_gym.utils.arguments import whole_number
from prune_gym.utils.registry import suggest, unknown_name

EXAMPLE_RANGE = (0.05, 0.4)  # the limit_range that messages suggest


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise unknown_name(name, value, [str(choice) for choice in allowed])


def check_flag(name: str, value: Any) -> bool:
    """The value, True or False; raises for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidTypeError(f"{name}={value!r}: expected True or False.")
    return bool(value)


def check_max_episode_steps(steps: Any) -> int | None:
    """Steps after which an episode is truncated; None where it never is, which -1 says, too."""
    if steps is None or steps == -1:
        return None
    return whole_number("max_episode_steps", steps, 1)


def check_structure(problem: PruningProblem, granularity: str, structures: Sequence[str]) -> None:
    """Raise where a granularity has no meaning for the problem's structure."""
    if problem.structure not in structures:
        raise InvalidValueError(
            f"structure={problem.structure!r} does not go with granularity={granularity!r}; use "
            f"structure={' or '.join(structures)}."
        )


def check_dense(problem: PruningProblem, cost_mode: str, granularity: str) -> None:
    """Raise where a dense cost is asked for, but the floor that it is the growth of could fall."""
    if cost_mode != "dense":
        return
    unknown = [budget for budget in problem.budgets if not budget.monotone]
    if unknown:
        noise = ", and by noise a smaller network can cost more here"
        raise InvalidValueError(
            f"cost_mode='dense' with budget {unknown[0].name!r}: the dense cost is the growth of a "
            "floor, which holds for monotone budgets only"
            f"{'' if unknown[0].is_deterministic else noise}. Use cost_mode='terminal'; a budget "
            "of yours that never rises can be declared: Budget(..., monotone=True)."
        )
    measured = [budget.name for budget in problem.budgets if budget.counted is None]
    if granularity == "filter" and measured:  # a decision may drop what the floor keeps
        raise InvalidValueError(
            f"cost_mode='dense' with granularity='filter' and budget {measured[0]!r}: it is "
            "measured, so it may depend on which filters stay, and the floor, which keeps the most "
            "important ones, can fall when others are chosen. Use granularity='layer', or "
            "cost_mode='terminal'."
        )


def check_schedule(settings: Mapping[str, Any]) -> None:
    """Raise for an unknown option, or a value that is not allowed."""
    known = list(Schedule.__annotations__)
    for name, value in settings.items():
        if name not in known:
            raise InvalidValueError(
                f"unknown option {name!r}.{suggest(name, known)} Known: {', '.join(known)}."
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name == "max_ratio" and not (number and 0.0 < value <= 1.0):
            raise InvalidValueError(f"max_ratio={value!r} must be a number in (0, 1].")
        if name == "recovery_steps" and not (number and isinstance(value, int) and value >= 0):
            raise InvalidValueError(f"recovery_steps={value!r} must be a whole number, 0 or above.")


def check_limit_range(limit_range: Any, problem: PruningProblem) -> tuple[float, float] | None:
    """Lowest and highest limit of an episode; None where the problem's limits always hold."""
    if limit_range is None:
        return None
    if len(problem.budgets) > 1:
        raise InvalidValueError(
            f"limit_range with {len(problem.budgets)} budgets ({', '.join(problem.names)}): one "
            "limit is drawn, so give one budget; or leave limit_range out."
        )
    is_pair = isinstance(limit_range, Sequence) and len(limit_range) == 2
    are_numbers = is_pair and all(map(_is_number, limit_range))
    if not are_numbers or not 0.0 < limit_range[0] < limit_range[1] <= 1.0:
        raise InvalidValueError(
            f"limit_range={limit_range!r}: expected the lowest and the highest limit, two numbers "
            f"0 < low < high <= 1, e.g. {EXAMPLE_RANGE}."
        )
    return float(limit_range[0]), float(limit_range[1])


def check_limit(limit: Any, limit_range: tuple[float, float] | None) -> None:
    """Raise unless an episode may have this limit; None stands for a drawn one."""
    if limit is None:
        return
    if limit_range is None:
        raise InvalidValueError(
            f"limit={limit!r}: the limits of this environment are those of its problem. Make one "
            f"whose limit may change from episode to episode: limit_range={EXAMPLE_RANGE}."
        )
    low, high = limit_range
    if not _is_number(limit) or not low <= limit <= high:
        raise InvalidValueError(
            f"limit={limit!r} must be a number in [{low:g}, {high:g}], this environment's "
            "limit_range."
        )


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


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # those of NumPy, too
