"""What a user's code gave or raised, in words that fit into one line."""

from __future__ import annotations

import math
import sysconfig
import traceback
from pathlib import Path
from typing import Any

_PACKAGE = str(Path(__file__).parent.parent)
_LIBRARIES = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_LONGEST = 300  # characters


def shortened(value: Any, longest: int = 80) -> str:
    """``repr`` of anything, in one line of so many characters at most.

    >>> shortened([1, 2])
    '[1, 2]'
    >>> shortened(10**400, 20)
    '10000000... (401 characters)'
    """
    try:
        text = repr(value)
    except Exception:  # numbers of thousands of digits, or a type of its own
        text = f"<{type(value).__name__} that cannot be shown>"
    return _cut(text, longest)


def message(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    try:
        return _cut(str(error), _LONGEST)
    except Exception:  # an error of a type of its own
        return "<a message that cannot be shown>"


def error_in_words(error: BaseException) -> str:
    """Type, message and place of an error: ``KeyError: 'gone' (measure.py:12)``, in one line.

    The place is the last one of the user's own code: not of this package, or of a library.
    """
    words = ": ".join(part for part in (type(error).__name__, message(error)) if part)
    return f"{words}{place(error)}"


def place(error: BaseException) -> str:
    """`` (FILE:LINE)`` of where a user's code raised an error; empty where it was not theirs."""
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((_PACKAGE, "<frozen"))
    ]
    own = [frame for frame in frames if not frame[0].startswith(_LIBRARIES)]
    if not frames:
        return ""
    file, line = (own or frames)[-1]
    return f" ({file}:{line})"


def score_in_words(score: float | None) -> str:
    """A number of a metric, whatever its scale; files have None where it was not finite.

    >>> score_in_words(0.985), score_in_words(0.0000321), score_in_words(43210.9)
    ('0.9850', '3.21e-05', '4.321e+04')
    """
    if score is None or not math.isfinite(score):
        return "no number"
    return f"{score:.4f}" if score == 0.0 or 0.01 <= abs(score) < 1e4 else f"{score:.4g}"


def _cut(text: str, longest: int) -> str:
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    return f"{line[: longest - 12]}... ({len(line)} characters)"
