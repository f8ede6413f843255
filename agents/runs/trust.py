"""What the configuration of a run would have run: code that a file names is run when it is trusted.

What comes with this package or with Gymnasium is no such code: registered environments, wrappers of
Gymnasium's and ours, the agents of the zoo. All else that a configuration can name is: a module
that registers an environment, a wrapper of a user's own, and arguments of an environment that
name a ``module:function`` or a ``command:...``, as those of `prune_gym` may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.errors import TrustError
from agents.runs.folder import RunConfig

_ENVS = ("agents.toy", "prune_gym")  # modules that register environments
_WRAPPERS = (
    "agents.wrappers:AddCost",
    "agents.wrappers:FixedPenalty",
    "agents.wrappers:SauteBudget",
    "gymnasium.wrappers:ClipAction",
    "gymnasium.wrappers:FlattenObservation",
    "gymnasium.wrappers:NormalizeObservation",
    "gymnasium.wrappers:RescaleAction",
    "gymnasium.wrappers:TimeAwareObservation",
    "prune_gym:DiscreteRatios",
    "prune_gym:FixedPenalty",
    "prune_gym:ProjectionWrapper",
    "prune_gym:RecordBest",
)


def named_code(config: RunConfig) -> str | None:
    """Return what a configuration names that would be run, in words; None where there is nothing.

    >>> named_code(RunConfig(algo="ppo_lag", env="agents.toy:BudgetToy-v0"))
    >>> named_code(RunConfig(algo="ppo_lag", env="my_module:Mine-v0"))
    "env: 'my_module:Mine-v0'"
    """
    module, separator, _ = config.env.rpartition(":")
    if separator and module not in _ENVS:
        return f"env: {config.env!r}"
    for name in config.wrappers:
        if name not in _WRAPPERS:
            return f"wrappers: {name!r}"
    for where, text in _texts("env_kwargs", config.env_kwargs):
        is_data = where == "env_kwargs.dataset" and text.startswith("folder:")
        if ":" in text and not is_data:
            return f"{where}: {text!r}"
    return None


def check_trusted(path: Path, config: RunConfig) -> None:
    """Raise a TrustError where the configuration of a run names code.

    Args:
        path: Its file.
        config: What it holds.
    """
    found = named_code(config)
    if found is not None:
        raise TrustError(
            f"{path} names code that would be run, {found[:200]}. If you trust the folder, allow "
            "it: --trust, or trust=True."
        )


def _texts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts in a value, keys of dicts too, and where they are."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield where, key
            yield from _texts(f"{where}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(where, item)
