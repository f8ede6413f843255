"""``python -m agents.benchmark``: run an algorithm on the benchmark, show the leaderboard."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.arguments import MOST_REPS, MOST_WORKERS
from agents.console import say, user_errors
from agents.errors import AgentsError, BenchmarkError
from agents.options import (
    Command,
    GpusPerWorker,
    RayAddress,
    Version,
    command_app,
    whole_option,
)

if TYPE_CHECKING:
    from agents.benchmark.suite import Suite
    from agents.ray_tasks import Cluster

app = command_app(add_completion=False)


Algorithm = Annotated[
    str | None,
    typer.Argument(
        help="module:function of a train(make_env, seed, budget), or the name of an agent of the "
        "zoo or of an entry of the suite.",
    ),
]
SuiteName = Annotated[
    str, typer.Option("--suite", metavar="NAME", help="Name of a suite, or the file of one.")
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK", help="By name or pattern, 'table-*'; may be repeated."),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(metavar="SEEDS", help="Such as 0-9 or 0,3; all of the task if left out."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="For the rows, 'prunebench' if left out; or for tables and figures of the "
        "leaderboard.",
    ),
]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Of the algorithm in its rows.")]
Jobs = Annotated[int, whole_option(least=1, most=1024, help="Processes side by side.")]
RayWorkersOf = Annotated[
    int | None,
    whole_option(
        "--workers",
        least=1,
        most=MOST_WORKERS,
        help="Runs at once in a Ray cluster: --ray-address, RAY_ADDRESS, or a local one.",
    ),
]
ListTasks = Annotated[
    bool, typer.Option("--list", help="List the tasks that would be run, and end.")
]
Show = Annotated[
    bool, typer.Option("--leaderboard", help="Show the leaderboard in place of a run.")
]
Add = Annotated[
    list[Path] | None,
    typer.Option(metavar="FOLDER", help="Rows that the leaderboard shows, too; may be repeated."),
]
Packed = Annotated[
    Path | None,
    typer.Option("--pack", metavar="FILE", help="Of the added rows, NAME.jsonl.gz: a submission."),
]
Published = Annotated[
    bool, typer.Option(help="Whether the leaderboard has the rows of the package.")
]
Reps = Annotated[
    int, whole_option(least=20, most=MOST_REPS, help="Bootstrap samples of the leaderboard.")
]


@app.command(cls=Command, no_args_is_help=True)
def main(
    algorithm: Algorithm = None,
    suite: SuiteName = "prunebench-v1",
    tasks: Tasks = None,
    seeds: Seeds = None,
    out: Out = None,
    name: Name = None,
    jobs: Jobs = 1,
    workers: RayWorkersOf = None,
    ray_address: RayAddress = None,
    gpus_per_worker: GpusPerWorker = 0.0,
    list_tasks: ListTasks = False,
    show: Show = False,
    add: Add = None,
    packed: Packed = None,
    published: Published = True,
    reps: Reps = 2000,
    version: Version = False,
) -> None:
    """Run an algorithm on the benchmark, or show the leaderboard."""
    with user_errors(AgentsError, stopped="stopped; the same command goes on."):
        from agents.benchmark.suite import load_suite

        of_runs = {
            "--seeds": bool(seeds),
            "--name": name is not None,
            "--jobs": jobs != 1,
            "--workers": workers is not None,
            "--list": list_tasks,
        }
        _check_together(algorithm, show, bool(add) or packed is not None, of_runs)
        names = tasks or None
        loaded = load_suite(suite)
        if show:
            from agents.benchmark.leaderboard_report import show_leaderboard

            show_leaderboard(
                add or [],
                suite=loaded,
                tasks=names,
                out=out,
                packed=packed,
                published=published,
                reps=reps,
                say=say,
            )
        elif list_tasks:
            tuning = [] if names else list(loaded.tuning_tasks.values())
            for task in [*loaded.choose(names), *tuning]:
                seeds_of = f"seeds {task.seeds[0]} to {task.seeds[-1]}"
                kind = ", for tuning" if task.tuning else ""
                about = f"{task.category}; {task.evaluations} evaluations, {seeds_of}{kind}"
                say(f"{task.name}: {task.title} ({about})")
        else:
            cluster = _cluster(workers, ray_address, gpus_per_worker, jobs)
            _run(algorithm, loaded, names, seeds or [], out, name, jobs, cluster)


def _check_together(
    algorithm: str | None, show: bool, adds: bool, of_runs: Mapping[str, bool]
) -> None:
    """Raise a BenchmarkError for options that do not go together."""
    if show and algorithm is not None:
        raise BenchmarkError(
            f"--leaderboard runs nothing, but {algorithm!r} was given; run it first, then show "
            "its rows: --leaderboard --add FOLDER."
        )
    for option in (name for name, given in of_runs.items() if given and show):
        raise BenchmarkError(f"--leaderboard runs nothing, so that {option} says nothing there.")
    if adds and not show:
        raise BenchmarkError("--add and --pack are for the leaderboard: say --leaderboard, too.")


def _cluster(workers: int | None, address: str | None, gpus: float, jobs: int) -> Cluster | None:
    from agents.ray_tasks import Cluster

    for option, is_given in (("--ray-address", address), ("--gpus-per-worker", gpus)):
        if workers is None and is_given:
            raise BenchmarkError(f"{option} goes with --workers N.")
    if workers is not None and jobs > 1:
        raise BenchmarkError("--jobs are processes here, --workers those of a cluster; give one.")
    return None if workers is None else Cluster(workers, address, gpus=gpus)


def _run(
    algorithm: str | None,
    suite: Suite,
    tasks: list[str] | None,
    seeds: Sequence[str],
    out: Path | None,
    name: str | None,
    jobs: int,
    cluster: Cluster | None,
) -> None:
    from agents.benchmark.whole import DEFAULT_OUT, benchmark

    if algorithm is None:
        raise BenchmarkError(
            "no algorithm was given; say module:function or a name, or --leaderboard."
        )
    folder = Path(DEFAULT_OUT) if out is None else out
    rows = benchmark(
        algorithm,
        suite=suite,
        tasks=tasks,
        seeds=parse_seeds(seeds) or None,
        out=folder,
        name=name,
        jobs=jobs,
        cluster=cluster,
        report=say,
    )
    if not rows:
        raise BenchmarkError(f"algorithm {algorithm!r} fits none of these tasks.")
    for line in summary(rows):
        say(line)
    say(f"{len(rows)} rows in {folder}")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean scores of rows, a line for each task; of tasks for tuning, too.

    >>> summary([{"task": "a", "score": 0.25}, {"task": "a", "score": 0.75}])
    ['a: mean score 0.500 of 2 runs']
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row["score"] is not None:
            scores.setdefault(row["task"], []).append(row["score"])
    return [
        f"{task}: mean score {sum(own) / len(own):.3f} of {len(own)} run{'s' * (len(own) > 1)}"
        for task, own in scores.items()
    ]


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
            wanted = "the lower number first" if last < first else "at most 100,000 seeds"
            raise BenchmarkError(f"--seeds {text!r}: expected {wanted}, as in 0-9.")
        seeds.extend(range(first, last + 1))
    return seeds
