"""What a user brings that goes wrong: budgets by the environment variable FAULT, ``KIND@CALL``.

A call is noted in the file LEDGER when it has given its number: what was judged must not be lost.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
import time

import numpy as np
import torch
from torch import nn

from prune_gym import Budget

CALLS = [0]


class Ending(BaseException):
    """No Exception."""


def size(network: nn.Module) -> float:
    return float(sum(parameter.numel() for parameter in network.parameters()))


def ledger(network: nn.Module) -> object:
    """Parameters; at call CALL (0: never) what KIND says, which is not noted."""
    CALLS[0] += 1
    time.sleep(float(os.environ.get("PAUSE", "0")))
    kind, _, call = os.environ.get("FAULT", "@0").partition("@")
    value: object = size(network)
    if CALLS[0] == int(call):
        return KINDS[kind](network, value)
    with open(os.environ["LEDGER"], "a") as file:
        file.write(f"{value}\n")
    return value


impatient = Budget("impatient", ledger, timeout_s=0.5)


def _raise(error: BaseException) -> object:
    raise error


def _state(change: object) -> object:
    def spoil(network: nn.Module, value: object) -> object:
        change()
        return value

    return spoil


KINDS = {
    # it raises
    "key error": lambda n, v: _raise(KeyError("gone")),
    "os error": lambda n, v: _raise(OSError(5, "device lost")),
    "memory error": lambda n, v: _raise(MemoryError()),
    "recursion": lambda n, v: KINDS["recursion"](n, v),
    "exit": lambda n, v: sys.exit(0),
    "exit 3": lambda n, v: sys.exit(3),
    "generator exit": lambda n, v: _raise(GeneratorExit()),
    "base exception": lambda n, v: _raise(Ending("end\nof it")),
    "keyboard interrupt": lambda n, v: _raise(KeyboardInterrupt()),
    "torch error": lambda n, v: torch.ones(2) @ torch.ones(3),
    "stop iteration": lambda n, v: next(iter(())),
    "long message": lambda n, v: _raise(ValueError("x\n" * 10_000)),
    # it lies
    "nan": lambda n, v: float("nan"),
    "infinity": lambda n, v: float("inf"),
    "negative": lambda n, v: -1.0,
    "huge": lambda n, v: 10**400,
    "digits": lambda n, v: 10**5000,
    "text": lambda n, v: "12",
    "nothing": lambda n, v: None,
    "complex": lambda n, v: 1j,
    "true": lambda n, v: True,
    "array": lambda n, v: np.ones(3),
    "list": lambda n, v: [1.0],
    "tensor": lambda n, v: torch.ones(2, 2),
    # it meddles with the network
    "writes": lambda n, v: next(n.parameters()).data.zero_(),
    "trains": lambda n, v: n.train() and v,
    "halves": lambda n, v: n.half() and v,
    # it dies
    "abort": lambda n, v: os.abort(),
    "segfault": lambda n, v: ctypes.string_at(0),
    "kill": lambda n, v: os.kill(os.getpid(), signal.SIGKILL),
    "_exit": lambda n, v: os._exit(0),
    # it hangs
    "sleeps": lambda n, v: time.sleep(60),
    "spins": lambda n, v: [None for _ in iter(int, 1)],
    # it leaves changed what all share
    "grad mode": _state(lambda: torch.set_grad_enabled(False)),
    "float64": _state(lambda: torch.set_default_dtype(torch.float64)),
    "threads": _state(lambda: torch.set_num_threads(3)),
    "seed": _state(lambda: torch.manual_seed(0)),
    "numpy errors": _state(lambda: np.seterr(all="raise")),
    "folder": _state(lambda: os.chdir("/")),
    "variables": _state(os.environ.clear),
    "stdout": _state(lambda: setattr(sys, "stdout", io.StringIO())),
    "deterministic": _state(lambda: torch.use_deterministic_algorithms(True)),
    "device": _state(lambda: torch.set_default_device("meta")),
    "path": _state(sys.path.clear),
}
DYING = ("abort", "segfault", "kill", "_exit")
HANGING = ("sleeps", "spins")
SPOILING = tuple(KINDS)[list(KINDS).index("grad mode") :]
