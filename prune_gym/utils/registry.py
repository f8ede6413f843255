"""One small registry, used for networks, datasets, criteria, budgets and recoveries.

A function is registered under its own name, so that name, function and listing can never
disagree; the first line of its docstring is its description.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from agents.search_path import import_module_last
from prune_gym.errors import InvalidValueError, UnknownNameError

T = TypeVar("T", bound=Callable[..., Any])


def suggest(name: str, known: list[str]) -> str:
    """The tail of an error message: `` Did you mean 'x'?`` or an empty string.

    >>> suggest("parms", ["params", "macs"])
    " Did you mean 'params'?"
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name(kind: str, name: object, known: list[str]) -> UnknownNameError:
    """The error for a name that is none of ``known``: says what was given and what is allowed."""
    if not known:
        return UnknownNameError(f"{kind} {name!r}: expected 'module:function'.")
    return UnknownNameError(
        f"unknown {kind} {name!r}.{suggest(str(name), known)} Known: {', '.join(known)}."
    )


class Registry(Generic[T]):
    """Named functions of one kind.

    Args:
        kind: what the rows are called in error messages, e.g. ``"criterion"``.

    >>> shapes = Registry("shape")
    >>> @shapes.register
    ... def square(side: float) -> float:
    ...     '''Area of a square.'''
    ...     return side * side
    >>> shapes.get("square")(3)
    9
    >>> shapes.describe()
    {'square': 'Area of a square.'}
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._rows: dict[str, T] = {}

    def register(self, function: T) -> T:
        """Add a function under its own name (a decorator)."""
        name = function.__name__
        if name in self._rows:
            raise InvalidValueError(
                f"{self.kind} {name!r} is registered already; choose another name."
            )
        if not (function.__doc__ or "").strip():
            raise InvalidValueError(
                f"{self.kind} {name!r} needs a docstring: its first line describes it."
            )
        self._rows[name] = function
        return function

    def get(self, name: str) -> T:
        """The function registered as ``name``, or the object that ``"module:function"`` names.

        Raises:
            UnknownNameError: names what was asked for, the known names and the nearest of them.
        """
        if isinstance(name, str) and name in self._rows:
            return self._rows[name]
        if isinstance(name, str) and ":" in name:
            return self._load(name)
        raise unknown_name(self.kind, name, self.names())

    def _load(self, path: str) -> T:
        module_name, _, attribute = path.partition(":")
        try:
            loaded = getattr(import_module_last(module_name), attribute)
        except Exception as error:  # a module may raise anything when it is imported
            raise UnknownNameError(
                f"{self.kind} {path!r} cannot be imported: {error}. Write 'module:function' with a "
                "module that Python finds (installed, on PYTHONPATH, or in the working folder)."
            ) from error
        if not callable(loaded):
            raise UnknownNameError(f"{self.kind} {path!r} is {loaded!r}, which cannot be called.")
        return loaded  # type: ignore[no-any-return]

    def names(self, pattern: str = "*") -> list[str]:
        """Registered names that match a wildcard pattern, sorted."""
        return sorted(fnmatch.filter(self._rows, pattern))

    def describe(self) -> dict[str, str]:
        """Name and one-line description of every row, sorted by name."""
        return {
            name: (self._rows[name].__doc__ or "").strip().splitlines()[0] for name in self.names()
        }

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._rows  # lists have no hash

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
