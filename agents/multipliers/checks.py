"""Checks of numbers that the multipliers share."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from agents.errors import InvalidValueError


def clip(value: float, upper_bound: float) -> float:
    """Return ``value`` held in [0, upper_bound]."""
    return min(max(value, 0.0), upper_bound)


def check_number(name: str, value: Any, *, low: float, exclusive: bool = False) -> None:
    """Raise unless ``value`` is a finite number >= ``low`` (> if ``exclusive``)."""
    number = float(value) if isinstance(value, Real) else math.nan
    if not (math.isfinite(number) and (number > low or (number == low and not exclusive))):
        allowed = f"{'>' if exclusive else '>='} {low:g}"
        raise InvalidValueError(f"{name} is {value!r}; it must be a finite number {allowed}.")


def check_range(initial: Any, upper_bound: Any) -> None:
    """Raise unless 0 <= initial <= upper_bound and upper_bound > 0."""
    if not isinstance(upper_bound, Real) or not float(upper_bound) > 0.0:
        raise InvalidValueError(
            f"upper_bound is {upper_bound!r}; it must be a number > 0. "
            "Leave it out for no bound at all."
        )
    check_number("initial", initial, low=0.0)
    if initial > upper_bound:
        raise InvalidValueError(
            f"initial is {initial!r}; it must be in [0, upper_bound] with upper_bound "
            f"{upper_bound!r}. Lower initial or raise upper_bound."
        )


def check_violation(violation: float) -> float:
    """Return ``violation`` if it is a finite number, or raise."""
    if not math.isfinite(violation):
        raise InvalidValueError(
            f"violation is {violation!r}; it must be a finite number: mean episodic cost minus "
            "limit, over the limit. Skip the update when no episode finished."
        )
    return float(violation)
