"""``python -m agents.benchmark``: run an algorithm on the benchmark, show the leaderboard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agents.console import say, user_errors
from agents.errors import AgentsError, BenchmarkError
from agents.options import Command, Version, whole_option

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(cls=Command, no_args_is_help=True)
def main(
    algorithm: Annotated[
        str,
        typer.Argument(
            help="module:function of a train(make_env, seed, budget), or the name of an agent of "
            "the zoo or of an entry of the suite.",
        ),
    ],
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="Name of a suite, or the file of one.")
    ] = "prunebench-v1",
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="By name or pattern, 'table-*'; may be repeated."),
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(metavar="SEEDS", help="Such as 0-9 or 0,3; all of the task if left out."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Of the rows.")] = Path("prunebench"),
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the algorithm in its rows.")
    ] = None,
    jobs: Annotated[int, whole_option(least=1, most=1024, help="Processes side by side.")] = 1,
    list_tasks: Annotated[
        bool, typer.Option("--list", help="List the tasks that would be run, and end.")
    ] = False,
    version: Version = False,
) -> None:
    """Run an algorithm on the benchmark."""
    with user_errors(AgentsError, stopped="stopped; the same command goes on."):
        from agents.benchmark.suite import load_suite

        names = None if not tasks else [part for one in tasks for part in one.split(",")]
        numbers = None if not seeds else parse_seeds(seeds)
        loaded = load_suite(suite)
        chosen = loaded.choose(names)
        if list_tasks:
            for task in chosen:
                say(f"{task.name}: {task.title} ({task.evaluations} evaluations)")
            return
        from agents.benchmark.whole import benchmark

        rows = benchmark(
            algorithm,
            suite=loaded,
            tasks=names,
            seeds=numbers,
            out=out,
            name=name,
            jobs=jobs,
            report=say,
        )
        if not rows:
            raise BenchmarkError(f"algorithm {algorithm!r} fits none of these tasks.")
        say(f"{len(rows)} rows in {out}")


def parse_seeds(given: Sequence[str]) -> list[int]:
    """Seeds of texts such as ``0-9`` or ``0,3``.

    Raises:
        BenchmarkError: One that is no such text.

    >>> parse_seeds(["0-2,7", "9"])
    [0, 1, 2, 7, 9]
    """
    seeds: list[int] = []
    for text in (part.strip() for one in given for part in one.split(",")):
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
        if not found:
            raise BenchmarkError(f"--seeds {text!r}: expected numbers, such as 0-9 or 0,3.")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if not first <= last < first + 100_000:
            raise BenchmarkError(f"--seeds {text!r}: expected the lower number first, as in 0-9.")
        seeds.extend(range(first, last + 1))
    return seeds
