"""The fields of a row of the benchmark, each checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from agents.arguments import shown
from agents.errors import BenchmarkError

AGAIN = "Rows are written by python -m agents.benchmark, not by hand: run it again."
NEAR = 1e-5  # of what is computed from rounded numbers


class Fields:
    """The fields of an object of a row, each checked when it is read.

    Args:
        content: The object.
        source: Name of the file, for errors.
        inside: Name of the field that it is the value of, with a dot; empty for the row itself.
    """

    def __init__(self, content: Mapping[str, Any], source: str, inside: str = "") -> None:
        self.content, self.source, self.inside = content, source, inside

    def fail(self, key: str, allowed: str, cure: str = AGAIN) -> NoReturn:
        """Raise the error that says what a field must be."""
        value = shown(self.content.get(key))
        words = f"{self.source}: {self.inside}{key} is {value}; it must be {allowed}."
        raise BenchmarkError(f"{words.rstrip('.')}. {cure}".rstrip().replace("?.", "?"))

    def get(self, key: str) -> Any:
        """Return a field, which must be there."""
        if key not in self.content:
            raise BenchmarkError(
                f"{self.source}: {self.inside}{key} is missing; every row has it. {AGAIN}"
            )
        return self.content[key]

    def part(self, key: str) -> Fields | None:
        """Return an object, or None."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.fail(key, "an object or null")
        return Fields(value, self.source, f"{self.inside}{key}.")

    def object(self, key: str) -> Fields:
        """Return an object."""
        found = self.part(key)
        if found is None:
            self.fail(key, "an object")
        return found

    def items(self, key: str, n: int, why: str) -> list[Fields | None]:
        """Return a list of ``n`` objects or None."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) != n:
            self.fail(key, f"a list of {n}, {why}")
        inside = f"{self.inside}{key}"
        for one in value:
            if one is not None and not isinstance(one, Mapping):
                self.fail(key, f"objects or null; one is {shown(one)}")
        return [
            None if one is None else Fields(one, self.source, f"{inside}[{index}].")
            for index, one in enumerate(value)
        ]

    def number(self, key: str, least: float, most: float, why: str = "") -> float:
        """Return a finite number in [least, most]."""
        value = self.get(key)
        if not is_number(value) or not least <= value <= most + NEAR * (most <= 1.0):
            ends = [f"at least {least:g}"] if least > -math.inf else []
            ends += [f"at most {most:g}"] if most < math.inf else []
            words = f" of {' and '.join(ends)}" if ends else " that is finite"
            self.fail(key, f"a number{words}{why and f', {why}'}")
        return float(value)

    def optional(self, key: str, least: float, most: float) -> float | None:
        """Return a number, or None."""
        return None if self.get(key) is None else self.number(key, least, most)

    def whole(self, key: str, least: int, most: int, why: str = "") -> int:
        """Return a whole number in [least, most]."""
        value = self.get(key)
        if not is_whole(value) or not least <= value <= most:
            words = f"a whole number of at least {least:,} and at most {most:,}"
            self.fail(key, words + (why and f", {why}"))
        return int(value)

    def equal(self, key: str, value: int, why: str) -> None:
        """Check that a field is a whole number."""
        if not is_whole(self.get(key)) or self.get(key) != value:
            self.fail(key, f"{value:,}, {why}")

    def near(self, key: str, value: float | None, why: str) -> None:
        """Check that a field is what others give, but for rounding."""
        given = self.get(key)
        if value is None and given is None:
            return
        if value is None or not is_number(given) or abs(given - value) > NEAR * (1 + abs(value)):
            self.fail(key, f"{'null' if value is None else f'{value:.6g}'}, {why}")


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def is_whole(value: object) -> bool:
    """Whether it is a whole number, and no truth value."""
    return type(value) is int
