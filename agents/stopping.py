"""Stopping: a flag of the process, set by Ctrl-C or SIGTERM, which long work looks at in each step.

A ``KeyboardInterrupt`` alone is not enough: Python drops what is raised within weakref callbacks,
``__del__`` and callbacks of C code, and a program's ``except BaseException`` takes it away. The
first signal therefore sets a flag, and work ends after the piece in hand: it asks
`stop_requested` and saves, or it calls `check_stop`, which raises `Stopped`. The second signal ends
the process at once with exit code 130 where it is a command of ours, and raises
``KeyboardInterrupt`` in programs that use the packages as libraries.

>>> with stopping("stopping after this step"):
...     request_stop()
...     try:
...         check_stop()
...     except Stopped as stopped:
...         print(stopped)
a stop was asked for
>>> stop_requested()
False
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

EXIT_CODE = 130  # after Ctrl-C and SIGTERM, as shells give it after Ctrl-C
SAME_SIGNAL_S = 0.1  # `timeout`, and programs that pass signals on, send one twice
WORDS = "stopping after the step in hand; Ctrl-C again stops at once"
_COMMANDS = (
    "prune-gym",
    "prune_gym",
    "agents.train",
    "agents.enjoy",
    "agents.compare",
    "agents.benchmark",
    "prune_gym.tables",
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised in the next step of long work after a stop was asked for."""


class Stoppable(Protocol):
    """Work that ends after the piece in hand once its ``stop`` is True."""

    stop: bool


@dataclass
class _State:
    """What signals find and change.

    Attributes:
        requested: Whether a stop was asked for.
        requested_at: When a signal did, by the monotonic clock.
        is_command: Whether the process is a command of ours, which signals may end.
        is_working: Whether there is something to stop; before that a signal ends a command.
        handlers: Those that were there before, of the outermost work.
        works: What is to be stopped, and the words for it; the innermost is the last one.
        at_end: What is called before the process is ended at once.
    """

    requested: bool = False
    requested_at: float = 0.0
    is_command: bool = False
    is_working: bool = False
    process: int = field(default_factory=os.getpid)
    handlers: dict[signal.Signals, Any] = field(default_factory=dict)
    works: list[tuple[Stoppable | None, str]] = field(default_factory=list)
    at_end: list[Callable[[], None]] = field(default_factory=list)


_state = _State()
_thread = threading.local()


def stop_requested() -> bool:
    """Whether the work in hand is to be the last."""
    return _state.requested


def check_stop() -> None:
    """Raise `Stopped` if a stop was asked for, unless the thread finishes its piece (`finishing`).

    Raises:
        Stopped: A signal came, or `request_stop` was called.
    """
    if _state.requested and not getattr(_thread, "finishing", 0):
        raise Stopped("a stop was asked for")


def request_stop() -> None:
    """Ask all work of this process to stop, as the first Ctrl-C does."""
    _state.requested = True
    for work, _ in _state.works:
        if work is not None:
            work.stop = True


@contextmanager
def finishing() -> Iterator[None]:
    """What this thread does within is one piece, which `check_stop` does not break off."""
    finish_pieces()
    try:
        yield
    finally:
        _thread.finishing -= 1


def finish_pieces() -> None:
    """From now on `check_stop` does not raise in this thread: another one hands it its pieces."""
    _thread.finishing = getattr(_thread, "finishing", 0) + 1


@contextmanager
def stopping(words: str = WORDS, work: Stoppable | None = None) -> Iterator[None]:
    """Let signals stop what is done within; see the module.

    The first signal says ``words`` on standard error. Where this is the outermost work of the main
    thread, the handlers that were there come back at its end, and the flag is down again. In other
    threads, where no signal arrives, the work stops when that of the main thread does.

    Args:
        words: What is said then.
        work: Whose ``stop`` is set, too.

    Raises:
        KeyboardInterrupt: At the second signal, unless it ends the process.
    """
    entry = (work, words)
    is_outermost = not _state.handlers and _install()
    _state.works.append(entry)
    _state.is_working = True
    if _state.requested and work is not None:
        work.stop = True
    try:
        yield
    finally:
        _state.works[:] = [other for other in _state.works if other is not entry]
        if is_outermost:
            _restore()


@contextmanager
def ending(clean_up: Callable[[], None]) -> Iterator[None]:
    """Call ``clean_up`` if the process is ended at once while the block lasts.

    Args:
        clean_up: Quick, and of no use to others: it kills a child process, or removes its files.
    """
    _state.at_end.append(clean_up)
    try:
        yield
    finally:
        _state.at_end.remove(clean_up)


def take_over() -> None:
    """Take signals over for good, as a command: the second one ends the process.

    Until there is something to stop (`stopping`), the first one ends it: nothing was begun.
    """
    if not _state.is_command and _install():
        _state.is_command = True
        _only_once(signal.SIGINT)


def is_command() -> bool:
    """Whether this process was started as one of our commands."""
    if not sys.argv or sys.argv[0] == "-m":  # while Python looks for the module
        words = sys.orig_argv
        return "-m" in words[:-1] and words[words.index("-m") + 1] in _COMMANDS
    return sys.argv[0] in sys.orig_argv and Path(sys.argv[0]).name in _COMMANDS


def _install() -> bool:
    """Put our handlers in place; False outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return False
    for number in _SIGNALS:
        with suppress(ValueError, OSError):  # an interpreter that may not, a system that lacks it
            _state.handlers[number] = signal.signal(number, _on_signal)
    return bool(_state.handlers)


def _restore() -> None:
    for number, handler in _state.handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _state.handlers.clear()
    _state.requested = _state.is_working = False


def _on_signal(number: int, frame: Any) -> None:
    if os.getpid() != _state.process:  # of a child that was forked: its parent stops it
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    if _state.is_command:
        signal.signal(number, _on_signal)  # the C library has put the default in its place
        if _state.requested:
            if time.monotonic() - _state.requested_at < SAME_SIGNAL_S:
                return
            end_process("stopped at once.")
        if not _state.is_working:
            end_process("stopped; nothing was begun.")
    elif _state.requested:
        raise KeyboardInterrupt
    _state.requested_at = time.monotonic()
    request_stop()
    _say(_state.works[-1][1] if _state.works else WORDS)


def _only_once(number: int) -> None:
    """Let the system's default, which ends the process, follow a signal until Python saw it.

    Python handles signals between two of its instructions. Work that hangs in C code has none, but
    a second signal ends it so. Other C libraries than that of GNU lack the call.
    """
    with suppress(OSError, AttributeError, TypeError):
        call = ctypes.CDLL(None).sysv_signal
        call.argtypes, call.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        handler = call(number, None)
        if handler not in (None, ctypes.c_void_p(-1).value):  # no error
            call(number, handler)


def end_process(words: str) -> NoReturn:
    """End the process, whatever the thread is caught in, with exit code 130.

    Args:
        words: Said on standard error.
    """
    for clean_up in reversed(_state.at_end):
        with suppress(Exception):
            clean_up()
    _say(words)
    os._exit(EXIT_CODE)


def _say(words: str) -> None:
    with suppress(OSError):  # print() may be interrupted in the middle of itself
        os.write(2, f"\n{words}\n".encode())
