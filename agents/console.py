"""What commands share on a terminal: words, KEY=VALUE options, errors in one line."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape

from agents.errors import InvalidValueError
from agents.files import shown
from agents.stopping import EXIT_CODE, stopping

console = Console(soft_wrap=True, emoji=False)
errors = Console(stderr=True, soft_wrap=True, emoji=False)


def say(words: str, to: Console = console) -> None:
    """Print words that hold paths or commands: as they are, without markup and line breaks."""
    to.print(_harmless(words), markup=False, highlight=False, soft_wrap=True)


def fail(message: str, code: int) -> NoReturn:
    """Print an error on standard error and exit."""
    errors.print(f"[bold red]error[/]: {escape(_harmless(message))}", highlight=False)
    raise SystemExit(code)


def _harmless(words: str) -> str:
    """Words that may come from a file, without what would move a terminal's cursor."""
    return "\n".join(map(shown, words.split("\n")))


def plain_warnings() -> None:
    """From now on warnings are one line each on standard error, without the code that gave them."""

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        errors.print(f"[yellow]warning[/]: {escape(str(message))}", highlight=False)

    warnings.showwarning = show


_LONG = re.compile(r"\S{600,}")


class user_errors:
    """Show errors that a user can mend in one line, and exit; let bugs keep their traceback.

    What is done within is stopped by Ctrl-C and SIGTERM at its next step; see `agents.stopping`.

    >>> from agents.errors import AgentsError
    >>> with user_errors(AgentsError):
    ...     print("no error")
    no error

    Args:
        *roots: The exceptions that are shown, with all that derive from them; the process ends with
            their ``exit_code``, 2 where they have none.
        stopped: What to say after Ctrl-C or SIGTERM, which end with exit code 130.
    """

    def __init__(self, *roots: type[Exception], stopped: str = "stopped.") -> None:
        self.roots, self.stopped = roots, stopped
        self._signals: AbstractContextManager[None] = stopping()

    def __enter__(self) -> None:
        """Take signals over."""
        self._signals.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        """Report what the user can mend."""
        self._signals.__exit__(None, None, None)
        if isinstance(error, KeyboardInterrupt):
            fail(self.stopped, EXIT_CODE)
        if isinstance(error, self.roots):
            fail(_readable(str(error)), getattr(error, "exit_code", 2))


def _readable(words: str) -> str:
    """An error without the middle of what is too long to be read: a value that was pasted.

    >>> _readable(f"unknown network {'9' * 5000}.")
    'unknown network 99999999999999999999... (5001 characters).'
    """
    return _LONG.sub(lambda one: f"{one[0][:20]}... ({len(one[0])} characters).", words)


# -- options ---------------------------------------------------------------------------------------


def parse_values(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` pairs; values are Python literals, or words.

    >>> parse_values("--set", ["learning_rate=1e-3", "policy_kwargs={'net_arch': [32]}"])
    {'learning_rate': 0.001, 'policy_kwargs': {'net_arch': [32]}}
    >>> parse_values("--env-kwargs", ["network=small", "ids=(1, 2)"])
    {'network': 'small', 'ids': [1, 2]}

    Args:
        option: Name of the option, for errors.
        given: The pairs.

    Raises:
        InvalidValueError: If one is not of that form, or a key is given twice.
    """
    values: dict[str, Any] = {}
    for pair in given:
        key, separator, text = pair.partition("=")
        key = key.strip()
        if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise InvalidValueError(
                f"{option} {pair!r}: expected KEY=VALUE, e.g. learning_rate=1e-3."
            )
        if key in values:
            raise InvalidValueError(f"{option} {key!r} is given twice; give one value for it.")
        values[key] = _literal(option, pair, text.strip())
    return values


def _literal(option: str, pair: str, text: str) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        if text.lower() in ("true", "false", "none", "null"):
            cure = "None" if text.lower() in ("none", "null") else text.capitalize()
            raise InvalidValueError(f"{option} {pair!r}: write {cure}, as in Python.") from error
        if re.fullmatch(r"[A-Za-z_/~][^\s()\[\]{}'\"]*", text):
            return text
        raise InvalidValueError(
            f"{option} {pair!r}: {text!r} is no Python literal. Write numbers, True, False, None, "
            "words, 'texts in quotes', or lists and dicts of them."
        ) from error
    try:
        return json.loads(json.dumps(value, allow_nan=False))  # as it is read from config.json
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{option} {pair!r}: {error}. Only what JSON can hold can be kept with the run: "
            "numbers, texts, True, False, None, lists and dicts."
        ) from error
