"""Budgets of an NVIDIA GPU: latency and peak memory of one forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from prune_gym.budgets.base import BUDGETS, Budget
from prune_gym.budgets.latency import Run, Stopwatch, Timer, placed_on
from prune_gym.errors import BudgetError
from prune_gym.utils.trees import call, clone, mapped, repeated


@BUDGETS.register
def cuda_latency_ms(batch_size: int = 1, name: str = "cuda_latency_ms", **timer: Any) -> Budget:
    """Milliseconds of one forward on the NVIDIA GPU, until it has finished: one image.

    Not monotone: below some size a GPU takes as long for less.

    Args:
        batch_size: images a forward.
        name: of the budget.
        timer: of `Timer`: repeats, warm_up, error, attempts, pause_s, clock.
    """
    return Stopwatch(ready_on_cuda, batch_size, 1, Timer(**timer)).budget(name)


@BUDGETS.register
def cuda_memory_bytes(batch_size: int = 1, name: str = "cuda_memory_bytes") -> Budget:
    """Peak bytes that torch allocates on the NVIDIA GPU: weights and one forward of one image.

    Not monotone, and not the same on every machine: cuDNN chooses algorithms and their work space.

    Args:
        batch_size: images a forward.
        name: of the budget.
    """
    return Budget(name, unit="bytes", measure_on=_PeakMemory(batch_size))


def device() -> torch.device:
    """The NVIDIA GPU (raises BudgetError where there is none)."""
    if not torch.cuda.is_available():
        raise BudgetError(
            "there is no NVIDIA GPU that torch can use here. Choose latency_ms, onnx_latency_ms or "
            "activation_bytes, or run where torch.cuda.is_available() is True."
        )
    return torch.device("cuda")


def ready_on_cuda(network: nn.Module, images: Any, threads: int) -> Run:
    """One forward of a network in evaluation mode, on the GPU, until it has finished."""
    place = device()
    placed, images = placed_on(network, place), mapped(lambda t: t.to(place), images)

    def run() -> None:
        with torch.inference_mode():
            call(placed, clone(images))
        torch.cuda.synchronize()

    return run


class _PeakMemory:
    """Peak bytes above what was allocated before, a copy of the network included."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size

    @torch.inference_mode()
    def __call__(self, network: nn.Module, example: Any) -> float:
        place = device()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        placed = copy.deepcopy(network).to(place)
        inputs = repeated(mapped(lambda t: t.to(place), example), self._batch_size)
        call(placed, inputs)
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
