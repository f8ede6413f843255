"""Trained weights: where they lie, how they are loaded, and how they are made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from prune_gym.datasets import Dataset
from prune_gym.training import fit

_SHIPPED = Path(__file__).parent / "networks" / "weights"


class CheckpointError(ValueError):
    """Trained weights that are missing, damaged, or of another network."""


def cache_dir() -> Path:
    """Folder of checkpoints made on this machine (``PRUNE_GYM_CACHE`` overrides it)."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("PRUNE_GYM_CACHE") or user_cache_dir("prune_gym"))


def find_checkpoint(network: str, dataset: str) -> Path:
    """The checkpoint of a registered network on a registered dataset: own cache, then package.

    Raises:
        CheckpointError: there is none; the message has the one command that makes it.
    """
    for folder in (cache_dir(), _SHIPPED):
        path = checkpoint_path(folder, network, dataset)
        if path.is_file():
            return path
    raise CheckpointError(
        f"no trained weights of network {network!r} on dataset {dataset!r} in {cache_dir()}. "
        f"Make them: prune-gym pretrain {network} --dataset {dataset}"
    )


def checkpoint_path(folder: Path, network: str, dataset: str) -> Path:
    """Where the weights of a network trained on a dataset lie in a folder."""
    return folder / f"{network}-{dataset}.safetensors".replace(":", ".")


def save_weights(network: nn.Module, path: Path | str) -> None:
    """Write a network's weights in half precision, which halves the file and costs no accuracy."""
    tensors = network.state_dict()
    write_tensors(path, {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()})


def load_weights(network: nn.Module, path: Path | str) -> nn.Module:
    """Load a safetensors checkpoint into ``network`` (in place; returned for convenience).

    Raises:
        CheckpointError: missing or damaged file, or the first tensor that does not fit.
    """
    tensors = read_tensors(path)
    expected = network.state_dict()
    for name in [*expected, *tensors]:
        if name.endswith("num_batches_tracked"):
            continue
        have = tuple(tensors[name].shape) if name in tensors else "missing"
        want = tuple(expected[name].shape) if name in expected else "unknown"
        if have != want:
            raise CheckpointError(
                f"{path}: tensor {name!r} is {have} in the file but {want} in "
                f"{type(network).__name__}; the weights are of another network."
            )
    loaded = {name: tensors[name].to(expected[name].dtype) for name in expected if name in tensors}
    network.load_state_dict(loaded, strict=False)
    return network


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; a missing or damaged file is a `CheckpointError`."""
    if not Path(path).is_file():
        raise CheckpointError(f"weights: there is no file {path}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def write_tensors(path: Path | str, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically: the old file stays whole until the new one is."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    partial.write_bytes(content)  # save_file would hide the file from other users
    partial.replace(path)


def pretrain(
    network: nn.Module,
    data: Dataset,
    *,
    epochs: int = 60,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] = lambda step, total, loss: None,
) -> None:
    """Train a network in place from its initial weights on augmented images.

    Args:
        network: with fresh weights.
        data: its training split is used.
        epochs: passes over the training split.
        seed: of the batches' order and of augmentation.
        on_step: called with (steps done, all steps, loss).
    """
    steps = epochs * max(1, len(data.train) // 100)
    generator = torch.Generator().manual_seed(seed)
    fit(
        network,
        data.train,
        steps=steps,
        generator=generator,
        augment=data.augment,
        on_step=lambda step, loss: on_step(step, steps, loss),
    )
