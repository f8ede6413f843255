"""What the command says of scores: of the unpruned network, and of what a limit costs."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.markup import escape

from prune_gym.cli.console import warn
from prune_gym.problem.problem import PruningProblem
from prune_gym.training.recovery import is_fixed
from prune_gym.utils.words import score_in_words

MUCH = 0.1  # of accuracy lost, from which on it is worth a warning


def say_unpruned(problem: PruningProblem, console: Console) -> None:
    """Say what the unpruned network scores, and by what filters are chosen."""
    score, n_classes = problem.judge(problem.network), problem.data.n_classes
    name, criterion = str(problem.task.metric.name), (problem.arguments or {}).get("criterion")
    if criterion is not None:
        console.print(f"criterion: {escape(str(criterion))}")
    console.print(f"unpruned network: validation {escape(name)} {score_in_words(score)}")
    if name == "accuracy" and n_classes and score < _guessing(n_classes):
        warn(
            f"that is hardly better than guessing among {n_classes} classes. Do the weights belong "
            "to this data, its classes in this order, its normalisation? (A folder's images are "
            "normalised by its own mean and standard deviation; a Dataset of yours, as "
            "module:function, can have others.)",
            console,
        )


def _guessing(n_classes: int) -> float:
    """Up to which accuracy a network is hardly better than guessing."""
    return min(1.5 / n_classes, 0.6)


def _more_to_see(problem: PruningProblem, metrics: dict[str, Any]) -> str:
    """What helps a search that sees no more than guesses, but for what is done already."""
    cures = []
    if is_fixed(problem.recovery):
        cures.append("--recovery finetune trains each network a little")
    if metrics.get("candidates", 1) == 1:
        cures.append("--candidates 8 fine-tunes several")
    found = "; or ".join([*cures, "raise the limit"])
    return found[0].upper() + found[1:]


def warn_of_loss(
    problem: PruningProblem, metrics: dict[str, Any], console: Console, best: float = -math.inf
) -> None:
    """Warn where a finished network lost much: of accuracy, or of the reward of another metric.

    Args:
        problem: whose unpruned network and classes it is compared with.
        metrics: of the network.
        console: where to warn.
        best: the highest reward in the run, limits aside, where it is known.
    """
    scores, n_classes, metric = metrics["accuracy"], problem.data.n_classes, problem.task.metric
    score, unpruned = (
        metric.reward(scores[key]) for key in ("finetuned_validation", "dense_validation")
    )
    reference, whose = (best, "the run's best") if best > unpruned else (unpruned, "unpruned")
    if metric.name != "accuracy":
        has_size = metric.ends[1] is not None or metric.scale is not None
        if score < reference - MUCH * (1.0 if has_size else abs(reference)):
            warn(
                f"the limit costs a lot: validation {metric.name} "
                f"{score_in_words(metric.value(score))} ({whose} "
                f"{score_in_words(metric.value(reference))}). Raise it, fine-tune longer "
                "(--finetune-steps), or search longer.",
                console,
            )
    elif n_classes and score < _guessing(n_classes):
        warn(
            f"validation accuracy {score:.4f} is hardly better than guessing among {n_classes} "
            "classes: the limit is too tight for this network, or the search too short.",
            console,
        )
    elif score < reference - MUCH:
        seen = scores.get("recovered_validation", score)
        cure = "Raise it, fine-tune longer (--finetune-steps), or search longer."
        if n_classes and seen < _guessing(n_classes):  # of what the search went by
            cure = (
                f"As the search saw it, the network was hardly better than guessing ({seen:.4f}): "
                f"it had little to go by. {_more_to_see(problem, metrics)}."
            )
        warn(
            f"the limit costs {reference - score:.4f} of validation accuracy ({score:.4f}; {whose} "
            f"{reference:.4f}). {cure}",
            console,
        )
