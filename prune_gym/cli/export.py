"""A saved network, handed over in other formats: what ``prune-gym export`` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_gym.errors import CheckpointError, ExportError
from prune_gym.networks import build_network
from prune_gym.networks.checkpoints import read_tensors
from prune_gym.networks.formats import Run, check_installed, export_files, largest_difference
from prune_gym.problem.examples import EXAMPLES, read_examples
from prune_gym.problem.saving import PLAN, TENSORS, load_pruned, read_plan
from prune_gym.problem.trust import load_call
from prune_gym.pruning.copying import rebuild
from prune_gym.searches.other_runs import refuse_training_run
from prune_gym.utils.files import check_place, check_writable, replacing
from prune_gym.utils.registry import unknown_name
from prune_gym.utils.trees import call, leaves

FORMATS = ("safetensors", "pt2", "onnx")  # each is the ending of its file, too


def export_run(
    folder: Path,
    formats: Sequence[str],
    out: Path | None = None,
    network: str | None = None,
    *,
    trust: bool = False,
) -> Iterator[tuple[Path, float]]:
    """Write the pruned network of a run in other formats.

    Args:
        folder: a run folder, or any folder that `save_pruned` wrote.
        formats: of `FORMATS`.
        out: a folder, or the file of a single format; None = the run folder, where the
            safetensors file lies already and is only checked.
        network: name of the unpruned network, where the plan holds none.
        trust: whether a network that the plan names as ``module:function`` may be imported.

    Yields:
        Each file once it is written and checked, with its largest difference (`export_network`).

    Raises:
        ExportError: formats or places that are not allowed; what `export_network` raises.
        CheckpointError: a missing or damaged run, or one without an input shape.
        TrustError: the plan's network is code, and nobody trusts it.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, list(FORMATS))
        check_installed(name)
    if out is not None:
        check_place(out)
    places = {name: _place(name, formats, folder, out) for name in formats}
    refuse_training_run(folder)
    for place in places.values():
        check_writable(place)
    plan = read_plan(folder)
    example = read_examples(folder / EXAMPLES)
    if example is None and not plan.get("input_shape"):
        raise CheckpointError(
            f"{folder}: the plan holds no input_shape; an older version wrote it. Call "
            f"prune_gym.export_network({load_call(plan['network'])}, example, path)."
        )
    template = None if network is None else build_network(network, **plan["arguments"])
    pruned = load_pruned(folder, template, trust=trust)
    if example is None:
        example = torch.zeros(1, *plan["input_shape"])
    if "safetensors" in places:
        place = places.pop("safetensors")
        yield place, _copy_saved(pruned, example, folder, place.parent)
    yield from zip(
        places.values(), export_files(pruned, example, list(places.values())), strict=True
    )


def _place(name: str, formats: Sequence[str], folder: Path, out: Path | None) -> Path:
    """Where a format goes: the run folder, ``out`` as a folder, or ``out`` as the file."""
    if out is None or out.is_dir():
        return (folder if out is None else out) / f"network.{name}"
    alone = len(set(formats)) == 1 and name != "safetensors"
    if alone and out.suffix == f".{name}":
        return out
    if out.exists() or out.suffix[1:2].isalpha():
        wanted = f"a file that ends in .{name}, or a folder" if alone else "a folder"
        raise ExportError(f"out={str(out)!r}: for {', '.join(formats)}, give {wanted}.")
    return out / f"network.{name}"


def _copy_saved(network: nn.Module, example: Any, folder: Path, out: Path) -> float:
    """Copy tensors and plan; another run's are never overwritten."""
    if out.resolve() == folder.resolve():
        place = folder / TENSORS
        copied = rebuild(network, read_tensors(place))
        return largest_difference(network, _running(copied), example, place)
    if (out / "config.json").exists():
        raise ExportError(f"out={str(out)!r} holds another run; choose another folder.")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / TENSORS) as tensors, replacing(out / PLAN) as plan:
        tensors.write_bytes((folder / TENSORS).read_bytes())
        plan.write_bytes((folder / PLAN).read_bytes())
        copied = rebuild(network, read_tensors(tensors))
        return largest_difference(network, _running(copied), example, out / TENSORS)


def _running(network: nn.Module) -> Run:
    return lambda inputs: leaves(call(network, inputs))
