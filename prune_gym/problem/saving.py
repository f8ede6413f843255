"""Saving and loading compact networks: safetensors and a plan, no pickle."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from prune_gym.errors import CheckpointError, UnknownNameError
from prune_gym.networks import NETWORKS, build_network
from prune_gym.networks.checkpoints import read_tensors, write_tensors
from prune_gym.networks.plain import computes_weights, with_plain_weights
from prune_gym.problem.examples import EXAMPLES, write_examples
from prune_gym.problem.problem import PruningProblem
from prune_gym.problem.trust import check_trust, named_code
from prune_gym.pruning.blocks import is_inside, replace_modules
from prune_gym.pruning.copying import own_tensors, rebuild
from prune_gym.pruning.groups import blocks_gone
from prune_gym.pruning.masks import Mask, Masks
from prune_gym.pruning.numbers import read_number, write_number
from prune_gym.utils.files import replacing, user_path, write_json
from prune_gym.utils.records import Record, Text, check, is_there, read_object

TENSORS, PLAN = "network.safetensors", "plan.json"
_FORMAT = 1
_MOST_INPUTS = 2**25  # numbers in one input: an image of 3 channels and 11 megapixels


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
    folder, train, example = user_path(folder), problem.data.train, problem.example
    shape = [int(n) for n in example.shape[1:]] if isinstance(example, torch.Tensor) else []
    numbers: dict[str, dict[str, int]] = {}
    gone = {n: kind for b in blocks_gone(problem.groups, masks) for n, kind in b.replaced}
    counts = [count for group in problem.groups for count in group.counts]
    for count in (count for count in counts if not is_inside(count.module, gone)):
        number = read_number(network.get_submodule(count.module), count.attribute)
        numbers.setdefault(count.module, {})[count.attribute] = number or 0
    plan = {
        "format": _FORMAT,
        "network": name,
        "arguments": {
            "in_channels": shape[0] if shape else 0,
            "n_classes": problem.data.n_classes,
        },
        "input_shape": shape,  # of one image: channels, height, width; empty: no single tensor
        "mean": list(getattr(train, "mean", ())),  # of pixels / 255, per channel: inputs are
        "std": list(getattr(train, "std", ())),  # (pixels / 255 - mean) / std; empty: as given
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
        "numbers": numbers,
        **({"gone": gone} if gone else {}),
    }
    # both are written before either is replaced: a disk that is full leaves a pair that fits
    with replacing(folder / TENSORS) as tensors, replacing(folder / PLAN) as noted:
        write_tensors(tensors, {**network.state_dict(), **_beside_state(network, problem)})
        write_json(noted, plan)
    if not (folder / EXAMPLES).exists():  # they stay the same
        write_examples(folder / EXAMPLES, train)


def load_pruned(
    folder: Path | str, network: nn.Module | None = None, *, trust: bool = False
) -> nn.Module:
    """The compact network of a run folder, on the CPU, in evaluation mode.

    Args:
        folder: a run folder, or any folder that `save_pruned` wrote.
        network: the unpruned network, where the plan does not name it; it is not changed.
        trust: whether a ``module:function`` that the plan names as the network may be imported and
            called; without it only networks that are registered are built.

    Raises:
        CheckpointError: a missing or damaged file, or a network that does not fit.
        TrustError: the network is code that the folder names.

    >>> import prune_gym
    >>> prune_gym.load_pruned("runs/missing")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    prune_gym.errors.CheckpointError: runs/missing holds no plan.json; give a run folder ...
    """
    folder = user_path(folder)
    plan = read_plan(folder)
    template = _unpruned(folder, plan, trust) if network is None else network
    if computes_weights(template) and plan.get("input_shape"):
        template = rebuild(template, {}).eval()
        with_plain_weights(template, torch.zeros(1, *plan["input_shape"]))
    tensors = read_tensors(folder / TENSORS)
    _check_tensors(folder, plan, tensors, template)
    made = rebuild(template, tensors).eval()
    replace_modules(made, plan.get("gone", {}))
    modules: dict[str, Any] = dict(made.named_modules())
    for name, numbers in plan.get("numbers", {}).items():
        for attribute, number in numbers.items():
            whole = read_number(modules.get(name, nn.Module()), attribute)
            if whole is None or number > whole:
                raise CheckpointError(
                    f"{folder}: the plan's number {attribute!r} of {name!r} is {number}, and in "
                    f"the unpruned {type(template).__name__} it is {whole}; the plan is damaged."
                )
            write_number(modules[name], attribute, number)
    return made


def _beside_state(network: nn.Module, problem: PruningProblem) -> dict[str, torch.Tensor]:
    """Buffers that were cut, but that a state dict does not hold."""
    held, state = own_tensors(network), network.state_dict()
    cut = {cut.tensor for group in problem.groups for cut in group.slices}
    return {name: held[name] for name in sorted((cut & set(held)) - set(state))}


def load_with_masks(folder: Path | str, problem: PruningProblem) -> tuple[nn.Module, Masks]:
    """The compact network of a run folder and its keep masks, which must be of one network.

    Args:
        folder: likewise.
        problem: where the network comes from.

    Raises:
        CheckpointError: likewise, or the plan keeps other filters than the tensors hold.
    """
    network = load_pruned(folder, problem.network)
    masks = masks_of_plan(folder, problem)
    held, planned = network.state_dict(), problem.compact(masks).state_dict()
    if set(held) != set(planned):
        name = sorted(set(held).symmetric_difference(planned))[0]
        raise _disagree(folder, f"tensor {name!r} is in only one of {TENSORS} and what {PLAN} says")
    for name, tensor in held.items():
        if tensor.shape != planned[name].shape:
            raise _disagree(
                folder,
                f"tensor {name!r} is {tuple(tensor.shape)} in {TENSORS}, and by {PLAN} it would be "
                f"{tuple(planned[name].shape)}",
            )
    return network, masks


def _unpruned(folder: Path | str, plan: dict[str, Any], trust: bool) -> nn.Module:
    """The unpruned network that a plan names."""
    name, arguments = plan["network"], plan["arguments"]
    give = "give the unpruned network: load_pruned(folder, network=...)."
    if name is None:
        raise CheckpointError(
            f"{folder}: the plan names no network; call load_pruned(folder, network=...) with "
            "the unpruned one."
        )
    code = named_code({"network": name})
    check_trust(Path(folder) / PLAN, code, trust, f" Or {give}")
    own = not code and NETWORKS.get(name).__module__.startswith("prune_gym.")
    try:
        # of the template only its modules are needed: absurd sizes must cost no memory
        with torch.device("meta") if own else nullcontext():
            return build_network(name, **arguments)
    except UnknownNameError as error:
        raise CheckpointError(f"{folder}: the plan's {error} Or {give}") from error


def _check_tensors(
    folder: Path, plan: dict[str, Any], tensors: dict[str, torch.Tensor], template: nn.Module
) -> None:
    """Raise CheckpointError unless the tensors are of a pruned ``template``, as the plan says."""
    kind, expected = type(template).__name__, template.state_dict()
    expected |= {name: held for name, held in own_tensors(template).items() if name in tensors}
    gone = plan.get("gone", {})
    unknown = [name for name in gone if name not in dict(template.named_modules())]
    if unknown:
        raise CheckpointError(f"{folder}: the plan's module {unknown[0]!r} is none of {kind}.")
    expected = {name: held for name, held in expected.items() if not is_inside(name, gone)}
    if set(expected) != set(tensors):
        different = sorted(set(expected).symmetric_difference(tensors))[0]
        raise CheckpointError(
            f"{folder}: tensor {different!r} is in only one of the file and {kind}; the file is of "
            "another network."
        )
    for name, tensor in tensors.items():
        have, most = tuple(tensor.shape), tuple(expected[name].shape)
        if len(have) != len(most) or any(n > m for n, m in zip(have, most, strict=True)):
            raise CheckpointError(
                f"{folder / TENSORS}: tensor {name!r} is {have}, and in the unpruned {kind} it is "
                f"{most}; the file is damaged, or of another network."
            )
        if tensor.dtype != expected[name].dtype:
            raise CheckpointError(
                f"{folder / TENSORS}: tensor {name!r} is {tensor.dtype}, and in {kind} it is "
                f"{expected[name].dtype}; the file is damaged, or of another network."
            )
    for row in plan["groups"] if plan["structure"] == "filter" else ():
        _check_group(folder, row, template, tensors, gone)


def _check_group(
    folder: Path,
    row: dict[str, Any],
    template: nn.Module,
    tensors: dict[str, torch.Tensor],
    gone: Collection[str],
) -> None:
    """Raise CheckpointError unless the layer of a filter group lost what its plan says."""
    layer = str(row["name"]).partition(":")[0]  # "name:2" is a second group of that layer
    module: Any = dict(template.named_modules()).get(layer)
    if module is None:
        raise CheckpointError(f"{folder}: the plan's group {layer!r} is no layer of the network.")
    if is_inside(layer, gone) == bool(row["kept"]):
        raise _disagree(
            folder,
            f"{PLAN} keeps {len(row['kept'])} filters of {layer!r}, and it "
            f"{'goes' if row['kept'] else 'does not go'} whole",
        )
    if (
        not row["kept"]
        or row["name"] != layer
        or not isinstance(getattr(module, "weight", None), torch.Tensor)
    ):
        return
    axis = 1 if getattr(module, "transposed", False) else 0
    before, after = (int(held.shape[axis]) for held in (module.weight, tensors[f"{layer}.weight"]))
    lost, planned = before - after, row["filters"] - len(row["kept"])
    if (lost == 0) != (planned == 0) or (planned and lost % planned):
        raise _disagree(
            folder,
            f"{PLAN} keeps {len(row['kept'])} of {row['filters']} filters of {layer!r}, and "
            f"{TENSORS} holds {after} of {before}",
        )


def _disagree(folder: Path | str, words: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {words}; the two files are of different networks. Put them back as they were, "
        "or write them anew: prune-gym prune --resume."
    )


class _Group(Record):
    name: Text
    filters: Annotated[int, Field(ge=1, le=2**40)]
    kept: list[Annotated[int, Field(ge=0)]] | Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _within(self) -> _Group:
        kept = self.kept
        if isinstance(kept, int):
            if kept > self.filters:
                raise ValueError(f"kept {kept} is more than the {self.filters} there are")
        elif kept != sorted(set(kept)) or (kept and kept[-1] >= self.filters):
            raise ValueError(f"kept must hold indices below {self.filters}, each once, in order")
        return self


class _Arguments(Record):
    in_channels: Annotated[int, Field(ge=0, le=2**31)]
    n_classes: Annotated[int, Field(ge=0, le=2**31)]


class _Plan(Record):
    format: int
    network: Text | None
    arguments: _Arguments
    input_shape: list[Annotated[int, Field(ge=1, le=2**24)]] = Field(default_factory=list)
    mean: list[float] = Field(default_factory=list)
    std: list[float] = Field(default_factory=list)
    structure: Literal["filter", "weight"]
    groups: Annotated[list[_Group], Field(min_length=1)]
    numbers: dict[str, dict[str, Annotated[int, Field(ge=1)]]] = Field(default_factory=dict)
    gone: dict[Text, Literal["identity", "zeros", "no_attention"]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agreeing(self) -> _Plan:
        if math.prod(self.input_shape) > _MOST_INPUTS:
            raise ValueError(f"input_shape {self.input_shape} is of more than {_MOST_INPUTS:,}")
        if self.input_shape and self.input_shape[0] != self.arguments.in_channels:
            raise ValueError(f"input_shape {self.input_shape} does not begin with in_channels")
        if len({group.name for group in self.groups}) < len(self.groups):
            raise ValueError("groups holds a name twice")
        kind = list if self.structure == "filter" else int
        for group in self.groups:
            if not isinstance(group.kept, kind):
                raise ValueError(f"kept of {group.name!r} does not go with {self.structure!r}")
            if group.kept == [] and not self.gone:
                raise ValueError(
                    f"kept of {group.name!r} must hold one at least, as no module is gone"
                )
        return self


def read_plan(folder: Path | str) -> dict[str, Any]:
    """The plan of a folder; a missing or damaged one is a `CheckpointError`."""
    path = user_path(folder) / PLAN
    if not is_there(path, CheckpointError):
        raise CheckpointError(f"{folder} holds no {PLAN}; give a run folder of a finished search.")
    plan = read_object(path, CheckpointError)
    if plan.get("format", _FORMAT) != _FORMAT:
        raise CheckpointError(f"{path} is of another format; this version reads {_FORMAT}.")
    check(path, plan, _Plan, CheckpointError)
    return plan


def masks_of_plan(folder: Path | str, problem: PruningProblem) -> Masks:
    """Keep masks of a saved network (``structure="weight"``: off the zeros of its weights)."""
    plan = read_plan(folder)
    groups = [(group.name, group.n_filters) for group in problem.groups]
    if [(row["name"], row["filters"]) for row in plan["groups"]] != groups:
        raise CheckpointError(f"{folder}: the plan is of another network; its groups do not fit.")
    if plan["structure"] != problem.structure:
        raise CheckpointError(
            f"{folder}: the plan is of structure {plan['structure']!r}, not {problem.structure!r}."
        )
    if problem.structure == "weight":
        return _masks_of_zeros(folder, plan, problem)
    masks = []
    for row, group in zip(plan["groups"], problem.groups, strict=True):
        if len(row["kept"]) < group.fewest:
            raise CheckpointError(
                f"{folder}: the plan keeps nothing of {group.name!r}, whose block cannot go whole "
                "in this problem; make it with depth=True, as that of the plan."
            )
        mask = np.zeros(row["filters"], dtype=np.bool_)
        mask[row["kept"]] = True
        masks.append(mask)
    return tuple(masks)


def _masks_of_zeros(
    folder: Path | str, plan: dict[str, Any], problem: PruningProblem
) -> tuple[Mask, ...]:
    tensors = read_tensors(Path(folder) / TENSORS)
    _check_tensors(Path(folder), plan, tensors, problem.network)
    masks = []
    for row in plan["groups"]:
        mask = (tensors[f"{row['name']}.weight"] != 0).flatten().numpy()
        if len(mask) != row["filters"] or np.count_nonzero(mask) > row["kept"]:
            raise _disagree(
                folder,
                f"{PLAN} keeps {row['kept']} of {row['filters']} weights of {row['name']!r}, and "
                f"{TENSORS} holds {np.count_nonzero(mask)} of {len(mask)} that are not zero",
            )
        masks.append(mask)
    return tuple(masks)
