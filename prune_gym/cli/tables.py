"""``python -m prune_gym.tables``: make a table, list those of the package, look at one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from agents.console import plain_warnings, say
from agents.files import user_path
from agents.options import Command, command_app
from agents.stopping import take_over
from prune_gym.cli import options
from prune_gym.cli.console import LINE_EVERY_S, is_live, progress_bar, time_left, user_errors
from prune_gym.errors import InvalidValueError

app = command_app(no_args_is_help=True)
console = Console(soft_wrap=True, emoji=False)

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="A table of the package, to make it anew.")
]
Network = Annotated[
    str | None,
    options.name_option(
        options.names.networks, help="A registered network ({names}), or module:function."
    ),
]
Levels = Annotated[
    list[float] | None,
    typer.Option(
        "--level",
        metavar="FRACTION",
        help="A fraction of every group's filters that may stay; repeat it. Default: 1/16, 1/8, "
        "3/16, 1/4, 3/8, 1/2, 3/4, 1.",
    ),
]
Measured = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME",
        help="A budget that is measured on every network, e.g. latency_ms; may be repeated. What "
        "is counted is in every table.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where the table goes; default NAME.npz here."),
]
Of = Annotated[str, typer.Argument(metavar="TABLE", help="A file, or a table of the package.")]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="NAME=LIMIT",
        help="Show the optimum within it; several belong together.",
    ),
]


def main() -> None:
    """Entry point of the command."""
    take_over()
    plain_warnings()
    app()


@app.callback()
def common(version: options.Version = False) -> None:
    """Exact tables: every network of a grid, judged."""


@app.command(cls=Command, short_help="Judge every network of a grid; goes on where it stopped.")
def make(
    name: Name = None,
    network: Network = None,
    dataset: options.Dataset = "digits",
    weights: options.Weights = None,
    criterion: options.Criterion = "l1",
    recovery: options.Recovery = "bn",
    round_to: options.RoundTo = "1",
    ignore: options.Ignore = None,
    evaluation_samples: options.EvaluationSamples = None,
    level: Levels = None,
    budget: Measured = None,
    out: Out = None,
    version: options.Version = False,
) -> None:
    """Judge every network of a grid, and write the table; stopped, it goes on with what it has."""
    from prune_gym.tables.make import FRACTIONS
    from prune_gym.tables.recipes import recipe_of

    with user_errors("stopped; the same command goes on with it."):
        if (name is None) == (network is None):
            raise InvalidValueError("give the NAME of a table of the package, or --network NAME.")
        given: dict[str, Any] = {
            "dataset": dataset,
            "weights": None if weights is None else str(user_path(weights).resolve()),
            "criterion": criterion,
            "recovery": recovery,
            "round_to": round_to,
            "ignore": ignore or [],
            "evaluation_samples": evaluation_samples,
        }
        levels: tuple[float, ...] = tuple(level or FRACTIONS)
        if network is not None:
            given["network"] = network
            file = f"{network}-{dataset}-{criterion}".replace(":", ".").replace("/", "_")
        else:
            recipe = recipe_of(str(name))
            given, levels, file = recipe.arguments, tuple(level or recipe.levels), str(name)
        given["budgets"] = {one: 1.0 for one in budget or ["params"]}
        _make(given, levels, Path(f"{file}.npz") if out is None else user_path(out))


def _make(arguments: dict[str, Any], levels: tuple[float, ...], out: Path) -> None:
    from prune_gym.problem.make import make_problem
    from prune_gym.tables.files import save_table
    from prune_gym.tables.make import check_fractions, make_table, n_networks
    from prune_gym.utils.files import check_writable

    check_fractions(levels)
    if out.suffix != ".npz":
        raise InvalidValueError(f"--out {out}: a table is an .npz file; give {out.name}.npz.")
    check_writable(out)
    partial = out.with_suffix(".partial")
    problem = make_problem(**arguments)
    total = n_networks(problem, levels)
    with progress_bar(console) as bar:
        task = bar.add_task("networks", total=total, detail="")
        said = _Lines(total)

        def progress(done: int) -> None:
            bar.update(task, completed=done)
            said(done)

        table = make_table(problem, levels, partial=partial, progress=progress)
    save_table(table, out)
    partial.unlink(missing_ok=True)
    say(f"{out}: {table!r}, {out.stat().st_size:,} bytes", console)


class _Lines:
    """Lines of progress, now and then, where no bar moves."""

    def __init__(self, total: int) -> None:
        self.total, self.first = total, -1
        self.began = self.said = time.monotonic()

    def __call__(self, done: int) -> None:
        if self.first < 0:
            self.first = done
            if done:
                say(f"{done:,} of {self.total:,} networks are there already", console)
        now = time.monotonic()
        if is_live(console) or now - self.said < LINE_EVERY_S or done <= self.first:
            return
        self.said = now
        left = (self.total - done) * (now - self.began) / (done - self.first)
        say(f"networks {done:,}/{self.total:,}  {time_left(left)}", console)


@app.command("list", cls=Command, short_help="Name the tables of the package.")
def list_tables(version: options.Version = False) -> None:
    """List the tables of the package, and the recipes of those that it does not hold."""
    from prune_gym.tables.files import load_table, shipped_tables
    from prune_gym.tables.recipes import RECIPES

    with user_errors():
        there = shipped_tables()
        for name in sorted({*there, *RECIPES}):
            words = repr(load_table(name)) if name in there else "to be made"
            say(f"{name}: {words}", console)


@app.command(cls=Command, short_help="Show what a table holds, and what is best in it.")
def show(table: Of, budget: Limit = None, version: options.Version = False) -> None:
    """Show what a table holds, and its best network within limits."""
    from prune_gym.cli.main import parse_budgets
    from prune_gym.tables.files import load_table

    with user_errors():
        found = load_table(table)
        say(repr(found), console)
        for name, size, levels in zip(found.groups, found.sizes, found.levels, strict=True):
            say(f"  {name}: {', '.join(map(str, levels))} of {size} filters", console)
        limits = [{found.budgets[0]: share} for share in (0.03, 0.05, 0.1, 0.2)]
        if budget:
            given = parse_budgets(budget)
            limits = [{str(key): _fraction(key, limit) for key, limit in given.items()}]
        for one in limits:
            words = ", ".join(f"{name}={limit:g}" for name, limit in one.items())
            if not found.is_within(one).any():
                say(f"within {words}: no network", console)
                continue
            best, share = found.optimum(one), found.is_within(one).mean()
            say(
                f"within {words} ({share:.2%} of all networks): accuracy {best.accuracy:.4f} with "
                f"{', '.join(map(str, best.counts))} filters",
                console,
            )


def _fraction(name: Any, limit: float | str) -> float:
    if isinstance(limit, str):
        raise InvalidValueError(f"--budget {name}={limit}: expected a fraction in (0, 1].")
    return limit
