"""What the commands of this package share: KEY=VALUE options, errors in one line, stopping."""

from __future__ import annotations

import ast
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Protocol

from rich.console import Console
from rich.markup import escape

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


def say(words: str) -> None:
    """Print words that hold paths or commands: as they are, without markup and line breaks."""
    console.print(words, markup=False, highlight=False, soft_wrap=True)


def parse_values(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; values are Python literals, or words.

    >>> parse_values("--set", ["learning_rate=1e-3", "policy_kwargs={'net_arch': [32]}"])
    {'learning_rate': 0.001, 'policy_kwargs': {'net_arch': [32]}}
    >>> parse_values("--env-kwargs", ["network=small", "ids=(1, 2)"])
    {'network': 'small', 'ids': [1, 2]}

    Raises:
        ValueError: If one is not of that form, or a key is given twice.
    """
    values: dict[str, Any] = {}
    for pair in given:
        key, separator, text = pair.partition("=")
        key = key.strip()
        if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise ValueError(f"{option} {pair!r}: expected KEY=VALUE, e.g. learning_rate=1e-3.")
        if key in values:
            raise ValueError(f"{option} {key!r} is given twice; give one value for it.")
        values[key] = _literal(option, pair, text.strip())
    return values


def _literal(option: str, pair: str, text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        if text.lower() in ("true", "false", "none", "null"):
            cure = "None" if text.lower() in ("none", "null") else text.capitalize()
            raise ValueError(f"{option} {pair!r}: write {cure}, as in Python.") from error
        if re.fullmatch(r"[A-Za-z_/~][^\s()\[\]{}'\"]*", text):
            return text
        raise ValueError(
            f"{option} {pair!r}: {text!r} is no Python literal. Write numbers, True, False, None, "
            "words, 'texts in quotes', or lists and dicts of them."
        ) from error
    try:
        return json.loads(json.dumps(value, allow_nan=False))  # as it is read from config.json
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{option} {pair!r}: {error}. Only what JSON can hold can be kept with the run: "
            "numbers, texts, True, False, None, lists and dicts."
        ) from error


class Stoppable(Protocol):
    """Work that ends after the piece in hand once its ``stop`` is True."""

    stop: bool


@contextmanager
def stopping(work: Stoppable, words: str) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) sets ``work.stop`` and says so; a second one interrupts."""

    def stop(signum: int, frame: Any) -> None:
        if work.stop:
            raise KeyboardInterrupt
        work.stop = True
        say(words)

    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread, where no signal arrives anyway
                before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class user_errors:
    """Turn errors that a user can mend into one line on standard error and exit status 2."""

    def __enter__(self) -> user_errors:
        """Nothing to prepare."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Report what the user can mend; let bugs through with their traceback."""
        if isinstance(error, KeyboardInterrupt):
            fail("stopped.", code=130)
        mendable = ValueError | TypeError | OSError | ArithmeticError | ImportError
        if isinstance(error, mendable) or _is_gym_error(error):
            fail(str(error), code=2)
        if isinstance(error, RuntimeError) and "device" in str(error):  # torch's, for a wrong one
            fail(str(error).splitlines()[0], code=2)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and exit."""
    errors.print(f"[bold red]error[/]: {escape(message)}", highlight=False)
    raise SystemExit(code)


def _is_gym_error(error: Any) -> bool:
    gymnasium = sys.modules.get("gymnasium")
    return gymnasium is not None and isinstance(error, gymnasium.error.Error)
