"""The table of PruneBench whose budgets are measured: recorded latency, and a black box.

    python benchmarks/prunebench_tables.py --out prune_gym/tables/data/NAME.npz

Takes the table ``tiny_vgg-digits-l1`` and adds two budgets to it. ``latency_ms`` is the sum over
the layers of what each takes on this machine with so many input and output channels (one image, one
thread, processor time, median of 300), as look-up tables of latency for architecture search are
made; recorded once, it is the same everywhere. ``accelerator_cycles`` is
`prune_gym.budgets.accelerator`, whose values follow from the widths.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_gym.budgets.accelerator import layer_cycles
from prune_gym.tables.files import load_table, save_table
from prune_gym.tables.table import PruneTable
from prune_gym.utils.threads import one_thread

SIDES = (16, 8, 4, 4, 2, 2)  # of the feature maps that the convolutions of tiny_vgg take
REPEATS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", default="tiny_vgg-digits-l1", help="to which budgets are added")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    table = load_table(arguments.table)
    with one_thread():
        latency = by_layer(table, layer_ms)
    cycles = by_layer(
        table, lambda inputs, outputs, side: layer_cycles(inputs, outputs, taps(side))
    )
    whole = tuple(len(own) - 1 for own in table.levels)
    measured = {"latency_ms": latency, "accelerator_cycles": cycles}
    unpruned = {name: float(values[whole]) for name, values in measured.items()}
    save_table(replace(table, measured=measured, unpruned=unpruned), arguments.out)
    for name, values in measured.items():
        shares = values / unpruned[name]
        print(name, unpruned[name], "unpruned; shares", np.percentile(shares, [0, 5, 25, 50, 75]))


def by_layer(table: PruneTable, cost: Callable[[int, int, int], float]) -> np.ndarray[Any, Any]:
    """Sum over the layers of what they cost by input and output channels, on the whole grid."""
    n = len(table.levels)
    total = np.zeros(table.shape)
    for layer in range(n + 1):
        inputs = (1,) if layer == 0 else table.levels[layer - 1]
        outputs = (10,) if layer == n else table.levels[layer]
        side = SIDES[layer] if layer < n else 0
        found = np.array([[cost(a, b, side) for b in outputs] for a in inputs])
        shape = [1] * n
        if layer > 0:
            shape[layer - 1] = len(inputs)
        if layer < n:
            shape[layer] = len(outputs)
        total = total + found.reshape(shape)
    return total


def taps(side: int) -> int:
    """Positions of the kernel: of a convolution, or of the classifier, which has no side."""
    return 9 if side else 1


def layer_ms(inputs: int, outputs: int, side: int) -> float:
    """Milliseconds of processor time of a layer with its activation, median of many."""
    if side:
        layer: nn.Module = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())
        image = torch.zeros(1, inputs, side, side)
    else:
        layer, image = nn.Linear(inputs, outputs), torch.zeros(1, inputs)
    layer.eval()
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS + 20):
            before = time.thread_time()
            layer(image)
            times.append(time.thread_time() - before)
    return round(1000.0 * float(np.median(times[20:])), 6)


if __name__ == "__main__":
    main()
