"""A process that has everything imported and forks a child for each command: a start takes no time.

Run as ``python forking.py``; one JSON request a line on standard input, two answers a line each on
standard output: the child's process id at once, and how it ended. A request:

* ``module``, ``arguments``: of the command, as ``python -m module arguments...``;
* ``folder``, ``output``: where it runs, and the file that its output goes to;
* ``variables``: of the environment;
* ``limits``: by name of `resource`, e.g. ``{"RLIMIT_FSIZE": 4096}``;
* ``fault``: what happens within it, see `arrange`.
"""

from __future__ import annotations

import builtins
import importlib
import io
import json
import os
import pathlib
import resource
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
READY = (
    "prune_gym.cli.prune",
    "prune_gym.cli.pick",
    "prune_gym.cli.export",
    "prune_gym.cli.pretrain",
    "prune_gym.cli.tables",
    "prune_gym.tables.env",
    "agents.runs.training",
    "agents.comparison.report",
    "agents.zoo.table",
    "sklearn.datasets",
    "matplotlib.pyplot",
)


def serve() -> dict[str, Any]:
    """Fork a child for each request; returns in the children only."""
    for name in READY:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        reader, writer = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child is a command
        child = os.fork()
        if not child:
            os.close(reader)
            return {**request, "writer": writer}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(writer)
        print(child, flush=True)
        with os.fdopen(reader, "rb") as said, open(request["output"], "wb") as output:
            shutil.copyfileobj(said, output)
        _, status, used = os.wait4(child, 0)
        ended = {"code": os.waitstatus_to_exitcode(status), "kilobytes": used.ru_maxrss}
        print(json.dumps(ended), flush=True)
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """What a new process of the command would be."""
    os.setsid()
    nothing, writer = os.open(os.devnull, os.O_RDONLY), request["writer"]
    for number, target in ((0, nothing), (1, writer), (2, writer)):
        os.dup2(target, number)
    os.close(writer)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == 2 else signal.SIG_DFL)
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    del sys.path[0]  # the folder of this file, which is on PYTHONPATH as well
    sys.argv = [request["module"], *request["arguments"]]
    stopping = importlib.import_module("agents.stopping")
    stopping._state.process = os.getpid()  # it is no worker of the process that imported it
    stopping.take_over()  # as the import of the package does in a new process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    be_quick()
    arrange(request["fault"] or {})
    for name, most in request["limits"].items():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead, as on a full disk
        resource.setrlimit(getattr(resource, name), (most, most))


def be_quick() -> None:
    """Draw no pictures: they take longer than all the rest."""
    from matplotlib.figure import Figure

    def save(figure: Any, target: Any, **_: Any) -> None:
        if hasattr(target, "write"):
            target.write(DOT)
        else:
            pathlib.Path(target).write_bytes(DOT)

    Figure.savefig = save
    Figure.tight_layout = lambda *_, **__: None


def arrange(fault: dict[str, Any]) -> None:
    """Let something happen at a named moment.

    Args:
        fault: ``moment``, one of `MOMENTS`; ``count``: at which call; ``signals``: that the process
            sends itself then, one after the other; or ``error``: number of an OSError to raise.
    """
    if not fault:
        return
    calls = [0]

    def happen() -> None:
        calls[0] += 1
        if calls[0] == fault["count"] or (calls[0] > fault["count"] and fault.get("lasts")):
            if "error" in fault:
                raise OSError(fault["error"], os.strerror(fault["error"]))
            for number in fault["signals"]:
                os.kill(os.getpid(), number)

    MOMENTS[fault["moment"]](happen)


def _before(owner: Any, name: str, is_meant: Callable[..., bool] = lambda *_: True) -> Any:
    def arranged(happen: Callable[[], None]) -> None:
        original = getattr(owner, name)

        def instead(*args: Any, **kwargs: Any) -> Any:
            if is_meant(*args, *kwargs.values()):
                happen()
            return original(*args, **kwargs)

        setattr(owner, name, instead)

    return arranged


def _writes(file: Any, mode: Any = "r", *_: Any) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in "wax+") and file != os.devnull


def _step(happen: Callable[[], None]) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(lambda *_: happen())


def _open(happen: Callable[[], None]) -> None:
    for owner in (builtins, io):
        _before(owner, "open", _writes)(happen)


def _picture(happen: Callable[[], None]) -> None:
    from matplotlib.figure import Figure

    _before(Figure, "savefig")(happen)


def _forward(happen: Callable[[], None]) -> None:
    from torch import nn

    nn.modules.module.register_module_forward_pre_hook(
        lambda module, _: happen() if isinstance(module, nn.Linear) else None
    )


def _piece(happen: Callable[[], None]) -> None:
    from prune_gym.tables.make import _Log

    _before(_Log, "append")(happen)


MOMENTS: dict[str, Callable[[Callable[[], None]], None]] = {
    "replacing a file": _before(pathlib.Path, "replace"),
    "opening a file for writing": _open,
    "a step of training": _step,
    "drawing a picture": _picture,
    "a forward": _forward,
    "a piece of a table": _piece,
}
DOT = bytes.fromhex(  # a picture of one pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)

if __name__ == "__main__":
    asked = serve()
    become(asked)
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
