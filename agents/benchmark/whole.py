"""The whole benchmark: runs of an algorithm on tasks and seeds, each kept as a row in a folder."""

from __future__ import annotations

import operator
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from agents.arguments import shown, whole_number
from agents.benchmark.entries import check_free, check_train, code_of, find_entry, name_of
from agents.benchmark.rows import check_out, read_row, row_path, write_row
from agents.benchmark.run import Row, Runner, Train
from agents.benchmark.suite import DEFAULT_SUITE, Suite, Task, load_suite, own_folder
from agents.errors import BenchmarkError, UnfitEnvError
from agents.ray_tasks import LOOK_EVERY_S, Cluster, Done, run_tasks
from agents.stopping import check_stop, stop_requested

DEFAULT_OUT = "prunebench"
MOST_JOBS = 1024
_RUNNERS: dict[tuple[str, str], Runner] = {}  # of the suite and task that were run last

Seeds = int | Iterable[int] | None


def benchmark(
    train: Train | str,
    *,
    suite: str | Path | Suite = DEFAULT_SUITE,
    tasks: str | Iterable[str] | None = None,
    seeds: Seeds = None,
    out: str | os.PathLike[str] = DEFAULT_OUT,
    name: str | None = None,
    jobs: int = 1,
    cluster: Cluster | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Run an algorithm on the benchmark; rows that are there already are not run again.

    ``train(make_env, seed, budget)`` trains as it likes in environments that it gets from
    ``make_env()`` (`agents.benchmark.MakeEnv`) and may judge ``budget`` networks; more raise
    `EvaluationsSpent`. It returns its policy: an object with the ``predict`` of
    Stable-Baselines3, a function observation -> action, a pair of one of these and a ``wrap``
    that gives an environment as the policy takes it, or None.

    Args:
        train: The algorithm: such a function, the name of an agent of the zoo or of an entry of the
            suite, or ``"module:function"``.
        suite: Name of a suite, or the file of one.
        tasks: By name or pattern, ``"table-*"``; all judged ones if left out.
        seeds: Of the tasks' seeds; all of them if left out.
        out: Folder of the rows, ``OUT/ALGORITHM/TASK/SEED.json``.
        name: Of the algorithm in its rows.
        jobs: Processes that run side by side; a function has to be importable then.
        cluster: A Ray cluster whose tasks the runs are, in place of processes here.
        report: Called with a line about every run.

    Returns:
        The rows of these tasks and seeds, those that were there among them.

    Raises:
        BenchmarkError: Something that the protocol does not allow, such as rows of another one in
            ``out``.
    """
    suite = load_suite(suite)
    if isinstance(train, str):
        algorithm, function = find_entry(train, suite, name)
    else:
        algorithm, function = check_free(name_of(train, None, name), suite), check_train(train)
    chosen = suite.choose(tasks)
    numbers = _whole_numbers(seeds)
    wanted = [(task, seed) for task in chosen for seed in seeds_of(task, numbers)]
    whole_number("jobs", jobs, 1, MOST_JOBS)
    if jobs > 1 and not isinstance(train, str):
        _check_sent(train, jobs)
    folder, code = own_folder(out), code_of(train, function)
    check_out(folder, suite, algorithm, code)
    ahead = [one for one in wanted if not row_path(folder, algorithm, one[0].name, one[1]).exists()]
    work: Work = _side_by_side if jobs > 1 else _one_by_one
    if cluster is not None:
        work = partial(_in_cluster, cluster)
    given = train if isinstance(train, str) else function
    done = len(wanted) - len(ahead)
    if done:
        report(f"{done} of {len(wanted)} runs are there already.")
    for number, (task, seed, run) in enumerate(
        work(suite, given, algorithm, ahead, jobs), done + 1
    ):
        said = f"{number}/{len(wanted)} {algorithm} {task.name} seed {seed}"
        try:
            row = run()
        except (Exception, SystemExit) as error:  # often of the algorithm's own code: seen as it is
            report(f"{said}: failed, {type(error).__name__}; the rows before it are kept")
            if isinstance(error, SystemExit):
                raise BenchmarkError(
                    f"{algorithm} on {task.name}, seed {seed}: it ended the program by "
                    f"SystemExit({shown(error.code)}); a training returns, or raises an error."
                ) from error
            raise
        if isinstance(row, str):
            report(f"{said}: left out: {row}")
            continue
        write_row(folder, {**row, "code": code})
        report(f"{said}: {in_words(row)}")
    paths = [row_path(folder, algorithm, task.name, seed) for task, seed in wanted]
    return [read_row(path, suite) for path in paths if path.exists()]


def in_words(row: Row) -> str:
    """What a run found, in a line."""
    best, score, parts = row["best"], row["score"], row["parts"]
    if best is not None:
        found = f"accuracy {best['accuracy']:.4f}"
    elif parts.count(None) < len(parts):
        found = f"{parts.count(None)} of {len(parts)} parts without a network within the limits"
    else:
        found = "nothing within the limits"
    scored = "" if score is None else f", score {score:.3f}"
    return f"{found}{scored}, {row['evaluations']} evaluations, {row['wall_s']:.1f} s"


def seeds_of(task: Task, seeds: list[int] | None) -> list[int]:
    """The seeds to run of a task.

    Raises:
        BenchmarkError: One that the task does not have.
    """
    if seeds is None:
        return list(task.seeds)
    for seed in seeds:
        if seed not in task.seeds:
            raise BenchmarkError(
                f"seeds: {shown(seed)} is none of task {task.name!r}, which has "
                f"{task.seeds.start} to {task.seeds.stop - 1}."
            )
    return list(dict.fromkeys(seeds))


def _whole_numbers(seeds: Any) -> list[int] | None:
    """Seeds as they were given, one or several, as numbers."""
    if seeds is None:
        return None
    try:
        given = list(seeds) if isinstance(seeds, Iterable) else [seeds]
        found = [operator.index(one) for one in given if not isinstance(one, bool)]
    except TypeError:
        given, found = [], []
    if not found or len(found) < len(given):
        raise BenchmarkError(
            f"seeds is {shown(seeds)}; it must be whole numbers, such as 3 or range(5); leave it "
            "out for all of a task."
        )
    return found


def _check_sent(train: Any, jobs: int) -> None:
    """Raise a BenchmarkError for a function that other processes cannot import."""
    try:
        pickle.dumps(train)
    except Exception as error:
        raise BenchmarkError(
            f"jobs is {jobs}, but train is {shown(train)}, which other processes cannot import; it "
            "must be a function of a module, or 'module:function'."
        ) from error


# -- runs ------------------------------------------------------------------------------------------

Ahead = list[tuple[Task, int]]
Run = Callable[[], Row | str]  # words in place of a row: why there is none
Runs = Iterator[tuple[Task, int, Run]]
Work = Callable[[Suite, Any, str, Ahead, int], Runs]


def _one_by_one(suite: Suite, train: Any, algorithm: str, ahead: Ahead, jobs: int) -> Runs:
    for task, seed in ahead:
        check_stop()
        yield task, seed, partial(_run, suite, train, algorithm, task, seed)


def _side_by_side(suite: Suite, train: Any, algorithm: str, ahead: Ahead, jobs: int) -> Runs:
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            futures = {
                pool.submit(_run, suite, train, algorithm, task, seed): (task, seed)
                for task, seed in ahead
            }
            waiting = set(futures)
            while waiting:
                if stop_requested():  # what is in work comes to its end, and is kept
                    waiting = {future for future in waiting if not future.cancel()}
                ended, waiting = wait(waiting, LOOK_EVERY_S, FIRST_COMPLETED)
                for future in ended:
                    if future.exception() is None or not stop_requested():
                        task, seed = futures[future]
                        yield task, seed, future.result
            check_stop()
        finally:
            pool.shutdown(cancel_futures=True)


def _in_cluster(
    cluster: Cluster, suite: Suite, train: Any, algorithm: str, ahead: Ahead, jobs: int
) -> Runs:
    def make(index: int) -> Run:
        return partial(_run, suite, train, algorithm, *ahead[index])

    def given(done: Done) -> tuple[Task, int, Run]:
        task, seed = ahead[done.index]
        return task, seed, partial(_value, f"{algorithm} on {task.name}, seed {seed}", done)

    failed: list[Done] = []  # they end the others; what is ready is kept first
    for done in run_tasks(
        make, len(ahead), cluster, stops=lambda: bool(failed) or stop_requested()
    ):
        if done.error is not None:
            failed.append(done)
        else:
            yield given(done)
    check_stop()
    yield from map(given, failed)


def _value(name: str, done: Done) -> Row | str:
    if done.error is not None:
        raise BenchmarkError(f"{name}: {done.error}")
    value: Row | str = done.value
    return value


def _run(suite: Suite, train: Any, algorithm: str, task: Task, seed: int) -> Row | str:
    function = find_entry(train, suite)[1] if isinstance(train, str) else train
    key = (suite.hash, task.name)
    if key not in _RUNNERS or _RUNNERS[key].task != task:  # what does not define it may differ
        _RUNNERS.clear()  # networks and data of one task at a time
        _RUNNERS[key] = Runner(suite, task)
    try:
        return _RUNNERS[key].run(function, algorithm, seed)
    except UnfitEnvError as error:
        return str(error)
