"""Options that the commands share: numbers in a range, names out of a list, the version.

A number that is not possible ends a command in one line, before anything is loaded. The names that
an option takes are looked up only when a command's help or a completion shows them: the tables that
hold them take seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from agents.arguments import shown
from agents.console import console, fail

Names = Callable[[], Iterable[str]]


def whole_option(
    *flags: str, least: int, most: int, help: str = "", word: str | None = None
) -> Any:
    """An option that takes a whole number.

    Args:
        *flags: its names, where they are not that of the parameter.
        least: the lowest value that is allowed.
        most: the highest.
        help: what it means.
        word: that may stand for a number.
    """
    allowed = f"a whole number of at least {least:,} and at most {most:,}"

    def check(param: typer.CallbackParam, value: Any) -> int | str | None:
        if value is None or value == word:
            return value  # type: ignore[no-any-return]
        try:
            number = int(value)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            _refuse(param, value, allowed if word is None else f"{allowed}, or {word!r}")
        return number

    metavar = "N" if word is None else f"N|{word}"
    return typer.Option(*flags, help=help, metavar=metavar, parser=str, callback=check)


def number_option(*flags: str, least: float, most: float, help: str = "") -> Any:
    """An option that takes a number; the arguments are those of `whole_option`."""

    def check(param: typer.CallbackParam, value: Any) -> float | None:
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            _refuse(param, value, f"a number of at least {least:g} and at most {most:g}")
        return number

    return typer.Option(*flags, help=help, metavar="NUMBER", parser=str, callback=check)


def _refuse(param: typer.CallbackParam, value: object, allowed: str) -> None:
    fail(f"{param.opts[0]} {shown(str(value))[1:-1]} must be {allowed}.", 2)


def name_option(names: Names, *flags: str, help: str, metavar: str = "NAME") -> Any:
    """An option that takes a name; a shell completes it, and the help shows every one.

    Args:
        names: gives the names.
        *flags: names of the option, where they are not that of the parameter.
        help: what it means, with ``{names}`` where the names are to stand.
        metavar: what stands for the value.
    """

    def complete(incomplete: str) -> list[str]:
        return [one for one in names() if one.startswith(incomplete)]

    _NAMES[help] = names
    return typer.Option(*flags, help=help, metavar=metavar, autocompletion=complete)


_NAMES: dict[str, Names] = {}  # by the help that is to show them


def command_app(**settings: bool) -> typer.Typer:
    """A command without decoration: plain help with ``-h``, and errors that are ours.

    Args:
        **settings: of `typer.Typer`, such as ``no_args_is_help``.
    """
    return typer.Typer(
        rich_markup_mode=None,  # plain help: more room for words, and flags without a type
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,  # type: ignore[arg-type]
    )


class Command(TyperCommand):
    """A command whose help shows what its options take."""

    def show_names(self) -> None:
        """Put names in their places in the help; it takes the time that their import takes."""
        for param in self.params:
            words = getattr(param, "help", None) or ""
            if words in _NAMES:
                param.help = words.replace("{names}", ", ".join(_NAMES[words]()))  # type: ignore[attr-defined]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, names included."""
        self.show_names()
        super().format_help(ctx, formatter)


def _say_version(asked: bool) -> None:
    if asked:
        console.print(f"prune-gym {version('prune-gym')}", highlight=False)
        raise typer.Exit


RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of the cluster: auto, or HOST:PORT of its head."),
]
GpusPerWorker = Annotated[
    float, number_option(least=0.0, most=64.0, help="GPUs of each worker, e.g. 0.5.")
]
Version = Annotated[
    bool,
    typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version."),
]
