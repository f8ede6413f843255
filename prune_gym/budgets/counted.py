"""Budgets that count: parameters, multiply-adds, bytes, and energy by published constants.

Each is a weighted count of tensor elements, so that an episode needs no network to know its cost.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from prune_gym.budgets.base import BUDGETS, Budget
from prune_gym.budgets.products import multiply_adds
from prune_gym.pruning.copying import rebuild
from prune_gym.utils.trees import repeated


@BUDGETS.register
def params() -> Budget:
    """Number of parameters (weights, biases, BatchNorm scale and shift)."""
    return Budget("params", unit="parameters", monotone=True, counted=_one_per_parameter)


@BUDGETS.register
def macs() -> Budget:
    """Multiply-adds of weights for one input: convolutions, linear layers, attention, recurrence.

    Products of two feature maps, such as an attention's scores, are not counted.
    """
    return Budget("macs", unit="MACs", monotone=True, counted=_uses_per_weight)


@BUDGETS.register
def size_bytes() -> Budget:
    """Bytes of all parameters and buffers, as saved."""
    return Budget("size_bytes", unit="bytes", monotone=True, counted=_bytes_per_element)


# Energy of operations at 45 nm, 0.9 V, in picojoules: M. Horowitz, "Computing's energy problem (and
# what we can do about it)", ISSCC 2014, as tabled for 32-bit words by Han et al., NIPS 2015
# (arXiv 1506.02626, table 1).
MULTIPLY_PJ, ADD_PJ = 3.7, 0.9  # float32
SRAM_PJ = 5.0  # 32 bits of an 8 KB cache (10 pJ per 64 bits)
DRAM_PJ = 640.0  # 32 bits
_GRAIN_UJ = 2.0**-32  # weights are multiples of it: sums are exact in any order (below 2 joules)
MAC_PJ = MULTIPLY_PJ + ADD_PJ + 2 * SRAM_PJ  # both factors come from the cache


@BUDGETS.register
def energy_uj() -> Budget:
    """Microjoules of one image by a model: 14.6 pJ per multiply-add, 640 pJ per parameter.

    Each multiply-add of a weight (see `macs`) is a float32 multiplication (3.7 pJ), an
    addition (0.9 pJ) and two 32-bit reads from an 8 KB cache (5 pJ each); each parameter is read
    from DRAM once (640 pJ). Constants: Horowitz, ISSCC 2014, for 45 nm (tabled for 32-bit words by
    Han et al., NIPS 2015, arXiv 1506.02626). Not counted: writing feature maps and what of them
    does not fit the cache, operations without weights, control, leakage. A model to compare
    networks by, not a measurement.
    """
    return Budget("energy_uj", unit="uJ", monotone=True, counted=_microjoules)


def count(name: str, network: nn.Module, example: Any) -> float:
    """A registered budget of a network, e.g. ``count("macs", network, images[:1])``."""
    budget: Budget = BUDGETS.get(name)()
    if budget.counted is None and any(module.training for module in network.modules()):
        network = copy.deepcopy(network).eval()
    return budget(network, example)


def _one_per_parameter(network: nn.Module, example: Any) -> dict[str, float]:
    return {name: 1.0 for name, _ in network.named_parameters()}


def _bytes_per_element(network: nn.Module, example: Any) -> dict[str, float]:
    saved = network.state_dict()  # buffers that are not persistent are not saved
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    return {name: float(t.element_size()) for name, t in tensors.items() if name in saved}


def _uses_per_weight(network: nn.Module, example: Any) -> dict[str, float]:
    """How often each weight is multiplied for one input, on average over its elements."""
    # a copy that shares the weights: modes, hooks and caches of the network stay as they are
    tensors = dict(network.named_parameters())
    watched = rebuild(network, tensors).eval()
    found = multiply_adds(watched, repeated(example, 1))
    return {name: n / tensors[name].numel() for name, n in found.items()}


def _microjoules(network: nn.Module, example: Any) -> dict[str, float]:
    uses = _uses_per_weight(network, example)
    found = {}
    for name, _ in network.named_parameters():
        microjoules = 1e-6 * (DRAM_PJ + MAC_PJ * uses.get(name, 0.0))
        found[name] = round(microjoules / _GRAIN_UJ) * _GRAIN_UJ
    return found
