"""Questions to workers that take half a second, no core, and no library; see ``ray_workers.py``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

NAP_S = 0.5


@dataclass(frozen=True)
class Rested:
    """What a nap comes to."""

    seconds: float


@dataclass(frozen=True)
class Nap:
    """A question that takes half a second, no core, and no library."""

    masks: tuple[()] = ()

    def answered(self, problem: Any) -> Rested:
        """Sleep."""
        time.sleep(NAP_S)
        return Rested(NAP_S)
