"""Limits as people write them: a fraction of the unpruned network, or an amount with a unit.

Bytes come in decimal units (KB = 1000, MB, GB) and in binary ones (KiB = 1024, MiB, GiB).
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from prune_gym.budgets.base import Budget
from prune_gym.errors import InvalidValueError
from prune_gym.utils.words import shortened

_KILO, _MEGA, _GIGA = 10**3, 10**6, 10**9
_PREFIXES = {"": 1, "K": _KILO, "k": _KILO, "M": _MEGA, "G": _GIGA}

# kind -> unit -> how many of the kind's smallest unit it is
UNITS: dict[str, dict[str, int]] = {
    "time": {"ns": 1, "us": _KILO, "µs": _KILO, "ms": _MEGA, "s": _GIGA},
    "number of bytes": {
        "B": 1,
        "bytes": 1,
        "KB": _KILO,
        "MB": _MEGA,
        "GB": _GIGA,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    },
    "energy": {
        "pJ": 1,
        "nJ": _KILO,
        "uJ": _MEGA,
        "µJ": _MEGA,
        "mJ": _GIGA,
        "J": 10**12,
    },
    "number of parameters": {"parameters": 1, "params": 1, **_PREFIXES},
    "number of MACs": {"MACs": 1, "macs": 1, **_PREFIXES},
}
_MOST = 10**300
_ANY_CASE = ("number of bytes",)  # kb, mib
_LIMIT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(\S.*)?")


@dataclass(frozen=True)
class Amount:
    """An absolute limit.

    Attributes:
        value: in the budget's unit.
        text: as it was written.
    """

    value: float
    text: str


Limit = float | Amount


def is_limit(text: str) -> bool:
    """Whether a text has the form of a limit: a number, maybe with a unit."""
    return _LIMIT.fullmatch(text.strip()) is not None


def parse_limit(given: Any, budget: Budget) -> Limit:
    """A limit from what the user gave.

    Args:
        given: a number in (0, 1], the fraction of the unpruned network's budget that may stay; or
            text: such a number, ``"20%"``, an amount with a unit (``"2ms"``, ``"500KB"``,
            ``"10M"``), or a number above 1, an amount in the budget's own unit (``"58000"``).
        budget: whose limit it is.

    Raises:
        ValueError: none of these, or a unit that does not fit the budget's.
    """
    share = given
    if isinstance(given, str):
        matched = _LIMIT.fullmatch(given.strip())
        if matched is None:
            raise _no_limit(given, budget)
        number, unit = _fraction(matched[1], given, budget), (matched[2] or "").strip()
        if unit == "%":
            share = number / 100
        elif unit or number > 1:
            exact = number * _factor(unit, given, budget)
            if not 0 < exact < _MOST:
                raise _no_limit(given, budget)
            value = float(exact)
            return Amount(value, given.strip())
        else:
            share = number
    is_number = isinstance(share, numbers.Real) and not isinstance(share, bool)
    if not is_number or not 0 < share <= 1 or not float(share) > 0:
        is_moderate = isinstance(share, Fraction) and abs(share) < _MOST
        raise _no_limit(float(share) if is_moderate else given, budget)
    return float(share)


def _fraction(digits: str, given: str, budget: Budget) -> Fraction:
    try:
        return Fraction(digits)
    except ValueError as error:  # thousands of digits
        raise _no_limit(given, budget) from error


def _no_limit(given: Any, budget: Budget) -> InvalidValueError:
    return InvalidValueError(
        f"budgets: the limit of {budget.name!r} is {shortened(given)}; it must be a number in "
        "(0, 1], the fraction of the unpruned network's budget that may stay, or text: an amount "
        f"such as {_example(budget)!r}, or '20%'."
    )


def _example(budget: Budget) -> str:
    amounts = {"time": "2ms", "number of bytes": "500KB", "energy": "3uJ"}
    return amounts.get(_kind(budget.unit), "10M" if _kind(budget.unit) else "1200")


def _kind(unit: str) -> str:
    """What a unit measures; empty where it is none of those known here."""
    return next((kind for kind, units in UNITS.items() if unit and unit in units), "")


def _counts(budget: Budget) -> bool:
    """Whether its numbers are whole: it counts, and is no ratio times a number."""
    kind = _kind(budget.unit)
    is_number = kind.startswith("number") and UNITS[kind][budget.unit] == 1
    return is_number and not budget.in_turns and budget.compare is None


def _factor(unit: str, given: str, budget: Budget) -> Fraction:
    """How many of the budget's own units one of the given unit is."""
    kind = _kind(budget.unit)
    if unit in ("", budget.unit):
        return Fraction(1)
    units = UNITS.get(kind, {})
    unit = unit.replace("\u03bc", "\u00b5")  # the Greek letter and the micro sign look alike
    if kind in _ANY_CASE:
        unit = next((known for known in units if known.lower() == unit.lower()), unit)
    if unit in units:
        return Fraction(units[unit], units[budget.unit])
    if not budget.unit and unit in _PREFIXES:
        return Fraction(_PREFIXES[unit])
    if not budget.unit:
        raise InvalidValueError(
            f"budgets: {budget.name} has no unit, so {shortened(given)} cannot be compared with "
            "it; write the number alone (above 1), or give the budget a unit: "
            "Budget(..., unit='ms'), 'command[ms]:PROGRAM {onnx}'."
        )
    fitting = ", ".join(name for name in (units or {budget.unit: 1}) if name)
    article = "an" if kind == "energy" else "a"
    raise InvalidValueError(
        f"budgets: {budget.name} is in {budget.unit}; {shortened(given)} is not {article} "
        f"{kind or 'number of ' + budget.unit}. Units that fit: {fitting}."
    )


