"""Constraints put into rewards, for algorithms that know of none, from whatever library.

`FixedPenalty` and `SauteBudget` go with any constrained environment; `agents.wrappers` has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.lazy import lazy_names

if TYPE_CHECKING:
    from agents.wrappers import FixedPenalty, SauteBudget

__all__ = ["FixedPenalty", "SauteBudget"]

__getattr__, __dir__ = lazy_names(
    __name__, {"FixedPenalty": "agents.wrappers", "SauteBudget": "agents.wrappers"}
)
