"""Fine-tuning of a compact network after a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from prune_gym.budgets import count
from prune_gym.problem.problem import PruningProblem
from prune_gym.training.loop import MANY, Recipe, fit
from prune_gym.utils.devices import has_bfloat16

SMALL_MACS = 5e6  # below, threads wait for each other longer than they work
OnStep = Callable[[int, float], None]


def fine_tune(
    network: nn.Module,
    problem: PruningProblem,
    *,
    steps: int,
    seed: int,
    distillation: float = 0.0,
    on_step: OnStep | None = None,
) -> None:
    """Train a compact network in place on the training split, augmented, in one cycle.

    The recipe was tuned once, on the validation accuracy of uniformly pruned networks, for all
    searches: Adam on small sets, Nesterov SGD from 5,000 images on.

    Args:
        network: trained in place.
        problem: its training split and, as the teacher, its unpruned network are used.
        steps: optimizer steps.
        seed: of the batches' order and of augmentation.
        distillation: share of the loss that follows the teacher's outputs, in [0, 1].
        on_step: called with (steps done, loss).
    """
    recipe = Recipe()
    if len(problem.data.train) >= MANY:
        bfloat16 = has_bfloat16(problem.example.device)
        recipe = Recipe("sgd", 128, peak_lr=0.05, weight_decay=5e-4, bfloat16=bfloat16)
    threads = torch.get_num_threads()
    if count("macs", network, problem.example) < SMALL_MACS:
        torch.set_num_threads(1)
    try:
        fit(
            network,
            problem.data.train,
            replace(recipe, distillation=distillation, keep_zeros=problem.structure == "weight"),
            steps=steps,
            teacher=problem.network,
            generator=torch.Generator().manual_seed(seed),
            augment=problem.data.augment,
            on_step=on_step,
        )
    finally:
        torch.set_num_threads(threads)
