"""After the search: take the best feasible network, fine-tune it, test it, write it down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from prune_gym.budgets import count
from prune_gym.cluster.workers import RayWorkers
from prune_gym.errors import NothingFeasibleError, RunFolderError
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.saving import save_pruned
from prune_gym.pruning.masks import Mask, Masks
from prune_gym.searches.config import SearchConfig
from prune_gym.searches.fine_tuning import FineTuned, OnStep, fine_tune, usual_steps
from prune_gym.searches.remeasure import CANDIDATES, Confirmation, candidates, confirm
from prune_gym.searches.result import SearchResult
from prune_gym.searches.run_folder import RunFolder
from prune_gym.searches.several import OnTrained, Trainer, fine_tuned
from prune_gym.searches.training_state import TrainingState
from prune_gym.training.evaluation import paired_latency_ms
from prune_gym.utils.files import reading, write_json
from prune_gym.utils.stopping import check_stop

LATENCY_BATCH = 100
TUNED = 3  # networks are fine-tuned at most before a search gives up


@dataclass(frozen=True, eq=False)
class Finished:
    """A network to hand over, and what is known of it.

    Attributes:
        masks: its keep masks.
        network: it, recovered and fine-tuned.
        scores: metric by name, of it and of the unpruned network.
        fine_tuned: what came of its fine-tuning.
        confirmed: what it costs, measured anew.
        steps: of its fine-tuning.
        candidates: that were fine-tuned, of which it is the best.
    """

    masks: Masks
    network: nn.Module
    scores: dict[str, float | None]
    fine_tuned: FineTuned
    confirmed: Confirmation
    steps: int
    candidates: int = 1


def finish(
    result: SearchResult,
    path: Path,
    *,
    wall_s: Callable[[], float],
    on_step: OnStep,
    on_trained: OnTrained | None = None,
    cluster: RayWorkers | None = None,
) -> dict[str, Any]:
    """Fine-tune the best feasible network, test it, and write network and ``metrics.json``.

    Where the configuration asks for several candidates, the one that is best when all of them are
    fine-tuned is handed over.

    Args:
        result: of a search that has ended.
        path: of its run folder.
        wall_s: gives the seconds spent on the run so far, all calls together.
        on_step: see `Trainer`.
        on_trained: likewise.
        cluster: likewise.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        NothingFeasibleError: no evaluated network meets every limit, or none of the best still
            does when it is measured anew; the run folder keeps the network as it was searched.
    """
    problem, config, trials = result.problem, result.config, result.archive.trials
    n = None if config.candidates == 1 else max(CANDIDATES, config.candidates)
    found = candidates(result.archive, problem, config.by_ratio, n)
    in_turn = chain([next(found)[1]], (masks for _, masks in found))
    feasible = sum(trial.feasible for trial in trials)
    told = {
        "evaluations": len(trials),
        "remembered_evaluations": result.remembered,
        "feasible_evaluations": feasible,
        "infeasible_evaluations": len(trials) - feasible,
        "partial_evaluations": sum(trial.is_partial for trial in trials),
    }
    try:
        trainer = Trainer(on_step, on_trained, cluster)
        return complete(problem, config, in_turn, path, lambda masks: told, wall_s, trainer)
    except NothingFeasibleError as error:
        raise NothingFeasibleError(
            f"{error} The network as searched is kept in the run folder."
        ) from error


def complete(
    problem: PruningProblem,
    config: SearchConfig,
    in_turn: Iterable[Masks],
    path: Path,
    told: Callable[[Masks], dict[str, Any]],
    wall_s: Callable[[], float],
    trainer: Trainer,
) -> dict[str, Any]:
    """Build, recover, fine-tune, measure and test a network; see `finish`.

    Args:
        problem: whose limits it is to meet.
        config: how it is fine-tuned.
        in_turn: keep masks of networks; the first that keeps the limits is taken.
        path: folder for network and ``metrics.json``.
        told: gives what else the metrics are to hold of the network with these masks.
        wall_s: see `finish`.
        trainer: of the network, or of the candidates for it.

    Raises:
        NothingFeasibleError: none of them keeps the limits when it is measured anew.
        Stopped: a stop was asked for; a fine-tuning that was begun goes on with the next call.
    """
    searched_s = wall_s()
    state_path = RunFolder(path).fine_tuning
    state: TrainingState | None = None
    if config.candidates == 1:
        done, state = _first_confirmed(problem, config, in_turn, state_path, trainer.on_step)
    else:
        done = _best_confirmed(problem, config, in_turn, trainer)
    more = {**told(done.masks), "search_s": searched_s}
    metrics = hand_over(problem, config, done, path, more, wall_s)
    if state is not None:
        state.drop()
    return metrics


def hand_over(
    problem: PruningProblem,
    config: SearchConfig,
    done: Finished,
    path: Path,
    told: dict[str, Any],
    wall_s: Callable[[], float],
) -> dict[str, Any]:
    """Test a network that is finished, measure it, and write it and ``metrics.json``.

    Args:
        problem: of the unpruned network that it is compared with.
        config: how it was made.
        done: the network.
        path: folder for network and ``metrics.json``.
        told: what else the metrics are to hold.
        wall_s: see `finish`.
    """
    metric, scores, network, masks = problem.task.metric, done.scores, done.network, done.masks
    confirmed = done.confirmed
    scores.update(_exact_scores(network, problem))
    scores["finetuned_test"] = _test_accuracy(network, problem)
    save_pruned(path, network, problem, masks, config.network_name)
    metrics = {
        "feasible": confirmed.feasible,
        "costs": dict(zip(problem.names, confirmed.costs.tolist(), strict=True)),
        "limits": dict(zip(problem.names, problem.limits, strict=True)),
        "measured": confirmed.measured,
        "unpruned_values": dict(zip(problem.names, problem.unpruned_values.tolist(), strict=True)),
        "units": {budget.name: budget.unit for budget in problem.budgets},
        "metric": {"name": metric.name, "higher_is_better": metric.higher_is_better},
        "accuracy": scores,  # by the metric, in its unit, whatever it is
        "fine_tuned": done.fine_tuned.to_json(),
        **told,
        "hard": config.hard,
        "algo": config.algo,
        "timesteps": config.timesteps,
        "seed": config.seed,
        "structure": problem.structure,
        "precision": problem.layout.precision,
        "batch_size": problem.evaluator.validation.batch_size,
        "dense": _sizes(problem.network, problem),
        "pruned": _sizes(network, problem, masks),
        **_latencies(network, problem),
        "finetune_steps": done.steps,
        "candidates": done.candidates,
        "distillation": config.distillation,
        "ema": config.ema,
        "wall_s": wall_s(),
    }
    check_stop()
    write_json(path / "metrics.json", metrics)
    return metrics


def _first_confirmed(
    problem: PruningProblem,
    config: SearchConfig,
    in_turn: Iterable[Masks],
    path: Path,
    on_step: OnStep,
) -> tuple[Finished, TrainingState]:
    """The best network that is within every limit when it is measured anew, fine-tuned.

    Beside it the state of its fine-tuning, which is to be removed when it is written down.

    A fine-tuning that was stopped goes on, without measuring the network before it once more.
    """
    noisy = not all(budget.is_deterministic for budget in problem.budgets)
    stopped = TrainingState.peek(path)
    with reading(path, RunFolderError):
        refused, first, tuned = _where_it_was(stopped)
    for position, masks in enumerate(in_turn):
        if position < first:
            continue
        goes_on = position == first and stopped is not None
        if goes_on and stopped is not None:
            network, scores = problem.compact(masks), dict(stopped.notes["scores"])
            problem.recover(network, seed=config.seed)
        else:
            network, scores = _recovered(problem, config, masks)
        found = confirm(problem, masks, network) if noisy and not goes_on else None
        if found is not None and not found.feasible:
            refused.append(f"measured anew, the best network is over a limit: {found}")
            continue
        steps = config.finetune_steps
        if steps is None:
            steps = usual_steps(problem, scores)
        notes = {"position": position, "refused": refused, "tuned": tuned, "scores": scores}
        state = TrainingState(path, _about(config, steps, masks), notes)
        fine_tuned = _fine_tune(network, problem, config, steps, on_step, state)
        scores["finetuned_validation"] = fine_tuned.accuracy
        found = confirm(problem, masks, network)
        if found.feasible:
            return Finished(masks, network, scores, fine_tuned, found, steps), state
        refused.append(f"after fine-tuning the best network is over a limit: {found}")
        state.drop()
        tuned += 1
        if tuned == TUNED:
            break
    raise _none_of_them(refused)


def _best_confirmed(
    problem: PruningProblem, config: SearchConfig, in_turn: Iterable[Masks], trainer: Trainer
) -> Finished:
    """The network that is best once several are fine-tuned, and within every limit then."""
    noisy = not all(budget.is_deterministic for budget in problem.budgets)
    refused: list[str] = []
    chosen: list[tuple[Masks, nn.Module]] = []
    scores: list[dict[str, float | None]] = []
    for masks in in_turn:
        network, its_scores = _recovered(problem, config, masks)
        found = confirm(problem, masks, network) if noisy else None
        if found is not None and not found.feasible:
            refused.append(f"measured anew, the best network is over a limit: {found}")
            continue
        chosen.append((masks, network))
        scores.append(its_scores)
        if len(chosen) == config.candidates:
            break
    if not chosen:
        raise _none_of_them(refused)
    steps = config.finetune_steps
    if steps is None:
        steps = usual_steps(problem, scores[0])
    trained = fine_tuned(
        problem,
        chosen,
        trainer.cluster,
        steps=steps,
        seed=config.seed,
        distillation=config.distillation,
        ema=config.ema,
        on_step=trainer.on_step,
        on_trained=trainer.on_trained,
    )
    reward = problem.task.metric.reward
    best_first = sorted(trained, key=lambda i: -reward(trained[i][1].accuracy))
    for index in best_first:
        (masks, _), (network, fine_tuning) = chosen[index], trained[index]
        found = confirm(problem, masks, network)
        if found.feasible:
            its_scores = {**scores[index], "finetuned_validation": fine_tuning.accuracy}
            return Finished(masks, network, its_scores, fine_tuning, found, steps, len(chosen))
        refused.append(f"after fine-tuning the best network is over a limit: {found}")
    raise _none_of_them(refused)


def _recovered(
    problem: PruningProblem, config: SearchConfig, masks: Masks
) -> tuple[nn.Module, dict[str, float | None]]:
    """A network as it was searched, with its scores before and after its recovery."""
    network, scores = problem.compact(masks), dense_scores(problem)
    scores["raw_validation"] = problem.judge(network)
    problem.recover(network, seed=config.seed)
    scores["recovered_validation"] = problem.judge(network)
    return network, scores


def _none_of_them(refused: Sequence[str]) -> NothingFeasibleError:
    others = f"; so are the next {len(refused) - 1} of the best" if len(refused) > 1 else ""
    return NothingFeasibleError(f"{refused[0]}{others}. A budget is noisy, or depends on weights.")


def _where_it_was(stopped: TrainingState | None) -> tuple[list[str], int, int]:
    """Words on networks that were refused, position of the next, number of fine-tuned ones."""
    if stopped is None:
        return [], 0, 0
    notes = stopped.notes
    return [str(words) for words in notes["refused"]], int(notes["position"]), int(notes["tuned"])


def _about(config: SearchConfig, steps: int, masks: Masks) -> dict[str, Any]:
    """What tells one fine-tuning from another."""
    bits = np.packbits(np.concatenate(masks)).tobytes()
    return {
        "network": hashlib.sha256(bits).hexdigest()[:16],
        "steps": steps,
        "seed": config.seed,
        "distillation": config.distillation,
        **({"ema": config.ema} if config.ema else {}),
    }


def _fine_tune(
    network: nn.Module,
    problem: PruningProblem,
    config: SearchConfig,
    steps: int,
    on_step: OnStep,
    state: TrainingState,
) -> FineTuned:
    return fine_tune(
        network,
        problem,
        steps=steps,
        seed=config.seed,
        distillation=config.distillation,
        ema=config.ema,
        on_step=on_step,
        state=state,
    )


def dense_scores(problem: PruningProblem) -> dict[str, float | None]:
    """The metric of the unpruned network on the validation and the test split."""
    return {
        "dense_validation": problem.judge(problem.network),
        "dense_test": _test_accuracy(problem.network, problem),
    }


def _exact_scores(network: nn.Module, problem: PruningProblem) -> dict[str, float | None]:
    """Both networks in float32, where they are judged in another precision."""
    if problem.layout.precision == "float32":
        return {}
    return {
        f"{name}_validation_float32": problem.judge(judged, problem.data.validation)
        for name, judged in (("dense", problem.network), ("finetuned", network))
    }


def _test_accuracy(network: nn.Module, problem: PruningProblem) -> float | None:
    test = problem.data.test
    return None if test is None else problem.judge(network, test)


def _sizes(
    network: nn.Module, problem: PruningProblem, masks: Sequence[Mask] | None = None
) -> dict[str, float]:
    """Parameters, MACs and bytes; with ``structure="weight"`` only parameters can shrink."""
    sizes = {
        name: count(name, network, problem.example) for name in ("params", "macs", "size_bytes")
    }
    if problem.structure == "weight" and masks is not None:
        sizes["params"] -= float(sum((~mask).sum() for mask in masks))
    return sizes


def _latencies(network: nn.Module, problem: PruningProblem) -> dict[str, Any]:
    split = problem.data.validation
    images = split.batch(split.spread(LATENCY_BATCH))
    return {
        "latency_ms": paired_latency_ms({"dense": problem.network, "pruned": network}, images),
        "latency_batch": LATENCY_BATCH,
        "latency_device": problem.device.type,
    }
