"""Checks of numbers that functions and commands take, and how a value is shown in an error."""

from __future__ import annotations

import numbers
from typing import Any

from agents.errors import InvalidValueError

MOST_TIMESTEPS = 1_000_000_000
MOST_SEED = 2**31 - 1  # what numpy, torch and the environments all take, with room for sums
MOST_EPISODES = 1_000_000
MOST_ENVS = 4_096
MOST_WORKERS = 4_096  # processes of a cluster
MOST_REPS = 1_000_000


def whole_number(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number in [least, most], or raise InvalidValueError.

    >>> whole_number("n_episodes", 20, 1, MOST_EPISODES)
    20
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise InvalidValueError(
            f"{name} is {shown(value)}; it must be at least {least:,} and at most {most:,}, a "
            "whole number."
        )
    return int(value)


def shown(value: object, longest: int = 60) -> str:
    """The ``repr`` of a value, short enough for one line of an error.

    >>> shown(10**5000)
    'an int of 16610 bits'
    """
    try:
        words = repr(value)
    except ValueError:  # Python writes no numbers of thousands of digits
        bits = value.bit_length() if isinstance(value, int) else 0
        return f"an {type(value).__name__} of {bits} bits"
    return words if len(words) <= longest else f"{words[: longest - 3]}..."
