"""Budgets of users, for the command line: --budget own_budgets:NAME=LIMIT."""

from __future__ import annotations

import os
import threading

import torch
from torch import nn

from prune_gym import Budget

CALLS: list[int] = []
BROKEN: list[str] = []  # how `fragile` is broken now; empty: it works
WAKE = threading.Event()  # ends what hangs


def size(network: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def fragile(network: nn.Module) -> float:
    """Parameters; from the sixth call on, what `BROKEN` says."""
    CALLS.append(size(network))
    how = BROKEN[0] if BROKEN and len(CALLS) > 5 else ""
    if how == "raises":
        raise OSError("device lost")
    if how == "exits":
        raise SystemExit(3)
    if how == "hangs":
        WAKE.wait(60)
    if how == "meddles":
        with torch.no_grad():
            next(network.parameters()).zero_()
    return float("nan") if how == "nonsense" else float(CALLS[-1])


watched = Budget("watched", fragile, timeout_s=0.3, deterministic=True)


def drifting(network: nn.Module) -> float:
    """Parameters, by a machine whose speed is what the environment variable DRIFT says."""
    return size(network) * float(os.environ.get("DRIFT", "1"))


clock = Budget("clock", drifting, unit="ms")
