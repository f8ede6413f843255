"""What ``gym.make("PruneFamily-v1")`` calls: a family of problems given, or of exact tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from prune_gym.envs.family import FamilyPruneEnv
from prune_gym.tables.files import shipped_tables
from prune_gym.tables.problem import TabularProblem


def make_family(problems: Sequence[Any] | None = None, **arguments: Any) -> FamilyPruneEnv:
    """The environment of a family.

    Args:
        problems: see `FamilyPruneEnv`; names and files of exact tables may be among them, with the
            budget ``params``. None = all tables that come with the package.
        arguments: of `FamilyPruneEnv`.
    """
    named: Any = list(shipped_tables()) if problems is None else problems
    if isinstance(named, Sequence) and not isinstance(named, str):
        named = [
            partial(TabularProblem.load, one) if isinstance(one, str) else one for one in named
        ]
    return FamilyPruneEnv(named, **arguments)
