"""What runs on the machines of a cluster before they are known to have what is installed here.

It travels by value, so that a machine without these packages can say so itself: this module imports
the standard library only.
"""

from __future__ import annotations

import importlib
import pickle
import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any

INSTALL = 'pip install "prune-gym[ray]"'
SAME = ("python", "agents", "prune_gym")  # where others differ, so may numbers
PACKAGES = ("agents", "torch", "numpy", "stable_baselines3", "gymnasium")  # of trainings
MISSING = "missing: "


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of this machine its name, the version of Python, and those of packages.

    Args:
        packages: Names of modules; those that cannot be imported say why.
    """
    found = {"node": platform.node(), "python": platform.python_version()}
    for name in packages:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever a broken installation raises
            found[name] = f"{MISSING}{type(error).__name__}: {error}"
        else:
            found[name] = str(getattr(module, "__version__", "without a version"))
    return found


def compared(here: Mapping[str, str], there: Mapping[str, str]) -> tuple[str, list[str]]:
    """Versions of two machines: what must not be, in words, or nothing; what may differ.

    Args:
        here: See `versions`.
        there: Those of a machine of the cluster.
    """
    notes = []
    for name, version in here.items():
        if name == "node":
            continue
        machine = f"machine {there['node']}"
        other = there.get(name, f"{MISSING}unknown there")
        if other.startswith(MISSING):
            why = f"{machine} of the cluster cannot import {name} ({other.removeprefix(MISSING)})"
            return f"{why}: install there what is installed here, {INSTALL}.", []
        if _public(name, other) == _public(name, version):
            continue
        words = f"{machine} has {name} {other}, and here it is {version}"
        if name in SAME:
            return f"{words}: install the same version on all machines.", []
        notes.append(f"{words}: numbers may differ in their last digits.")
    return "", notes


def _public(name: str, version: str) -> str:
    """A version without what makes no difference: 2.9.0 of 2.9.0+cpu, 3.11 of Python 3.11.9."""
    public = version.partition("+")[0]
    return ".".join(public.split(".")[:2]) if name == "python" else public


def run_here(task: bytes, wanted: Mapping[str, str]) -> tuple[str, list[str], Any]:
    """Run a pickled function without arguments, where versions allow it; see `compared`.

    Args:
        task: The function.
        wanted: Versions of the machine that sent it.

    Returns:
        Why it was not run, or nothing; what may differ; what it gave.
    """
    packages = [name for name in wanted if name not in ("node", "python")]
    fault, notes = compared(wanted, versions(packages))
    if fault:
        return fault, [], None
    try:
        return "", notes, pickle.loads(task)()
    except ImportError as error:
        raise ImportError(
            f"machine {platform.node()} lacks code that this needs: {error}. Install it there, or "
            "send the folder along: ray job submit --working-dir . -- COMMAND."
        ) from error


def travelling(ray: Any, *modules: str) -> None:
    """Have Ray send what modules define as code, and not as names in them.

    Args:
        ray: The module.
        modules: By name; this one goes along.
    """
    for name in (__name__, *modules):
        ray.cloudpickle.register_pickle_by_value(sys.modules[name])
