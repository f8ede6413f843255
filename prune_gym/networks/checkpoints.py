"""Trained weights: where they lie, how they are saved and loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from prune_gym.datasets import Dataset
from prune_gym.datasets.load import file_name
from prune_gym.errors import CheckpointError
from prune_gym.utils.cache import cache_dir as cache_dir
from prune_gym.utils.files import replacing, user_path
from prune_gym.utils.records import in_one_line, is_there

_SHIPPED = Path(__file__).parent / "weights"


def find_checkpoint(network: str, dataset: str | Dataset) -> Path:
    """The checkpoint of a named network on a dataset: own cache, then package.

    Args:
        network: a registered name or ``"module:function"``.
        dataset: what `load_dataset` takes; it is not loaded.

    Raises:
        CheckpointError: there is none; the message has the one command that makes it.
    """
    for folder in (cache_dir(), _SHIPPED):
        path = checkpoint_path(folder, network, dataset)
        if path.is_file():
            return path
    name = dataset if isinstance(dataset, str) else dataset.name
    raise CheckpointError(
        f"no trained weights of network {network!r} on dataset {name!r} in {cache_dir()}. "
        f"Make them: prune-gym pretrain {network} --dataset {name} (or give a file of yours as "
        "weights)."
    )


def checkpoint_path(folder: Path, network: str, dataset: str | Dataset) -> Path:
    """Where the weights of a network trained on a dataset lie in a folder."""
    name = file_name(dataset) if isinstance(dataset, str) else dataset.name
    return folder / f"{network}-{name}.safetensors".replace(":", ".")


def save_weights(network: nn.Module, path: Path | str) -> None:
    """Write a network's weights in half precision, which halves the file and costs no accuracy.

    A tensor with a value beyond half precision (65,504) keeps its own precision.
    """
    write_tensors(path, {name: _halved(tensor) for name, tensor in network.state_dict().items()})


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; a missing or damaged file is a `CheckpointError`."""
    path = user_path(path)
    if not is_there(path, CheckpointError):
        raise CheckpointError(f"weights: there is no file {path}.")
    try:
        return load_file(path)  # maps the file, so that nothing is read before it is used
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        why = in_one_line(error)
        raise CheckpointError(f"{path} is not a readable safetensors file: {why}") from error


def write_tensors(path: Path | str, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically: the old file stays whole until the new one is."""
    copies = {  # safetensors refuses layers that share their weights
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with replacing(path) as partial:
        partial.write_bytes(save(copies))  # save_file would hide the file from other users