def relative(limit: Limit, unpruned_value: float, budget: Budget) -> float:
    """A limit as a fraction of the unpruned network's budget, in (0, 1].

    A network whose cost (its value / ``unpruned_value``) is within it has a value of at most the
    amount, exactly: where rounding would let the next larger value in, the fraction is the next
    smaller one. (Whole numbers are never so close.)

    Raises:
        ValueError: the unpruned network already meets the amount.
    """
    if not isinstance(limit, Amount):
        return limit
    if limit.value > unpruned_value:
        raise InvalidValueError(
            f"budgets: the limit of {budget.name!r} is {limit.text}, and the unpruned network "
            f"already meets it: {amount(unpruned_value, budget.unit)}. Leave this budget out, or "
            "choose a smaller limit ('50%' is half)."
        )
    fraction = limit.value / unpruned_value
    if _counts(budget):
        return fraction
    above = math.nextafter(limit.value, math.inf)
    return math.nextafter(fraction, 0.0) if above / unpruned_value <= fraction else fraction


def fractions(
    budgets: Sequence[Budget], limits: Sequence[Limit], unpruned_values: Iterable[float]
) -> tuple[float, ...]:
    """`relative` of several budgets."""
    rows = zip(budgets, limits, unpruned_values, strict=True)
    return tuple(relative(limit, float(unpruned), budget) for budget, limit, unpruned in rows)


def over_limits(
    budgets: Sequence[Budget],
    limits: Sequence[float],
    floors: Iterable[float],
    unpruned_values: Iterable[float],
) -> list[str]:
    """Words for every limit that lies below its floor, both as fraction and in the unit."""
    rows = zip(budgets, limits, floors, unpruned_values, strict=True)
    return [
        f"budget {budget.name!r}: limit {limit:g} is below the floor {floor:.4g} "
        f"({amount(limit * unpruned, budget.unit)}; floor {amount(floor * unpruned, budget.unit)})"
        for budget, limit, floor, unpruned in rows
        if floor > limit
    ]


def amount(value: float, unit: str) -> str:
    """A number with its unit, for people: ``58,000 parameters``, ``1.234 ms``."""
    number = f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"
    return f"{number} {unit}".strip()
