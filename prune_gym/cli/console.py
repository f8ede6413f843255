"""What the commands share on a terminal: progress, and errors in one line."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from agents import console as shared
from agents.errors import AgentsError
from prune_gym.errors import PruneGymError

LINE_EVERY_S = 10.0  # between lines of progress where there is no terminal
_NAME, _BAR, _WIDE_BAR = 11, 8, 24  # columns; the longest name is "fine-tuning"


def is_live(console: Console) -> bool:
    """Whether a bar can move there: a terminal that can go back in its line."""
    return console.is_terminal and not console.is_dumb_terminal


def progress_bar(console: Console) -> Progress:
    """A bar with count, details and the time left, in one line however narrow the terminal is.

    Tasks have a field ``detail``: pieces of words, two spaces between them; the last ones are left
    out where there is no room. Nothing is shown where the output is no terminal.
    """
    width = console.width
    bar = _WIDE_BAR if width >= 110 else _BAR if width >= 60 else 0
    room = width - _NAME - 1 - (bar + 1 if bar else 0)
    return Progress(
        TextColumn(f"{{task.description:<{_NAME}}}"),
        *([BarColumn(bar_width=bar)] if bar else []),
        _Line(room),
        console=console,
        disable=not is_live(console),
    )


class _Line(ProgressColumn):
    """Count, as many details as there is room for, and the time left."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def render(self, task: Task) -> Text:
        """The words of a task."""
        words = f"{task.completed:g}/{task.total or 0:g}"
        seconds = task.time_remaining
        left = "" if seconds is None or task.finished else f"  {time_left(seconds)}"
        for piece in str(task.fields.get("detail", "")).split("  "):
            if piece and len(words) + 2 + len(piece) + len(left) <= self.room:
                words += f"  {piece}"
        return Text((words + left)[: self.room], no_wrap=True)


def say_words(words: str, console: Console, style: str = "") -> None:
    """Print a sentence: broken between words in a terminal, in one line elsewhere."""
    console.print(
        Text(words, style=style), markup=False, highlight=False, soft_wrap=not console.is_terminal
    )


def warn(words: str, console: Console) -> None:
    """Print a warning."""
    say_words(f"warning: {words}", console, "yellow")


def time_left(seconds: float) -> str:
    """How long something still takes, in words."""
    return f"{seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"


def user_errors(stopped: str = "stopped.") -> shared.user_errors:
    """Show what a user can mend in one line, and exit; bugs keep their traceback.

    Args:
        stopped: what to say after Ctrl-C.
    """
    return shared.user_errors(PruneGymError, AgentsError, stopped=stopped)
