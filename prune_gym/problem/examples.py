"""A few real inputs beside a saved network: what its export is checked on.

Random noise is no input: a logarithm gives NaN of it, and an embedding takes whole numbers only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prune_gym.datasets import Examples
from prune_gym.errors import CheckpointError
from prune_gym.networks.checkpoints import read_tensors, write_tensors

EXAMPLES = "examples.safetensors"
N_EXAMPLES = 5
MOST_BYTES = 16_000_000  # larger ones are not written
_SINGLE, _PLACE, _NAME = "input", "argument.", "keyword."  # how tensors are named in the file


def write_examples(path: Path, train: Examples) -> bool:
    """Write a few inputs of the training split; returns whether they could be.

    They are as the network takes them, of different classes. Inputs other than a tensor, a tuple or
    a dict of tensors are not written, and neither are large ones.
    """
    inputs = train.batch(train.spread(N_EXAMPLES))
    tensors = _named(inputs)
    if tensors is None or sum(tensor.nbytes for tensor in tensors.values()) > MOST_BYTES:
        return False
    write_tensors(path, {name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    return True


def _named(inputs: Any) -> dict[str, torch.Tensor] | None:
    if isinstance(inputs, torch.Tensor):
        return {_SINGLE: inputs}
    if isinstance(inputs, tuple):
        found = {f"{_PLACE}{i}": value for i, value in enumerate(inputs)}
    elif isinstance(inputs, dict):
        found = {f"{_NAME}{name}": value for name, value in inputs.items()}
    else:
        return None
    return found if all(isinstance(value, torch.Tensor) for value in found.values()) else None


def read_examples(path: Path) -> Any:
    """The inputs that `write_examples` wrote; None where there is no such file.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return None
    tensors = read_tensors(path)
    if set(tensors) == {_SINGLE}:
        return tensors[_SINGLE]
    if tensors and all(name.startswith(_NAME) for name in tensors):
        return {name.removeprefix(_NAME): tensor for name, tensor in tensors.items()}
    places = [f"{_PLACE}{i}" for i in range(len(tensors))]
    if not tensors or set(places) != set(tensors):
        raise CheckpointError(f"{path} holds no inputs of a network; delete it to do without.")
    return tuple(tensors[name] for name in places)
