"""Recording layers at work: what they take in and give out on the calibration batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


@dataclass
class LayerRecord:
    """Inputs and outputs of one layer, one pair per call.

    Attributes:
        inputs: (n, in_channels, ...) each, or (n, ..., in_features) of a linear layer.
        outputs: likewise.
    """

    inputs: list[torch.Tensor] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def recorded_layers(
    network: nn.Module, layers: Collection[str]
) -> Iterator[dict[str, LayerRecord]]:
    """What layers take in and give out while the network runs; hooks go when the block ends.

    Args:
        network: the network.
        layers: names of convolutions and linear layers.
    """
    records = {layer: LayerRecord() for layer in layers}
    handles = []
    for layer, record in records.items():

        def hook(
            module: nn.Module,
            given: tuple[Any, ...],
            made: torch.Tensor,
            record: LayerRecord = record,
        ) -> torch.Tensor:
            record.inputs.append(given[0].detach().clone())
            record.outputs.append(made)
            if made.requires_grad:
                made.retain_grad()
            return made.clone()  # what comes next may work in place

        handles.append(network.get_submodule(layer).register_forward_hook(hook))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def channels_first(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """A layer's inputs or outputs as (n, channels, places)."""
    if isinstance(module, nn.Linear):
        values = values.movedim(-1, 1)
    return values.reshape(*values.shape[:2], -1)


def input_sums(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Per weight of a layer, the sum of what it is multiplied with, over examples and places.

    It is the derivative of the sum of the layer's outputs by that weight, of any kind of layer.

    Args:
        module: a convolution or linear layer.
        values: its inputs.

    Returns:
        In the shape of the layer's weight.
    """
    weight = torch.zeros_like(module.weight, requires_grad=True)  # type: ignore[arg-type]
    total = functional_call(module, {"weight": weight}, (values,)).sum()
    return torch.autograd.grad(total, weight)[0]
