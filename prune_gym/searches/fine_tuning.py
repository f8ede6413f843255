"""Fine-tuning of a compact network after a search: it can be stopped at any step, and goes on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from prune_gym.budgets import count
from prune_gym.errors import InvalidValueError
from prune_gym.problem.problem import PruningProblem
from prune_gym.searches.training_state import TrainingState
from prune_gym.tasks.losses import cross_entropy
from prune_gym.training.loop import MANY, Recipe, Training, check_loss
from prune_gym.training.recovery import bn
from prune_gym.training.trainer import train_by
from prune_gym.utils.devices import has_bfloat16
from prune_gym.utils.stopping import check_stop, stop_requested, stopping
from prune_gym.utils.threads import torch_threads
from prune_gym.utils.words import score_in_words

SMALL_MACS = 5e6  # below, threads wait for each other longer than they work
SAVE_EVERY_S = 15.0
USUAL_STEPS = 300  # where fine-tuning is needed
LITTLE = 0.01  # of accuracy lost, up to which it is not
OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class FineTuned:
    """What came of a fine-tuning.

    Attributes:
        before: metric on the validation split before it, in its unit: its accuracy, mostly.
        trained: the same of the trained network, with its better statistics.
        recomputed: whether these are the BatchNorm statistics that were recomputed at the end, and
            not those that training left.
        kept: whether the trained network is the one that is handed over; where it is worse than
            the one before, that one is.
        metric: its name.
    """

    before: float
    trained: float
    recomputed: bool
    kept: bool
    metric: str = "accuracy"

    @property
    def accuracy(self) -> float:
        """The metric of the network that is handed over."""
        return self.trained if self.kept else self.before

    def to_json(self) -> dict[str, Any]:
        """What ``metrics.json`` holds of it."""
        return dict(vars(self))


def words_of(fine_tuned: dict[str, Any] | None) -> str:
    """A sentence on a network that fine-tuning made worse; empty where it did not.

    Args:
        fine_tuned: of `FineTuned.to_json`; None in runs of earlier versions.
    """
    if fine_tuned is None or fine_tuned["kept"]:
        return ""
    return (
        f"fine-tuning made it worse (validation {fine_tuned.get('metric', 'accuracy')} "
        f"{score_in_words(fine_tuned['trained'])} after "
        f"{score_in_words(fine_tuned['before'])}): the network from before it is handed over."
    )


def usual_steps(problem: PruningProblem, scores: Mapping[str, float | None]) -> int:
    """Optimizer steps where nobody says how many: none where little was lost.

    Args:
        problem: whose metric the scores are of.
        scores: ``dense_validation`` of the unpruned network, ``recovered_validation`` of the one to
            be handed over.
    """
    metric = problem.task.metric
    unpruned, found = (
        metric.reward(scores[f"{name}_validation"] or 0.0) for name in ("dense", "recovered")
    )
    has_size = metric.ends[1] is not None or metric.scale is not None
    little = LITTLE * (1.0 if has_size else abs(unpruned))
    return 0 if found >= unpruned - little else USUAL_STEPS


def check_fine_tuning(
    problem: PruningProblem, steps: int | None, distillation: float, ema: float = 0.0
) -> None:
    """Raise for a fine-tuning that cannot be, before anything is searched for it.

    Raises:
        LossError: there is nothing to train by.
        ValueError: distillation where there are no classes, or with a training of the user's own;
            an average with one.
    """
    if steps != 0 and problem.task.fine_tune is None:
        problem.task.need_loss()
    if distillation and (problem.task.loss is not cross_entropy or problem.task.fine_tune):
        raise InvalidValueError(
            f"distillation={distillation}: it follows the unpruned network's classes, so that it "
            "goes with loss='cross_entropy' and the fine-tuning here only; leave it at 0."
        )
    if ema and problem.task.fine_tune:
        raise InvalidValueError(
            f"ema={ema}: the weights are averaged by the fine-tuning here only, and fine_tune= is "
            "your own; leave it at 0."
        )


def fine_tune(
    network: nn.Module,
    problem: PruningProblem,
    *,
    steps: int,
    seed: int,
    distillation: float = 0.0,
    ema: float = 0.0,
    on_step: OnStep | None = None,
    state: TrainingState | None = None,
) -> FineTuned:
    """Train a compact network in place on the training split, augmented, in one cycle.

    The recipe was tuned once, on the validation accuracy of uniformly pruned networks, for all
    searches: Adam on small sets, Nesterov SGD from 5,000 images on. BatchNorm statistics lag behind
    weights that change: at the end they are recomputed, and kept if the network is better with
    them on the validation split. Where it is worse than before, it is put back as it was. A
    ``fine_tune`` of the user's own takes the recipe's place.

    Args:
        network: trained in place.
        problem: its training split and, as the teacher, its unpruned network are used.
        steps: optimizer steps.
        seed: of the batches' order and of augmentation.
        distillation: share of the loss that follows the teacher's outputs, in [0, 1].
        ema: decay, in [0, 1), of an exponential moving average of the weights, which is what is
            handed over then; 0 = the last weights are.
        on_step: called with (steps done, loss).
        state: where the training is saved now and then and when it is stopped, and from where it
            goes on.

    Raises:
        Stopped: a stop was asked for (Ctrl-C, SIGTERM); the state is saved.
        TrainingDivergedError: the loss is no number any more (only looked at with ``on_step``).
    """
    check_fine_tuning(problem, steps, distillation, ema)
    before, score_before = copy.deepcopy(network.state_dict()), problem.accuracy(network)
    metric = problem.task.metric
    if steps == 0:
        value = metric.value(score_before)
        return FineTuned(value, value, recomputed=False, kept=True, metric=str(metric.name))
    is_small = count("macs", network, problem.example) < SMALL_MACS
    with (
        stopping("stopping after this step of fine-tuning; Ctrl-C again stops at once"),
        torch_threads(1 if is_small else torch.get_num_threads()),
    ):
        if problem.task.fine_tune is None:
            training = _training(network, problem, steps, seed, distillation, ema)
            try:
                _run(training, on_step, state)
            finally:
                training.finish()
        else:
            train_by(problem.task.fine_tune, network, problem.data.train, steps=steps, seed=seed)
        score, recomputed = _with_better_statistics(network, problem)
    kept = score >= score_before
    if not kept:
        network.load_state_dict(before)
    values = metric.value(score_before), metric.value(score)
    return FineTuned(*values, recomputed, kept, str(metric.name))


def recipe_for(problem: PruningProblem) -> Recipe:
    """How networks of a problem are fine-tuned, without distillation and average."""
    keep_zeros = problem.structure == "weight"
    if len(problem.data.train) < MANY:
        return Recipe(keep_zeros=keep_zeros)
    return Recipe(
        "sgd",
        128,
        peak_lr=0.05,
        weight_decay=5e-4,
        bfloat16=has_bfloat16(problem.device),
        keep_zeros=keep_zeros,
    )


def _training(
    network: nn.Module,
    problem: PruningProblem,
    steps: int,
    seed: int,
    distillation: float,
    ema: float,
) -> Training:
    recipe = replace(recipe_for(problem), distillation=distillation, ema=ema)
    return Training(
        network,
        problem.data.train,
        recipe,
        steps=steps,
        teacher=problem.network,
        generator=torch.Generator().manual_seed(seed),
        augment=problem.data.augment,
        task=problem.task,
    )


def _run(training: Training, on_step: OnStep | None, state: TrainingState | None) -> None:
    """Train to the end, from where the state says on; it is saved at the end and at a stop, too."""
    if state is not None:
        state.restore(training)
    saved = time.monotonic()
    while training.step_number < training.steps:
        if stop_requested() and state is not None:
            state.save(training)
        check_stop()
        loss = training.step()
        if on_step is not None:
            step = training.step_number
            on_step(step, check_loss(float(loss), step, training.recipe))
        if state is not None and time.monotonic() - saved > SAVE_EVERY_S:
            state.save(training)
            saved = time.monotonic()
    if state is not None:
        state.save(training)  # what follows takes a while, too


def _with_better_statistics(network: nn.Module, problem: PruningProblem) -> tuple[float, bool]:
    """Recompute BatchNorm statistics, or leave them; the better accuracy, and whether they were."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    as_trained = problem.accuracy(network)
    if not norms:
        return as_trained, False
    kept = [copy.deepcopy(norm.state_dict()) for norm in norms]
    bn(network, problem.data.train, generator=torch.Generator(), steps=0)
    recomputed = problem.accuracy(network)
    if recomputed > as_trained:
        return recomputed, True
    for norm, tensors in zip(norms, kept, strict=True):
        norm.load_state_dict(tensors)
    return as_trained, False
