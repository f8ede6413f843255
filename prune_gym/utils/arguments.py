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
