"""What the commands share on a terminal: progress, and errors in one line."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents import console as shared
from agents.errors import AgentsError
from prune_gym.errors import PruneGymError

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


def time_left(seconds: float) -> str:
    """How long something still takes, in words."""
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"


def user_errors(stopped: str = "stopped.") -> shared.user_errors:
    """Show what a user can mend in one line, and exit; bugs keep their traceback.

    Args:
        stopped: what to say after Ctrl-C.
    """
    return shared.user_errors(PruneGymError, AgentsError, stopped=stopped)
