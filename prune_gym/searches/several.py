"""Several networks of a search fine-tuned, one after another or by the workers of a cluster."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from prune_gym.cluster.shipping import Refused, pickled, refused
from prune_gym.cluster.workers import RayWorkers
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.masks import Masks
from prune_gym.searches.fine_tuning import check_fine_tuning, fine_tune

if TYPE_CHECKING:
    from prune_gym.searches.result import PrunedNetwork


@dataclass(frozen=True)
class Trained:
    """A network after its fine-tuning.

    Attributes:
        network: pickled, on the CPU.
        accuracy: metric on the validation split, in its unit.
        seconds: how long it took.
    """

    network: bytes
    accuracy: float
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
        return Trained(pickled(network.cpu()), found.accuracy, time.perf_counter() - began)


def fine_tuned(
    networks: Sequence[PrunedNetwork],
    cluster: RayWorkers,
    *,
    steps: int,
    seed: int,
    distillation: float,
    ema: float,
) -> list[PrunedNetwork]:
    """Have workers fine-tune networks of one problem; those that are given stay as they are.

    Args:
        networks: as a search found them.
        cluster: the workers.
        steps: see `prune_gym.searches.fine_tuning.fine_tune`.
        seed: likewise.
        distillation: likewise.
        ema: likewise.

    Raises:
        ClusterError: the cluster cannot be used.
        WorkerError: no worker could fine-tune one of them.
    """
    problem = networks[0].problem
    check_fine_tuning(problem, steps, distillation, ema)
    lessons = [
        Lesson(one.masks, pickled(deepcopy(one.network).cpu()), steps, seed, distillation, ema)
        for one in networks
    ]
    trained: list[Trained] = cluster.answers(problem, lessons)
    return [
        replace(
            one,
            network=pickle.loads(done.network).to(problem.device),
            validation_accuracy=done.accuracy,
        )
        for one, done in zip(networks, trained, strict=True)
    ]
