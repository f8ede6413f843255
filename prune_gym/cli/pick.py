"""Another answer out of a finished search: the best network it saw within other limits."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.console import say
from prune_gym.budgets import BUDGETS, BudgetKey, CommandSpec, as_budget
from prune_gym.cli.console import progress_bar
from prune_gym.cli.display import trainer_of
from prune_gym.cli.prune import importing, print_result, problem_of
from prune_gym.cli.remarks import warn_of_loss
from prune_gym.cluster.measuring import check_measured
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import (
    InvalidValueError,
    NothingFeasibleError,
    RunFolderError,
    TrainerError,
)
from prune_gym.problem.archive import Candidate, Front, measured_later
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.trust import check_trust, load_call, named_code
from prune_gym.pruning.masks import Masks
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.finalize import complete
from prune_gym.searches.front_files import FrontFiles
from prune_gym.searches.remeasure import CANDIDATES
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import lock_run
from prune_gym.utils.files import check_place, empty_folder
from prune_gym.utils.registry import suggest
from prune_gym.utils.words import score_in_words


def pick(
    path: Path,
    limits: Mapping[BudgetKey, Any],
    other: Mapping[str, Any],
    out: Path | None,
    console: Console,
    *,
    trust: bool = False,
    cluster: RayWorkers | None = None,
) -> None:
    """Take the most accurate network of a run that is within other limits, and finish it.

    It is built, recovered, fine-tuned and tested as at the end of a search, and written to a folder
    that `prune_gym.load_pruned` reads.

    Args:
        path: the run folder.
        limits: by budget; those that are not named are not limited. Registered budgets that give
            equal networks equal numbers are measured now where the search did not.
        other: what is to be other than in the run, ``finetune_steps`` or ``candidates``.
        out: the folder to make; None = ``picked-NAME=LIMIT`` in the run folder.
        console: where to report.
        trust: whether code that the folder names may run; budgets in ``limits`` may anyway.
        cluster: whose workers fine-tune several candidates; None = one after another.

    Raises:
        TrustError: the folder names code, and nobody trusts it.
        RunFolderError: no run, a run without a front, or a folder that is taken.
        ValueError: a budget whose cost is not known of the networks.
        NothingFeasibleError: no evaluated network is within the limits; names the nearest.
    """
    began = time.monotonic()
    folder, config = RunFolder.open(path)
    config.check_machine(cluster)
    _check_free(path, out)
    if config.rounds > 1:
        raise RunFolderError(
            f"{path} was pruned in {config.rounds} rounds, of which no network answers for other "
            "limits; start a new run: prune-gym prune --budget."
        )
    folder.check_has_problem(config)
    files = FrontFiles(folder.front, bool(config.problem.get("depth", False)))
    front = files.read(len(folder.read_episodes()))
    if not front:
        raise RunFolderError(
            f"{path} holds no {folder.front.name}: nothing was evaluated in it yet, or the run is "
            "of a version that kept the best network only."
        )
    meant = _meant(config, limits, front)
    named = named_code({**config.problem, "budgets": meant}, limits)
    check_trust(folder.path / "config.json", named, trust)
    front = _with_measured(front, limits, folder, config, console)
    config = replace(_with_limits(config, limits, front, meant), **other)
    problem = problem_of(folder, config, trust=trust, given=limits)
    if cluster is not None:
        check_measured(problem.budgets)
    folder.check_front(front, problem)
    within = front.within(dict(zip(problem.names, problem.limits, strict=True)))
    place = out or path / _folder_name(problem.names, limits.values())
    with lock_run(place):
        made = _begun_before(place, config) or RunFolder.create(place, config)
        within = within[: max(CANDIDATES, config.candidates)]
        if cluster is not None:
            _say_of_idle(cluster, min(config.candidates, len(within)), console)
        metrics = _finished(problem, config, within, made, folder, console, began, cluster)
    print_result(metrics, console)
    warn_of_loss(problem, metrics, console, best=max(one.accuracy for one in front))
    say(f"network: {load_call(config.problem.get('network'), repr(str(made.path)))}", console)


def _say_of_idle(cluster: RayWorkers, candidates: int, console: Console) -> None:
    """Say where workers have nothing to do: one network is fine-tuned in this process."""
    if candidates == 1 and cluster.measure_on is None:
        say(
            "--workers have nothing to do: one network is taken, and fine-tuned here; --candidates "
            "N gives them several.",
            console,
        )


def _check_free(path: Path, out: Path | None) -> None:
    if out is None:
        check_place(path / "picked")
    elif not os.path.isfile(RunFolder(out).fine_tuning):  # of the same pick, which goes on
        RunFolder.check_free(out)


def _begun_before(place: Path, config: SearchConfig) -> RunFolder | None:
    """The folder of the same pick, where its fine-tuning was stopped."""
    made = RunFolder(place)
    if not made.fine_tuning.is_file():
        return None
    same = RunFolder.open(place)[1].to_json() == config.to_json()
    return made if same else None


def _finished(
    problem: PruningProblem,
    config: SearchConfig,
    within: Sequence[Candidate],
    made: RunFolder,
    run: RunFolder,
    console: Console,
    began: float,
    cluster: RayWorkers | None,
) -> dict[str, Any]:
    """The one of the candidates to be handed over, finished; gives its metrics."""
    metric, masks_of = problem.task.metric, {one.number: one.masks for one in within}

    def told(masks: Masks) -> dict[str, Any]:
        number = next(number for number, own in masks_of.items() if own is masks)
        return {**_told(run), "picked_network": number}

    def in_turn() -> Iterator[Masks]:
        for one in within:
            score = metric.value(one.accuracy)
            said = f"validation {metric.name} {score_in_words(score)} as searched"
            console.print(f"network {one.number}: {said}")
            yield masks_of[one.number]

    try:
        with progress_bar(console) as progress:
            return complete(
                problem,
                config,
                in_turn(),
                made.path,
                told,
                lambda: time.monotonic() - began,
                trainer_of(progress, config, problem, cluster),
            )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and made.fine_tuning.is_file():
            console.print("the fine-tuning is saved; the same command goes on with it.")
            raise
        empty_folder(made.path)  # half a folder would be in the way of the next try
        if isinstance(error, TrainerError):
            raise TrainerError(
                f"{error} No network was picked. Mend the function, then: the same command."
            ) from error
        if isinstance(error, NothingFeasibleError):
            raise NothingFeasibleError(
                f"{error} No network was picked. Raise the limit, or search for it anew."
            ) from error
        raise


def _told(folder: RunFolder) -> dict[str, Any]:
    """What the metrics of a picked network say of the run that it is from."""
    return {
        "picked_from": str(folder.path),
        "evaluations": len(folder.read_episodes()),
        "remembered_evaluations": int(folder.read_json("state.json").get("remembered", 0)),
    }


def _folder_name(names: Iterable[str], limits: Iterable[Any]) -> str:
    """``picked-params=0.05``; names of budgets may hold what separates folders."""
    parts = (f"{name}={limit}" for name, limit in zip(names, limits, strict=True))
    return re.sub(r"[/:\\]", ".", f"picked-{','.join(parts)}")


def _with_measured(
    front: Front,
    limits: Mapping[BudgetKey, Any],
    folder: RunFolder,
    config: SearchConfig,
    console: Console,
) -> Front:
    """The front, measured by what a search does not measure of each network, but what is certain.

    A network that another one beat in all that was known of it is not there any more, even if it is
    the better one by this.
    """
    registered = [str(key) for key in limits if key in BUDGETS]
    names = [name for name in registered if name not in front.names]
    if not names:
        return front
    known = _of_budgets(config, {"params": 1.0})  # those of the run may be code, and are not needed
    problem = problem_of(folder, known, trust=True)
    further = measured_later(problem, names)
    if further is None:
        return front
    folder.check_front(front, problem)
    console.print(f"measuring the {len(front)} networks of the front: {', '.join(names)}")
    return front.with_costs(further)


def _meant(
    config: SearchConfig, limits: Mapping[BudgetKey, Any], front: Front
) -> dict[BudgetKey, Any]:
    """The budgets of the run that the limits are on.

    What a name of its reports stands for is known only once all of them are imported.
    """
    held: dict[BudgetKey, Any] = config.problem.get("budgets", {})
    names = [key for key in limits if key not in held and key not in BUDGETS]
    if any(name in front.names for name in names):
        return held
    commands = {name.command for name in names if isinstance(name, CommandSpec)}
    return {
        key: limit
        for key, limit in held.items()
        if key in limits or (isinstance(key, CommandSpec) and key.command in commands)
    }


def _with_limits(
    config: SearchConfig,
    limits: Mapping[BudgetKey, Any],
    front: Front,
    meant: Mapping[BudgetKey, Any],
) -> SearchConfig:
    """The configuration with other limits; raises for a budget that the front does not know.

    A budget may be named as in the run's command (``module:function``) or as in its reports.
    """
    with importing(config):
        given = {as_budget(key).name: key for key in meant}
    programs = {spec.command: spec for spec in given.values() if isinstance(spec, CommandSpec)}
    budgets: dict[BudgetKey, Any] = {}
    for name, limit in limits.items():
        key: BudgetKey = given.get(name, name) if isinstance(name, str) else name
        if isinstance(name, CommandSpec):
            key = programs.get(name.command, name)  # from any folder
        known = name in front.names or key in given.values()
        if not known:
            raise InvalidValueError(
                f"--budget '{name}': its cost was not kept of the networks of this run."
                f"{'' if name in BUDGETS else suggest(str(name), list(front.names))} Known: "
                f"{', '.join(front.names)}. For others, start a search: prune-gym prune --budget."
            )
        if key in budgets:
            raise InvalidValueError(f"--budget '{name}' is given twice; give one limit for it.")
        budgets[key] = limit
    return _of_budgets(config, budgets)


def _of_budgets(config: SearchConfig, budgets: dict[BudgetKey, Any]) -> SearchConfig:
    """The configuration with other budgets."""
    problem = {**config.problem, "budgets": budgets}
    names = {as_budget(key).name for key in budgets}
    unpruned = config.problem.get("unpruned_values") or {}  # older versions wrote none
    problem["unpruned_values"] = {n: value for n, value in unpruned.items() if n in names}
    return replace(config, problem=problem)
