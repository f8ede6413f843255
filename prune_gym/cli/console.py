"""What the commands share on a terminal: progress, stopping with Ctrl-C, and errors in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

errors = Console(stderr=True, soft_wrap=True)
LINE_EVERY_S = 10.0  # between lines of progress where there is no terminal


def progress_bar(console: Console) -> Progress:
    """A bar with count, details and times; nothing where the output is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    )


def say(console: Console, words: str) -> None:
    """Print words that hold paths or commands: as they are, without markup and line breaks."""
    console.print(words, markup=False, highlight=False, soft_wrap=True)


def time_left(seconds: float) -> str:
    """How long something still takes, in words."""
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"


class Stoppable(Protocol):
    """Work that ends after the piece in hand once its ``stop`` is True."""

    stop: bool


@contextmanager
def stopping(work: Stoppable, piece: str) -> Iterator[None]:
    """The first Ctrl-C sets ``work.stop``, so that the piece in hand is finished; a second stops.

    Args:
        work: what is to be stopped.
        piece: what is then finished, for a line on standard error.
    """

    def stop(signum: int, frame: Any) -> None:
        if work.stop:
            raise KeyboardInterrupt
        work.stop = True
        with contextlib.suppress(OSError):  # print() may be interrupted in the middle of itself
            os.write(2, f"\nfinishing {piece}; Ctrl-C again stops at once\n".encode())

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread, where no signal arrives anyway
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class user_errors:
    """Turn errors that a user can mend into one line on standard error and exit status 2.

    Args:
        stopped: what to say after Ctrl-C.
    """

    def __init__(self, stopped: str = "stopped.") -> None:
        self.stopped = stopped

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Report what the user can mend; let bugs through with their traceback."""
        if isinstance(error, KeyboardInterrupt):
            fail(self.stopped, code=130)
        from prune_gym.errors import NothingFeasibleError

        if isinstance(error, NothingFeasibleError):
            fail(str(error), code=1)
        if isinstance(error, ValueError | TypeError | OSError | ArithmeticError) or _is_gym_error(
            error
        ):
            fail(str(error), code=2)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and exit."""
    errors.print(f"[bold red]error[/]: {_escape(message)}", highlight=False)
    raise SystemExit(code)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _is_gym_error(error: Any) -> bool:
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(error, gymnasium.error.Error)
