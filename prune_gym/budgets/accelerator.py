"""A made-up accelerator whose cycles are no simple function of widths: a black box for benchmarks.

Weights are loaded in tiles of 4 x 4 channels. Where a number of channels is a multiple of 16, the
rows of a tile lie in one memory bank, and the load takes 1.75 times as long, for input and output
channels alike: a layer of 24 filters costs less than one of 16. Real devices do so, too; searches
that take costs for monotone are told by this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from prune_gym.budgets.base import Budget

TILE = 4
BANKS = 16
CONFLICT = 1.75


def layer_cycles(inputs: Any, outputs: Any, taps: int) -> Any:
    """Cycles by which the weights of a layer are loaded.

    Args:
        inputs: channels, a number or an array.
        outputs: channels, likewise.
        taps: positions of the kernel.

    >>> layer_cycles(3, 16, 9), layer_cycles(3, 24, 9)
    (63.0, 54.0)
    """
    cycles = np.asarray(taps * 1.0)
    for channels in map(np.asarray, (inputs, outputs)):
        tiles = -(-channels // TILE)
        cycles = cycles * np.where(channels % BANKS == 0, CONFLICT * tiles, tiles)
    return cycles if np.ndim(cycles) else float(cycles)


def count_cycles(network: nn.Module) -> float:
    """Cycles of all convolutions and linear layers of a network."""
    total = 0.0
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            taps = int(np.prod(layer.kernel_size))
            total += layer_cycles(layer.in_channels // layer.groups, layer.out_channels, taps)
        elif isinstance(layer, nn.Linear):
            total += layer_cycles(layer.in_features, layer.out_features, 1)
    return total


accelerator_cycles = Budget(
    "accelerator_cycles", count_cycles, unit="cycles", deterministic=True, monotone=False
)
