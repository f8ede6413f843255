"""What all adapters need: the ids, an environment's limit, a library that may be missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import gymnasium as gym

from prune_gym.envs.registration import ENTRY_POINT
from prune_gym.errors import InvalidValueError, MissingLibraryError


def require(module: str, library: str, install: str) -> Any:
    """Import a module of a library that is not a dependency of `prune_gym`.

    Args:
        module: dotted name.
        library: its name in the message.
        install: the arguments of ``pip install``.

    Raises:
        MissingLibraryError: it is not there, or cannot be imported; says how to install it (an
            ImportError, too).
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingLibraryError(
            f"{library} cannot be imported ({error}). Install it: pip install {install}",
            name=error.name,
            path=error.path,
        ) from error


def registered_ids() -> list[str]:
    """Every id of Gymnasium's registry that makes a pruning environment, your own among them.

    >>> "PruneVGG-v0" in registered_ids()
    True
    """
    return [name for name, spec in gym.registry.items() if spec.entry_point == ENTRY_POINT]


def cost_limit_of(env: gym.Env[Any, Any]) -> float:
    """The limit of the episodic sum of ``info["cost"]``.

    Raises:
        ValueError: the environment has none.
    """
    limit = getattr(env.unwrapped, "cost_limit", None)
    if limit is None:
        raise InvalidValueError(f"{env} has no cost_limit; expected a constrained environment.")
    return float(limit)
