"""Packages that import what they offer when it is first used (PEP 562), so that they cost nothing.

Type checkers and editors find the names in a block under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (or module) whose names live elsewhere.

    >>> get, names = lazy_names("agents", {"read_json": ".files"})
    >>> get("read_json").__module__
    'agents.files'
    >>> "read_json" in names()
    True

    Args:
        package: its ``__name__``.
        modules: module by name; one that begins with a dot is a module of the package.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name], package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
