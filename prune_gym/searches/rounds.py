"""Pruning in rounds: search, fine-tune, and search again in what was left.

Each round is a search as any other, in a folder of its own inside the run's, and its network, fine-
tuned, is what the next round prunes. Limits fall geometrically from the unpruned network to the
limits that were asked for. What is handed over is a network of the unpruned one: its filters are
those that every round kept. Han et al. (2015, https://arxiv.org/abs/1506.02626) prune and train in
turns, in this way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from prune_gym.cluster.measuring import check_measured
from prune_gym.cluster.workers import RayWorkers, as_workers
from prune_gym.envs.checks import check_flag
from prune_gym.errors import InvalidValueError, NothingFeasibleError
from prune_gym.problem.make import make_problem
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.saving import load_pruned, read_plan
from prune_gym.pruning.masks import Masks
from prune_gym.searches.algorithms import check_algorithm, check_config, usual_algorithm
from prune_gym.searches.config import MEASURED, SearchConfig
from prune_gym.searches.finalize import Finished, dense_scores, finish, hand_over
from prune_gym.searches.fine_tuning import USUAL_STEPS, FineTuned, check_fine_tuning
from prune_gym.searches.remeasure import confirm
from prune_gym.searches.result import PrunedNetwork
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.search import EVALUATIONS, Search, begin, env_id, lock_run
from prune_gym.searches.several import Trainer
from prune_gym.utils.arguments import (
    MOST_CANDIDATES,
    MOST_EVALUATIONS,
    MOST_ROUNDS,
    MOST_SEED,
    MOST_STEPS,
    check_decay,
    check_share,
    whole_number,
)
from prune_gym.utils.files import user_path
from prune_gym.utils.stopping import Stopped

_SUMS = tuple(
    f"{kind}evaluations" for kind in ("", "remembered_", "feasible_", "infeasible_", "partial_")
)

# called with a round and its search before it starts; gives what makes the trainer at its end
Show = Callable[[int, Search], Callable[[], Trainer]]


def search_in_rounds(
    rounds: int,
    out: Path | str,
    algo: str | None = None,
    *,
    evaluations: int = EVALUATIONS,
    finetune_steps: int = USUAL_STEPS,
    seed: int = 0,
    hard: bool = False,
    racing: bool = False,
    distillation: float = 0.0,
    ema: float = 0.0,
    candidates: int = 1,
    workers: int | RayWorkers | None = None,
    **problem: Any,
) -> PrunedNetwork:
    """Prune and fine-tune in turns; the same call goes on with rounds that were stopped.

    Args:
        rounds: how many, from 2 on; one is `prune_gym.search`.
        out: folder of the run; each round is a run folder in it.
        algo: a name of ``prune-gym list algorithms``; None: see `prune_gym.search`.
        evaluations: networks to be judged in all rounds together.
        finetune_steps: optimizer steps of all rounds together.
        seed: of the first round; the others count on from it.
        hard: whether every judged network is kept within the limits of its round.
        racing: see `prune_gym.search`.
        distillation: share of the loss that follows the network that a round began with, in [0, 1].
        ema: decay of the average of weights that fine-tuning hands over; 0 = the last weights.
        candidates: so many of the best networks of a round are fine-tuned, for its steps each, and
            the one that is best then is taken.
        workers: see `prune_gym.search`; they train the candidates, too. With ``measure_on`` the
            call stands in their session, as where a problem is made.
        **problem: arguments of `prune_gym.make_problem`, which the last round's network meets.

    Raises:
        ValueError: an argument that is not allowed; what `make_problem` raises.
        RunFolderError: ``out`` holds another run.
        NothingFeasibleError: a round found no network within its limits.
        Stopped: Ctrl-C or SIGTERM, a ``KeyboardInterrupt``; what was done is kept.
    """
    folder = RunFolder(user_path(out))
    rounds = whole_number("rounds", rounds, 2, MOST_ROUNDS)
    env = env_id("layer", problem.get("structure", "filter"), check_flag("hard", hard))
    algo = usual_algorithm(env) if algo is None else algo
    check_algorithm(algo)
    cluster = as_workers(workers)
    before = RunFolder.open(folder.path)[1] if (folder.path / "config.json").is_file() else None
    if before is not None:
        before.check_machine(cluster)
    measured = {} if before is None else {name: before.problem.get(name) for name in MEASURED}
    first = make_problem(**{**measured, **problem})
    if cluster is not None:
        check_measured(first.budgets)
    config = SearchConfig(
        env=env,
        algo=algo,
        timesteps=whole_number("evaluations", evaluations, 1, MOST_EVALUATIONS) * len(first.groups),
        seed=whole_number("seed", seed, 0, MOST_SEED),
        finetune_steps=whole_number("finetune_steps", finetune_steps, 0, MOST_STEPS),
        problem={},
        distillation=check_share("distillation", distillation),
        ema=check_decay("ema", ema),
        candidates=whole_number("candidates", candidates, 1, MOST_CANDIDATES),
        hard=hard,
        racing=check_flag("racing", racing),
        rounds=rounds,
    )
    check_in_rounds(first, config)
    config = config.of(first, cluster)
    if before is not None:
        _check_same_settings(before, config, out)
    with lock_run(folder.path):
        if before is None:
            RunFolder.create(folder.path, config)
        began = time.monotonic()
        in_rounds(first, problem, config, folder, lambda: time.monotonic() - began, cluster=cluster)
    metrics = folder.read_json("metrics.json")
    network, masks = _rebuilt(first, folder, config.rounds)
    score = float(metrics["accuracy"]["finetuned_validation"])
    return PrunedNetwork(first, masks, network, score, 0, config.network_name)


def _check_same_settings(before: SearchConfig, now: SearchConfig, out: Path | str) -> None:
    """Raise InvalidValueError unless a run that is there has the same settings."""
    own = {**vars(now), "folder": before.folder}  # wherever they were begun
    other = [name for name, value in vars(before).items() if own[name] != value]
    if other:
        raise InvalidValueError(
            f"out={str(out)!r} holds a run with other settings ({', '.join(other)}); give the same "
            "ones, or another folder."
        )


def check_in_rounds(problem: PruningProblem, config: SearchConfig) -> None:
    """Raise InvalidValueError for rounds that cannot be, before anything is searched.

    Args:
        problem: of the unpruned network.
        config: of the run.
    """
    check_config(config, problem)
    check_fine_tuning(problem, config.finetune_steps, config.distillation, config.ema)
    rounds, steps = config.rounds, config.finetune_steps
    if problem.structure == "weight":
        raise InvalidValueError(
            f"rounds={rounds} goes with structure='filter' only, where what was removed is gone; "
            "leave one of them out."
        )
    if steps is not None and steps < rounds:
        raise InvalidValueError(
            f"finetune_steps={steps} is too few for rounds={rounds}: each round is fine-tuned, for "
            f"one step at least (without training between them, rounds are one search); give at "
            f"least {rounds}."
        )
    evaluations = config.timesteps // len(problem.groups)
    if evaluations < rounds:
        raise InvalidValueError(
            f"evaluations={evaluations} is too few for rounds={rounds}: each round judges one "
            f"network at least; give at least {rounds}."
        )


def in_rounds(
    first: PruningProblem,
    arguments: Mapping[str, Any],
    config: SearchConfig,
    folder: RunFolder,
    wall_s: Callable[[], float],
    show: Show | None = None,
    cluster: RayWorkers | None = None,
) -> dict[str, Any]:
    """Run the rounds that are left, and hand over the network of the last one.

    Args:
        first: the problem of the unpruned network.
        arguments: of `make_problem`, by which it was made.
        config: of the run.
        folder: of the run.
        wall_s: gives the seconds spent on the run so far.
        show: called with each round's number and search before it starts.
        cluster: what judges networks; None = threads.

    Returns:
        What ``metrics.json`` of the run holds.

    Raises:
        NothingFeasibleError: a round found no network within its limits, or the last network
            measures above them.
        Stopped: a stop was asked for; the rounds go on with the next call.
    """
    n = config.rounds
    masks: Masks = tuple(np.ones(group.n_filters, dtype=np.bool_) for group in first.groups)
    network, told = first.network, []
    for number in range(1, n + 1):
        place = folder.round(number)
        metrics = place.read_json("metrics.json")
        if not metrics:
            limits = _limits(first, masks, network, number / n, place)
            problem = _of_what_is_left(first, arguments, network, limits)
            metrics = _one_round(problem, config, number, place, wall_s, show, cluster)
        network = load_pruned(place.path, network).to(first.device)
        masks = _kept(first, masks, place)
        told.append(_told(number, metrics))
    confirmed = confirm(first, masks, network)
    if not confirmed.feasible:
        raise NothingFeasibleError(
            f"measured beside the unpruned network, that of the last round is over a limit: "
            f"{confirmed}. A budget is noisy, or depends on weights."
        )
    scores = {**metrics["accuracy"], **dense_scores(first)}
    tuned, steps = FineTuned(**metrics["fine_tuned"]), sum(row["finetune_steps"] for row in told)
    sums = {name: sum(int(row[name]) for row in told) for name in _SUMS}
    more = {**sums, "rounds": told, "search_s": sum(float(row["search_s"]) for row in told)}
    most = max(row["candidates"] for row in told)
    done = Finished(masks, network, scores, tuned, confirmed, steps, most)
    return hand_over(first, config, done, folder.path, more, wall_s)


def _one_round(
    problem: PruningProblem,
    config: SearchConfig,
    number: int,
    place: RunFolder,
    wall_s: Callable[[], float],
    show: Show | None,
    cluster: RayWorkers | None,
) -> dict[str, Any]:
    """Search, or go on, and finish; gives the metrics of the round."""
    if (place.path / "config.json").is_file():
        _, own = RunFolder.open(place.path)
        own.check_same(problem)
        search = Search(problem, own, place, cluster=cluster)
    else:
        evaluations = _part(config.timesteps // len(config.groups), config.rounds, number)
        own = replace(
            config,
            timesteps=evaluations * len(problem.groups),
            seed=(config.seed + number - 1) % (MOST_SEED + 1),
            finetune_steps=_part(config.finetune_steps or 0, config.rounds, number),
            problem={},
            rounds=1,
        )
        search = begin(problem, own, place.path, cluster=cluster)
    trainer = (show or _silent)(number, search)
    before = wall_s()
    result = search.run()
    if result.stopped:
        raise Stopped
    return finish(result, place.path, wall_s=lambda: wall_s() - before, **vars(trainer()))


def _silent(number: int, search: Search) -> Callable[[], Trainer]:
    """Show nothing."""
    return lambda: Trainer(lambda step, loss: None, cluster=search.cluster)


def _limits(
    first: PruningProblem, masks: Masks, network: nn.Module, progress: float, place: RunFolder
) -> list[float]:
    """Limits of a round, (n_budgets,), relative to the network that it begins with.

    Args:
        first: the problem of the unpruned network.
        masks: of the network.
        network: what was left, fine-tuned.
        progress: number of the round by that of all.
        place: of the round; what was measured when it began holds.
    """
    if (place.path / "config.json").is_file():
        return list(RunFolder.open(place.path)[1].limits.values())
    limits = np.array(first.limits) ** progress / confirm(first, masks, network).costs
    # a cost of the unpruned network is to be within its limit to the last bit
    found: list[float] = np.minimum(1.0, limits * (1.0 - 1e-12)).tolist()
    return found


def _of_what_is_left(
    first: PruningProblem,
    arguments: Mapping[str, Any],
    network: nn.Module,
    limits: Sequence[float],
) -> PruningProblem:
    """The problem of a network that was pruned before, with limits that are relative to it.

    Args:
        first: the problem of the unpruned network; its data and widths are kept.
        arguments: of `make_problem`, by which it was made.
        network: what was left, fine-tuned.
        limits: (n_budgets,) in (0, 1]; where the network is within one already, it is 1.
    """
    names = {name for name, _ in network.named_modules()}
    ignore = [name for name in arguments.get("ignore", ()) if name in names]
    own = ("train", "validation", "test", "collate", "unpruned_values", "weights")
    return make_problem(
        **{
            **{name: value for name, value in arguments.items() if name not in own},
            "network": network,
            "dataset": first.data,
            "budgets": dict(zip(first.budgets, limits, strict=True)),
            "round_to": first.round_to,
            "batch_size": first.evaluator.validation.batch_size,
            "ignore": ignore,
        }
    )


def _kept(first: PruningProblem, masks: Masks, place: RunFolder) -> Masks:
    """Keep masks of the unpruned network after one more round."""
    rows = {row["name"]: row for row in read_plan(place.path)["groups"]}
    found = []
    for group, mask in zip(first.groups, masks, strict=True):
        kept = np.flatnonzero(mask)
        row = rows.get(group.name)  # groups of a block that went are there no more
        if row is not None:
            kept = kept[row["kept"]]
        mask = np.zeros(group.n_filters, dtype=np.bool_)
        mask[kept] = True
        found.append(mask)
    return tuple(found)


def _rebuilt(first: PruningProblem, folder: RunFolder, rounds: int) -> tuple[nn.Module, Masks]:
    """The network of a run that is over, and its keep masks."""
    masks: Masks = tuple(np.ones(group.n_filters, dtype=np.bool_) for group in first.groups)
    for number in range(1, rounds + 1):
        masks = _kept(first, masks, folder.round(number))
    return load_pruned(folder.path, first.network).to(first.device), masks


def _part(total: int, rounds: int, number: int) -> int:
    """Share of one of the rounds, the first of which get one more where it does not divide."""
    return total // rounds + (number <= total % rounds)


def _told(number: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the metrics of the run say of a round."""
    names = ("limits", "costs", *_SUMS, "finetune_steps", "candidates", "search_s")
    scores = {
        name: metrics["accuracy"][f"{name}_validation"] for name in ("recovered", "finetuned")
    }
    return {"round": number, **{name: metrics[name] for name in names}, "validation": scores}
