"""Code of the user's own goes to other machines by value: they cannot be expected to have it."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import cloudpickle

_REGISTERING = threading.RLock()  # cloudpickle has one register for the process


@contextmanager
def by_value() -> Iterator[None]:
    """Pickle what modules of the user's own define as code, not as the names of modules.

    These are the modules that no installed package holds: scripts and files beside them.
    """
    with _REGISTERING:
        known = cloudpickle.list_registry_pickle_by_value()
        new = [module for module in _own_modules() if module.__name__ not in known]
        for module in new:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in new:
                cloudpickle.unregister_pickle_by_value(module)


def _own_modules() -> list[ModuleType]:
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name == "__main__" or name.partition(".")[0] in _ours():
            continue
        if not _is_installed(file):
            found.append(module)
    return found


@cache
def _ours() -> frozenset[str]:
    """The packages of the distribution that this one is of, wherever they lie."""
    own, found = __name__.partition(".")[0], packages_distributions()
    mine = set(found.get(own, ()))
    return frozenset({own, *(name for name, of in found.items() if mine & set(of))})


@cache  # there are thousands, and this is asked for every network
def _is_installed(file: str) -> bool:
    return os.path.realpath(file).startswith(_installed_folders())


@cache
def _installed_folders() -> tuple[str, ...]:
    paths = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(
        str(Path(path).resolve()) + os.sep for path in {*paths, os.path.dirname(os.__file__)}
    )
