"""``prune-gym prune`` and ``evaluate``: a search shown on a terminal, finished and reported."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.console import say
from prune_gym.budgets import BUDGETS, BudgetKey, amount, as_budget
from prune_gym.cli.cluster import in_cluster
from prune_gym.cli.console import progress_bar, say_words
from prune_gym.cli.display import SearchDisplay, trainer_of
from prune_gym.cli.remarks import say_unpruned, warn_of_loss
from prune_gym.cli.report import budget_in_words, table_rows, write_report
from prune_gym.cluster.measuring import check_measured
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import (
    BudgetError,
    FileError,
    NothingFeasibleError,
    RunFolderError,
    TrainerError,
    UnknownNameError,
)
from prune_gym.problem.checks import AUTO
from prune_gym.problem.fast_widths import multiples_in_words
from prune_gym.problem.make import make_problem
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.saving import load_with_masks
from prune_gym.problem.trust import check_trust, load_call, named_code
from prune_gym.searches.algorithms import check_algorithm, check_config
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.finalize import finish
from prune_gym.searches.fine_tuning import USUAL_STEPS, check_fine_tuning, words_of
from prune_gym.searches.remeasure import confirm, spread_in_words
from prune_gym.searches.result import SearchResult
from prune_gym.searches.run_folder import RunFolder, how_to_go_on
from prune_gym.searches.search import EVALUATIONS, Search, begin, lock_run
from prune_gym.utils.files import write_json
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.stopping import check_stop
from prune_gym.utils.words import score_in_words


def start(
    config: SearchConfig,
    arguments: dict[str, Any],
    path: Path,
    console: Console,
    evaluations: int | None = None,
    cluster: RayWorkers | None = None,
) -> None:
    """Run a new search into a folder. Everything is checked before the folder is made.

    Args:
        config: how to search; its timesteps may be 0.
        arguments: of `make_problem`.
        path: the folder to make.
        console: where to report.
        evaluations: networks to judge, where timesteps are 0; None = `EVALUATIONS`.
        cluster: what judges the networks; None = threads.
    """
    began = time.monotonic()
    RunFolder.check_free(path)
    check_algorithm(config.algo)
    check_stop()
    with in_cluster(cluster):
        _start(config, arguments, path, console, evaluations, began, cluster)


def _start(
    config: SearchConfig,
    arguments: dict[str, Any],
    path: Path,
    console: Console,
    evaluations: int | None,
    began: float,
    cluster: RayWorkers | None,
) -> None:
    problem, config = prepared(config, arguments, console, evaluations, cluster)
    with lock_run(path):
        _run(begin(problem, config, path, cluster=cluster), began, console)


def prepared(
    config: SearchConfig,
    arguments: dict[str, Any],
    console: Console,
    evaluations: int | None,
    cluster: RayWorkers | None,
) -> tuple[PruningProblem, SearchConfig]:
    """The problem of a new run, and its configuration with environment and timesteps.

    Args:
        config: see `start`.
        arguments: of `make_problem`.
        console: where to say what was loaded.
        evaluations: see `start`.
        cluster: likewise.

    Raises:
        ClusterError: its workers would measure a budget, each on its machine.
    """
    if cluster is not None and cluster.measure_on is None:
        check_measured(map(as_budget, arguments["budgets"]))
    console.print(f"loading {arguments['network']} and {arguments['dataset']} ...")
    problem = make_problem(**arguments)
    steps = config.timesteps or (evaluations or EVALUATIONS) * len(problem.groups)
    config = replace(config, timesteps=steps)
    check_config(config, problem)
    check_fine_tuning(problem, config.finetune_steps, config.distillation, config.ema)
    say_unpruned(problem, console)
    if arguments.get("round_to") == AUTO:
        say(f"filters per group: {multiples_in_words(problem)}", console)
    check_stop()
    return problem, config


def environment(env_id: str) -> dict[str, Any]:
    """Default arguments of a registered environment (raises UnknownNameError)."""
    from prune_gym import ENVIRONMENTS

    if env_id not in ENVIRONMENTS:
        raise unknown_name("environment", env_id, list(ENVIRONMENTS))
    return ENVIRONMENTS[env_id]


def resume(
    path: Path,
    timesteps: int | None,
    finish_now: bool,
    console: Console,
    *,
    trust: bool = False,
    evaluations: int | None = None,
    cluster: RayWorkers | None = None,
) -> None:
    """Continue a run.

    Args:
        path: its folder.
        timesteps: other timesteps than before lengthen or shorten it for good.
        finish_now: search no longer; fine-tune and test what was found.
        console: where to report.
        trust: whether code that the folder names may run.
        evaluations: the same in networks.
        cluster: what judges the networks; None = threads.
    """
    began = time.monotonic()
    folder, config = RunFolder.open(path)
    if evaluations is not None:
        timesteps = evaluations * max(1, len(config.groups))
    if timesteps is not None:
        config = config.lengthened(timesteps)
    if "picked_from" in folder.read_json("metrics.json"):
        raise RunFolderError(
            f"{path} was picked from another run, it holds no search; resume that one."
        )
    with in_cluster(cluster), lock_run(path):
        problem = problem_of(folder, config, trust=trust)
        if cluster is not None:
            check_measured(problem.budgets)
        check_stop()
        if timesteps is not None:  # for good, now that nothing is refused any more
            write_json(folder.path / "config.json", config.to_json())
        folder.note_command()
        _run(
            Search(problem, config, folder, cluster=cluster), began, console, finish_now=finish_now
        )


def problem_of(
    folder: RunFolder,
    config: SearchConfig,
    *,
    trust: bool,
    given: Collection[BudgetKey] = (),
) -> PruningProblem:
    """The problem of a run's configuration.

    Args:
        folder: the run.
        config: its configuration.
        trust: whether code that it names may run.
        given: budgets that the user named in this very call.

    Raises:
        RunFolderError: the configuration is damaged.
        TrustError: it names code, and nobody trusts it.
    """
    file = folder.path / "config.json"
    folder.check_has_problem(config)
    unknown = set(config.problem) - set(inspect.signature(make_problem).parameters)
    if unknown:
        raise RunFolderError(
            f"{file} is damaged: make_problem has no argument {min(unknown)!r}. Put the file back "
            "as it was, or start a new run."
        )
    check_trust(file, named_code(config.problem, given), trust)
    with importing(config):
        problem = make_problem(**config.problem)
    for budget, value in zip(problem.budgets, problem.unpruned_values.tolist(), strict=True):
        known = budget.counted is not None or (budget.name in BUDGETS and budget.deterministic)
        if not known or "unpruned_values" not in config.problem:
            continue
        found = budget(problem.network, problem.example)
        if not math.isclose(found, value, rel_tol=1e-6):
            raise RunFolderError(
                f"{file} is damaged: by problem.unpruned_values the unpruned network has "
                f"{budget.name} {value:.6g}, and it has {found:.6g}. Put the file back as it was."
            )
    return problem


@contextmanager
def importing(config: SearchConfig) -> Iterator[None]:
    """Where a name is not found here, the error says where the run began."""
    try:
        yield
    except UnknownNameError as error:
        if config.folder in ("", str(Path.cwd())):
            raise
        raise UnknownNameError(
            f"{error} The run began in {config.folder}: go on in that folder, or put it on "
            "PYTHONPATH."
        ) from error


def _saying_how_to_go_on(run: Callable[..., None]) -> Callable[..., None]:
    """What is to be done where a file cannot be written, as the disk is full."""

    @functools.wraps(run)
    def wrapped(search: Search, *args: Any, **kwargs: Any) -> None:
        with how_to_go_on(search.folder):
            run(search, *args, **kwargs)

    return wrapped


@_saying_how_to_go_on
def _run(search: Search, began: float, console: Console, *, finish_now: bool = False) -> None:
    """Search, fine-tune, test and report, as a terminal shows it."""
    folder, config = search.run_folder, search.config
    before = float(folder.read_json("state.json").get("wall_s", 0.0))

    def wall_s() -> float:
        return before + time.monotonic() - began

    result = search.result
    try:
        with progress_bar(console) as progress:
            search.on_progress = SearchDisplay(search, progress, console).update
            if not finish_now:
                result = search.run()
            if not result.stopped:
                result.archive.feasible_masks()  # an error must not wait for the bar below
                trainer = trainer_of(progress, config, search.problem, search.cluster)
                metrics = finish(result, folder.path, wall_s=wall_s, **vars(trainer))
                page = write_report(folder, config)
    except KeyboardInterrupt:
        result = replace(result, stopped=True)
    except BudgetError as error:
        kept = len(search.archive.trials)
        words = f"The {kept} networks recorded so far are kept" if kept else "None is recorded yet"
        raise BudgetError(
            f"{error}\n{words}. Mend the budget, then: {folder.resume_command}"
        ) from error
    except TrainerError as error:
        raise TrainerError(
            f"{error}\nThe search is kept. Mend the function, then: {folder.resume_command} "
            "--finish"
        ) from error
    except NothingFeasibleError as error:
        raise NothingFeasibleError(
            f"{error}\nGo on: {folder.resume_command} --evaluations {2 * search.evaluations}"
        ) from error
    finally:
        state = {"wall_s": wall_s(), "remembered": search.remembered}
        with suppress(FileError):  # its loss costs two numbers of the report
            write_json(folder.path / "state.json", state)
    if result.stopped:
        _say_stopped(result, folder, console)
        raise SystemExit(130)
    metrics["wall_s"] = wall_s()
    write_json(folder.path / "metrics.json", metrics)
    say_finished(search.problem, config, folder, metrics, page, console)


def say_finished(
    problem: PruningProblem,
    config: SearchConfig,
    folder: RunFolder,
    metrics: dict[str, Any],
    page: Path,
    console: Console,
) -> None:
    """Print what a run came to, and where it lies.

    Args:
        problem: of the unpruned network.
        config: of the run.
        folder: of the run.
        metrics: of its network.
        page: its report.
        console: where to print.
    """
    print_result(metrics, console)
    if config.finetune_steps is None and not metrics["finetune_steps"]:
        limits = " ".join(f"--budget {name}={limit:g}" for name, limit in metrics["limits"].items())
        say(
            "nothing was trained, as little is lost. To fine-tune: "
            f"prune-gym pick {folder.path} {limits} --finetune-steps {USUAL_STEPS}",
            console,
        )
    warn_of_loss(problem, metrics, console)
    console.print(f"report:  {page}")
    say(f"network: {load_call(config.problem.get('network'), repr(str(folder.path)))}", console)


def _say_stopped(result: SearchResult, folder: RunFolder, console: Console) -> None:
    best = result.archive.best
    found = "no feasible network yet"
    if best is not None:
        metric = result.problem.task.metric
        kind = "" if metric.name == "accuracy" else f"{metric.name} "
        score = f"best feasible {kind}{score_in_words(metric.value(best.accuracy))}"
        found = f"{score}, saved in {folder.path} (not fine-tuned)"
        if folder.fine_tuning.is_file():
            found = f"{score}; its fine-tuning is saved and goes on"
    console.print(f"\nstopped after {len(result)} networks; {found}.")
    console.print(f"go on:      {folder.resume_command}", markup=False)
    if best is not None:
        console.print(f"finish now: {folder.resume_command} --finish", markup=False)


def evaluate(path: Path, console: Console, *, trust: bool = False) -> None:
    """Load a run's network and judge it anew: the tensors, whatever the folder says of them.

    Args:
        path: the run folder.
        console: where to report.
        trust: whether code that the folder names may run.
    """
    folder, config = RunFolder.open(path)
    problem = problem_of(folder, config, trust=trust)
    network, masks = load_with_masks(folder.path, problem)
    network = network.to(problem.device)
    found = confirm(problem, masks, network)
    title = escape(str(path))
    table = Table("", "cost", "limit", "value", "", title=title, title_justify="left")
    values = found.costs * problem.unpruned_values
    for budget, cost, limit, value in zip(
        problem.budgets, found.costs, problem.limits, values, strict=True
    ):
        measured = found.measured.get(budget.name)
        spread = "" if measured is None else spread_in_words(measured)
        said = escape(amount(value, budget.unit))
        table.add_row(escape(budget.name), f"{cost:.4f}", f"{limit:g}", said, spread)
    console.print(table)
    console.print("within every limit" if found.feasible else "OVER A LIMIT")
    name = escape(str(problem.task.metric.name))
    console.print(f"validation {name} {score_in_words(problem.judge(network))}")
    if problem.data.test is not None:
        score = problem.judge(network, problem.data.test)
        console.print(f"test {name} {score_in_words(score)}")


def print_result(metrics: dict[str, Any], console: Console) -> None:
    """Print what a finished run came to."""
    table = Table("", "unpruned", "pruned", "ratio", box=None)
    for row in table_rows(metrics):
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    for name, limit in metrics["limits"].items():
        word = "within" if metrics["costs"][name] <= limit else "OVER"
        said = f"{name}: {metrics['costs'][name]:.4f}, {word} the limit {limit:g}"
        say_words(f"{said}{budget_in_words(metrics, name)}", console)
    worse = words_of(metrics.get("fine_tuned"))
    if worse:
        say_words(worse, console)
    if "picked_from" in metrics:
        many, seconds = f"{metrics['evaluations']:,}", f"{metrics['wall_s']:.0f} s"
        console.print(f"0 networks evaluated; chosen from the {many} of the run, in {seconds}")
        return
    remembered = metrics["remembered_evaluations"]
    known = f" ({remembered} of them known from before)" if remembered else ""
    kept = ", each within the limits of the run (--hard)" if metrics["hard"] else ""
    console.print(
        f"{metrics['evaluations']} networks evaluated{known}{kept} in {metrics['wall_s']:.0f} s"
    )
