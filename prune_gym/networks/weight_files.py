"""Weights as people have them: safetensors, state dicts of torch, folders of Hugging Face."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.errors import CheckpointError
from prune_gym.networks.checkpoints import read_tensors
from prune_gym.utils.files import user_path
from prune_gym.utils.records import in_one_line

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel, torch.compile
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_EXPORTED = "an exported program", "torch.export.load({!r}).state_dict"
_PROGRAMS = {  # by a file that only their archives hold, as torch.save's are archives, too
    "constants.pkl": ("a TorchScript program", "torch.jit.load({!r}).state_dict()"),
    "archive_format": _EXPORTED,
    "serialized_exported_program.json": _EXPORTED,  # of torch 2.6
}
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


def read_weights(path: Path | str, expected: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Tensors by name, without the prefixes that wrappers add.

    Args:
        path: a safetensors file, a ``.pt`` or ``.pth`` file of a state dict, perhaps inside the
            dict of a training's checkpoint, or a folder that holds ``model.safetensors`` (or the
            parts that ``model.safetensors.index.json`` names).
        expected: names of the network's tensors; a prefix that all of them have is theirs.

    Raises:
        CheckpointError: a missing or damaged file, or one that holds a whole module.
    """
    path = user_path(path)
    if path.is_dir():
        tensors = _of_folder(path)
    elif path.is_file() and (path.suffix.lower() in PICKLED or zipfile.is_zipfile(path)):
        tensors = _of_state_dict(path)
    else:
        tensors = read_tensors(path)
    for prefix in WRAPPERS * 2:  # DataParallel around torch.compile, or the other way round
        is_own = bool(expected) and all(name.startswith(prefix) for name in expected)
        if not is_own and tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return {name.replace("._orig_mod.", "."): tensor for name, tensor in tensors.items()}


def load_weights(network: nn.Module, path: Path | str) -> nn.Module:
    """Load weights into ``network`` (in place; returned for convenience).

    Args:
        network: an untrained one.
        path: what `read_weights` reads.

    Raises:
        CheckpointError: missing or damaged file, or the first tensor that does not fit.
    """
    expected = network.state_dict()
    tensors = read_weights(path, expected)
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


def _of_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors of a folder of Hugging Face, whole or in parts."""
    if (folder / _WHOLE).is_file():
        return read_tensors(folder / _WHOLE)
    index = folder / _INDEX
    if not index.is_file():
        raise CheckpointError(
            f"weights: {folder} is a folder without {_WHOLE} or {_INDEX}; give a file of weights."
        )
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        names = sorted(str(part) for part in parts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is damaged: {in_one_line(error)}") from error
    tensors: dict[str, torch.Tensor] = {}
    for name in names:
        if Path(name).name != name:  # the file names other places
            raise CheckpointError(f"{index} is damaged: {name!r} is no file of its folder.")
        tensors |= read_tensors(folder / name)
    return tensors


def _of_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file that `torch.save` wrote; nothing in it is executed."""
    if zipfile.is_zipfile(path):
        _refuse_program(path)
    elif not _is_pickle(path):
        raise CheckpointError(
            f"{path} is no readable file of weights: it is cut off, or torch.save did not write it."
        )
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects, which loading would execute; save the weights alone, "
            "where you trust the file: torch.save(torch.load(path, "
            "weights_only=False).state_dict(), 'weights.pt')."
        ) from error
    except Exception as error:  # a damaged file
        raise CheckpointError(f"{path} is no readable file of weights: {in_one_line(error)}") from (
            error
        )
    while isinstance(held, Mapping) and not _is_state_dict(held):
        inner = [held[key] for key in _NESTED if isinstance(held.get(key), Mapping)]
        if not inner:
            break
        held = inner[0]
    if not isinstance(held, Mapping) or not _is_state_dict(held):
        raise CheckpointError(
            f"{path} holds no state dict; write one: torch.save(network.state_dict(), 'weights.pt')"
            "."
        )
    return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}


def _refuse_program(path: Path) -> None:
    """Raise for a program of torch, which holds weights too, but is code."""
    with zipfile.ZipFile(path) as archive:
        held = {name.rpartition("/")[2] for name in archive.namelist()}
    for mark, (kind, weights) in _PROGRAMS.items():
        if mark in held:
            raise CheckpointError(
                f"{path} holds {kind}, which is code; save the weights alone, where you trust the "
                f"file: torch.save({weights.format(str(path))}, 'weights.pt')."
            )


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as those of `torch.save` before they were archives."""
    with open(path, "rb") as file:
        return file.read(1) == pickle.PROTO


def _is_state_dict(held: Mapping[Any, Any]) -> bool:
    """Whether it maps names to tensors (a few other values, as layers may add, do not matter)."""
    tensors = [value for value in held.values() if isinstance(value, torch.Tensor)]
    return len(tensors) > len(held) / 2 and all(isinstance(name, str) for name in held)
