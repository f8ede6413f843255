"""``prune-gym prune --rounds``: searches in a row on a terminal, and what they came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress as BarProgress

from agents.console import say
from prune_gym.cli.cluster import in_cluster
from prune_gym.cli.console import progress_bar
from prune_gym.cli.display import SearchDisplay, trainer_of
from prune_gym.cli.prune import prepared, problem_of, say_finished
from prune_gym.cli.report import write_report
from prune_gym.cli.scores import metric_of
from prune_gym.cluster.measuring import check_measured
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import (
    BudgetError,
    FileError,
    NothingFeasibleError,
    RunFolderError,
    TrainerError,
)
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.algorithms import check_algorithm
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.fine_tuning import USUAL_STEPS
from prune_gym.searches.rounds import Show, check_in_rounds, in_rounds
from prune_gym.searches.run_folder import RunFolder, how_to_go_on
from prune_gym.searches.search import Search, lock_run
from prune_gym.searches.several import Trainer
from prune_gym.utils.files import write_json
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
    """Prune in rounds, into a new folder; see `prune_gym.cli.prune.start`."""
    began = time.monotonic()
    RunFolder.check_free(path)
    check_algorithm(config.algo)
    if config.finetune_steps is None:
        config = replace(config, finetune_steps=USUAL_STEPS)
    check_stop()
    with in_cluster(cluster):
        problem, config = prepared(config, arguments, console, evaluations, cluster)
        check_in_rounds(problem, config)
        with lock_run(path):
            config = config.of(problem, cluster)
            folder = RunFolder.create(path, config)
            _run(problem, config, folder, began, console, cluster)


def are_in(path: Path) -> bool:
    """Whether a folder is of a run in rounds; what is wrong with it is said elsewhere."""
    with suppress(RunFolderError):
        return RunFolder.open(path)[1].rounds > 1
    return False


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
    """Go on with a run in rounds; see `prune_gym.cli.prune.resume`."""
    began = time.monotonic()
    folder, config = RunFolder.open(path)
    config.check_machine(cluster)
    if finish_now or timesteps is not None or evaluations is not None:
        raise RunFolderError(
            f"{path} was begun with --rounds {config.rounds}, among which its evaluations are "
            "shared out: --finish, --evaluations and --timesteps do not go with it."
        )
    with in_cluster(cluster), lock_run(path):
        problem = problem_of(folder, config, trust=trust)
        if cluster is not None:
            check_measured(problem.budgets)
        check_stop()
        folder.note_command()
        _run(problem, config, folder, began, console, cluster)


def _run(
    problem: PruningProblem,
    config: SearchConfig,
    folder: RunFolder,
    began: float,
    console: Console,
    cluster: RayWorkers | None,
) -> None:
    """The rounds that are left, as a terminal shows them, and the report."""
    before = float(folder.read_json("state.json").get("wall_s", 0.0))

    def wall_s() -> float:
        return before + time.monotonic() - began

    try:
        with _saying_how_to_go_on(folder), progress_bar(console) as bars:
            show = _shown(config, folder, bars, console)
            metrics = in_rounds(problem, config.problem, config, folder, wall_s, show, cluster)
            page = write_report(folder, config)
    except KeyboardInterrupt:
        number = max(1, len(folder.searches(config)))
        console.print(f"\nstopped in round {number} of {config.rounds}; what was done is kept.")
        console.print(f"go on: {folder.resume_command}", markup=False)
        raise SystemExit(130) from None
    finally:
        with suppress(FileError):  # its loss costs a number of the report
            write_json(folder.path / "state.json", {"wall_s": wall_s()})
    say_finished(problem, config, folder, metrics, page, console)


def _shown(config: SearchConfig, run: RunFolder, bars: BarProgress, console: Console) -> Show:
    """Says which round begins, and with what; shows its search and its fine-tuning."""

    def show(number: int, search: Search) -> Callable[[], Trainer]:
        if number > 1:
            before = run.round(number - 1).read_json("metrics.json")
            name, score = metric_of(before), before["accuracy"]["finetuned_validation"]
            say(f"round {number - 1} left {name} {score_in_words(score)} (validation)", console)
        limits = zip(search.problem.names, search.problem.limits, strict=True)
        said = ", ".join(f"{name} {limit:.4g}" for name, limit in limits)
        console.print(f"round {number} of {config.rounds}: at most {said} of what it begins with")
        search.on_progress = SearchDisplay(search, bars, console).update
        return partial(trainer_of, bars, search.config, search.problem, search.cluster)

    return show


@contextmanager
def _saying_how_to_go_on(folder: RunFolder) -> Iterator[None]:
    """What is to be done where a round breaks off."""
    try:
        with how_to_go_on(folder):
            yield
    except (BudgetError, TrainerError) as error:
        raise type(error)(
            f"{error}\nWhat was done is kept. Mend it, then: {folder.resume_command}"
        ) from error
    except NothingFeasibleError as error:
        raise NothingFeasibleError(
            f"{error}\nGive a new run more --evaluations, fewer --rounds, or a higher limit."
        ) from error
