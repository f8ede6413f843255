"""Checks of arguments that many functions take."""

from __future__ import annotations

import numbers
from typing import Any

from prune_gym.errors import InvalidValueError

MOST_TIMESTEPS = 1_000_000_000
MOST_EVALUATIONS = 10_000_000
MOST_CANDIDATES = 10_000  # that are fine-tuned
MOST_STEPS = 10_000_000  # of an optimizer
MOST_EPOCHS = 100_000
MOST_IMAGES = 1_000_000_000  # in a split
MOST_BATCH = 1_000_000  # images a step
MOST_FILTERS = 1_000_000  # in a filter group
MOST_ENVS = 65_536
MOST_THREADS = 4_096
MOST_WORKERS = 4_096  # processes of a cluster
MOST_ROUNDS = 100  # of searching and fine-tuning
MOST_SEED = 2**31 - 1  # what numpy, torch and the agents all take, with room for sums
LEARNING_RATES = (1e-9, 100.0)


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number of at least ``least``, and at most ``most`` where that is given.

    Raises:
        InvalidValueError: anything else.

    >>> whole_number("threads", 2, 1)
    2
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        words = f"at least {least}" if most is None else f"at least {least} and at most {most:,}"
        raise InvalidValueError(f"{name}={shown(value)} must be a whole number of {words}.")
    return int(value)


def real_number(name: str, value: Any, least: float, most: float) -> float:
    """A number in [least, most] (raises InvalidValueError).

    >>> real_number("learning_rate", 0.1, 1e-9, 100.0)
    0.1
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not least <= value <= most:
        raise InvalidValueError(
            f"{name}={shown(value)} must be a number of at least {least:g} and at most {most:g}."
        )
    return float(value)


def check_share(name: str, value: Any) -> float:
    """A number in [0, 1] (raises ValueError)."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 1.0:
        raise InvalidValueError(f"{name}={shown(value)} must be a number in [0, 1].")
    return float(value)


def check_decay(name: str, value: Any) -> float:
    """A number in [0, 1) (raises ValueError)."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0.0 <= value < 1.0:
        raise InvalidValueError(f"{name}={shown(value)} must be a number of at least 0, below 1.")
    return float(value)


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
