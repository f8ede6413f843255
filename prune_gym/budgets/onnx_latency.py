"""Latency of what people deploy: the exported network in onnxruntime."""

from __future__ import annotations

from typing import Any

from torch import nn

from prune_gym.budgets.base import BUDGETS, Budget
from prune_gym.budgets.latency import Run, Stopwatch, Timer
from prune_gym.networks.formats import onnx_feed, onnx_session


@BUDGETS.register
def onnx_latency_ms(
    batch_size: int = 1, threads: int = 1, name: str = "onnx_latency_ms", **timer: Any
) -> Budget:
    """Milliseconds of one forward in onnxruntime on this machine's CPU: one image, one thread.

    Each network is exported to ONNX first, which takes about a second. Needs
    ``pip install "prune-gym[export]"``. Not monotone, as `latency_ms`: onnxruntime computes
    channels in blocks, and a network with other numbers of them can be slower than the unpruned
    one. Use ``round_to=8``, or 16, whichever its blocks are.

    Args:
        batch_size: images a forward.
        threads: cores that onnxruntime may use.
        name: of the budget.
        timer: of `Timer`: repeats, warm_up, error, attempts, pause_s, clock.
    """
    return Stopwatch(ready_in_onnxruntime, batch_size, threads, Timer(**timer)).budget(name)


def ready_in_onnxruntime(network: nn.Module, images: Any, threads: int) -> Run:
    """One run of the network's ONNX form."""
    session = onnx_session(network, images, threads)
    feed = onnx_feed(session, images)
    return lambda: session.run(None, feed)
