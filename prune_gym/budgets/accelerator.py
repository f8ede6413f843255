"""A made-up accelerator whose cycles are no simple function of widths: a black box for benchmarks.

Weights are loaded in tiles of 4 x 4 channels. Where the number of output channels is a multiple of
8, all rows of a tile lie in one memory bank, and the load takes 1.75 times as long: of such widths
one filter *fewer* can cost less, and one filter fewer elsewhere can cost more. Real devices do so,
too; searches that take costs for monotone are told by this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from prune_gym.budgets.base import Budget

TILE = 4
BANKS = 8
CONFLICT = 1.75


def layer_cycles(inputs: Any, outputs: Any, taps: int) -> Any:
    """Cycles by which the weights of a layer are loaded.

    Args:
        inputs: channels, a number or an array.
        outputs: channels, likewise.
        taps: positions of the kernel.

    >>> layer_cycles(16, 15, 1), layer_cycles(16, 16, 1)
    (16.0, 28.0)
    """
    tiles = -(-np.asarray(inputs) // TILE) * -(-np.asarray(outputs) // TILE) * taps
    cycles = tiles * np.where(np.asarray(outputs) % BANKS == 0, CONFLICT, 1.0)
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
