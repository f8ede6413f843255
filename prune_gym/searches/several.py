"""Several networks of a search fine-tuned, one after another or by the workers of a cluster."""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

from torch import nn

from prune_gym.cluster.shipping import Refused, pickled, refused
from prune_gym.cluster.workers import RayWorkers
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks
from prune_gym.searches.fine_tuning import FineTuned, OnStep, check_fine_tuning, fine_tune

OnTrained = Callable[[int, FineTuned], None]


@dataclass(frozen=True)
class Trainer:
    """How candidates are fine-tuned, and who is told.

    Attributes:
        on_step: called with (steps done, loss), where they are trained in this process.
        on_trained: called with the number of a candidate that is trained, from 0, and what came of
            it, where there are several.
        cluster: whose workers train several of them side by side; None = one after another, here.
    """

    on_step: OnStep
    on_trained: OnTrained | None = None
    cluster: RayWorkers | None = None


@dataclass(frozen=True)
class Trained:
    """A network after its fine-tuning.

    Attributes:
        network: pickled, on the CPU.
        found: what came of it.
        seconds: how long it took.
    """

    network: bytes
    found: FineTuned
    seconds: float


@dataclass(frozen=True)
class Lesson:
    """A network that a worker is to fine-tune.

    Attributes:
        masks: its keep masks.
        network: pickled, on the CPU.
        steps: optimizer steps.
        seed: of the batches' order and of augmentation.
        distillation: share of the loss that follows the unpruned network.
        ema: decay of the average of weights that is handed over; 0 = the last weights.
    """

    masks: Masks
    network: bytes
    steps: int
    seed: int
    distillation: float
    ema: float

    def answered(self, problem: PruningProblem) -> Trained | Refused:
        """Fine-tune it, in a worker."""
        began = time.perf_counter()
        try:
            network: nn.Module = pickle.loads(self.network).to(problem.device)
            found = fine_tune(
                network,
                problem,
                steps=self.steps,
                seed=self.seed,
                distillation=self.distillation,
                ema=self.ema,
            )
        except Exception as error:  # goes on where it was asked for
            return refused(error)
        return Trained(pickled(network.cpu()), found, time.perf_counter() - began)


def fine_tuned(
    problem: PruningProblem,
    networks: Sequence[tuple[Masks, nn.Module]],
    cluster: RayWorkers | None,
    *,
    steps: int,
    seed: int,
    distillation: float,
    ema: float,
    on_step: OnStep | None = None,
    on_trained: OnTrained | None = None,
) -> dict[int, tuple[nn.Module, FineTuned]]:
    """Fine-tune networks of one problem; those that are given stay as they are.

    One that cannot be fine-tuned is named by a warning, and left out.

    Args:
        problem: of all.
        networks: keep masks and compact networks.
        cluster: whose workers train them side by side; None = one after another, here.
        steps: of each; see `prune_gym.searches.fine_tuning.fine_tune`.
        seed: likewise.
        distillation: likewise.
        ema: likewise.
        on_step: called with (steps done of all networks, loss), where they are trained here.
        on_trained: called with the index of a network that is trained, and what came of it.

    Returns:
        The trained networks, and what came of each, by their index.

    Raises:
        ClusterError: the cluster cannot be used.
        Stopped: a stop was asked for.
        Exception: none could be fine-tuned; that of the first.
    """
    check_fine_tuning(problem, steps, distillation, ema)
    told = on_trained or (lambda index, found: None)
    if cluster is not None:
        lessons = [
            Lesson(masks, pickled(deepcopy(network).cpu()), steps, seed, distillation, ema)
            for masks, network in networks
        ]
        answers: list[Trained | BaseException] = cluster.answers(
            problem, lessons, lambda index, answer: told(index, answer.found)
        )
        return _without_failures(
            [
                answer
                if isinstance(answer, BaseException)
                else (pickle.loads(answer.network).to(problem.device), answer.found)
                for answer in answers
            ]
        )
    trained: list[tuple[nn.Module, FineTuned] | BaseException] = []
    for index, (_, given) in enumerate(networks):
        network = deepcopy(given)
        try:
            found = fine_tune(
                network,
                problem,
                steps=steps,
                seed=seed,
                distillation=distillation,
                ema=ema,
                on_step=None if on_step is None else partial(_later, on_step, index * steps),
            )
        except Exception as error:  # of the others more may come
            trained.append(error)
            continue
        told(index, found)
        trained.append((network, found))
    return _without_failures(trained)


def _without_failures(
    trained: Sequence[tuple[nn.Module, FineTuned] | BaseException],
) -> dict[int, tuple[nn.Module, FineTuned]]:
    found: dict[int, tuple[nn.Module, FineTuned]] = {}
    errors = [one for one in trained if isinstance(one, BaseException)]
    if errors and len(errors) == len(trained):
        raise errors[0]
    for index, one in enumerate(trained):
        if isinstance(one, BaseException):
            warnings.warn(
                f"candidate {index + 1} could not be fine-tuned, and is left out: {one}",
                stacklevel=3,
            )
        else:
            found[index] = one
    return found


def _later(on_step: OnStep, before: int, step: int, loss: float) -> None:
    on_step(before + step, loss)
