"""Checks of arguments that many functions take."""

from __future__ import annotations

import numbers
from typing import Any

from prune_gym.errors import InvalidValueError


def whole_number(name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``; raises InvalidValueError for anything else.

    >>> whole_number("threads", 2, 1)
    2
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InvalidValueError(f"{name}={value!r} must be a whole number of at least {least}.")
    return int(value)


def check_share(name: str, value: Any) -> float:
    """A number in [0, 1] (raises ValueError)."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0.0 <= float(value) <= 1.0:
        raise InvalidValueError(f"{name}={value!r} must be a number in [0, 1].")
    return float(value)
