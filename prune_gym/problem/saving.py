"""Saving and loading compact networks: safetensors and a plan, no pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from agents.files import user_path
from prune_gym.errors import CheckpointError, InvalidValueError, UnknownNameError
from prune_gym.networks import build_network
from prune_gym.networks.checkpoints import read_tensors, write_tensors
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.copying import rebuild
from prune_gym.pruning.masks import Mask, Masks
from prune_gym.utils.files import replacing, write_json

TENSORS, PLAN = "network.safetensors", "plan.json"
_FORMAT = 1


def save_pruned(
    folder: Path | str,
    network: nn.Module,
    problem: PruningProblem,
    masks: Sequence[Mask],
    name: str | None = None,
) -> None:
    """Write a compact network to a folder, atomically file by file.

    Args:
        folder: made if it does not exist.
        network: the compact network of ``masks``.
        problem: where it comes from.
        masks: one keep mask per group.
        name: the unpruned network's registered name or ``"module:function"``; without it,
            `load_pruned` needs the unpruned network.
    """
    folder = user_path(folder)
    plan = {
        "format": _FORMAT,
        "network": name,
        "arguments": {
            "in_channels": int(problem.example.shape[1]),
            "n_classes": problem.data.n_classes,
        },
        "input_shape": list(problem.example.shape[1:]),  # of one image: channels, height, width
        "mean": list(problem.data.train.mean),  # of pixels / 255, per channel: inputs are
        "std": list(problem.data.train.std),  # (pixels / 255 - mean) / std; empty: as given
        "structure": problem.structure,
        "groups": [
            {
                "name": group.name,
                "filters": group.n_filters,
                "kept": np.flatnonzero(mask).tolist()
                if problem.structure == "filter"
                else int(np.count_nonzero(mask)),
            }
            for group, mask in zip(problem.groups, masks, strict=True)
        ],
    }
    # both are written before either is replaced: a disk that is full leaves a pair that fits
    with replacing(folder / TENSORS) as tensors, replacing(folder / PLAN) as noted:
        write_tensors(tensors, dict(network.state_dict()))
        write_json(noted, plan)


def load_pruned(folder: Path | str, network: nn.Module | None = None) -> nn.Module:
    """The compact network of a run folder, on the CPU, in evaluation mode.

    Args:
        folder: a run folder, or any folder that `save_pruned` wrote.
        network: the unpruned network, where the plan does not name it; it is not changed.

    Raises:
        CheckpointError: a missing or damaged file, or a network that does not fit.

    >>> import prune_gym
    >>> prune_gym.load_pruned("runs/missing")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    prune_gym.errors.CheckpointError: runs/missing holds no plan.json; give a run folder ...
    """
    plan = read_plan(folder)
    tensors = read_tensors(Path(folder) / TENSORS)
    if network is None:
        if plan["network"] is None:
            raise CheckpointError(
                f"{folder}: the plan names no network; call load_pruned(folder, network=...) with "
                "the unpruned one."
            )
        try:
            network = build_network(plan["network"], **plan["arguments"])
        except UnknownNameError as error:
            raise CheckpointError(
                f"{folder}: the plan's {error} Or give the unpruned network: load_pruned(folder, "
                "network=...)."
            ) from error
    expected = set(network.state_dict())
    if expected != set(tensors):
        different = sorted(expected.symmetric_difference(tensors))[0]
        raise CheckpointError(
            f"{folder}: tensor {different!r} is in only one of the file and "
            f"{type(network).__name__}; the file is of another network."
        )
    return rebuild(network, tensors).eval()


def read_plan(folder: Path | str) -> dict[str, Any]:
    """The plan of a folder; a missing or damaged one is a `CheckpointError`."""
    path = Path(folder) / PLAN
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {PLAN}; give a run folder of a finished search.")
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
        complete = plan["format"] == _FORMAT and {"network", "arguments", "structure"} <= set(plan)
        for row in plan["groups"] if complete else ():
            row["name"], row["filters"], row["kept"]
        if not all(isinstance(size, int) and size > 0 for size in plan.get("input_shape", ())):
            raise InvalidValueError(
                f"input_shape {plan['input_shape']} is not of whole numbers above 0"
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not complete:
        raise CheckpointError(f"{path} is of another format; this version reads {_FORMAT}.")
    return plan


def masks_of_plan(folder: Path | str, problem: PruningProblem) -> Masks:
    """Keep masks of a saved network (``structure="weight"``: off the zeros of its weights)."""
    plan = read_plan(folder)
    if [row["filters"] for row in plan["groups"]] != problem.sizes.tolist():
        raise CheckpointError(f"{folder}: the plan is of another network; its groups do not fit.")
    if problem.structure == "weight":
        tensors = read_tensors(Path(folder) / TENSORS)
        return tuple(
            (tensors[f"{group.name}.weight"] != 0).flatten().numpy() for group in problem.groups
        )
    masks = []
    for row in plan["groups"]:
        mask = np.zeros(row["filters"], dtype=np.bool_)
        mask[row["kept"]] = True
        masks.append(mask)
    return tuple(masks)
