"""`make_problem`: a pruning problem from names or from objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_gym.budgets import Limit, fractions
from prune_gym.criteria import CRITERIA, score_groups
from prune_gym.datasets import DATASETS, Dataset, as_split, check_splits, load_dataset
from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.errors import InvalidTypeError, InvalidValueError, UnsupportedNetworkError
from prune_gym.networks import NETWORKS, build
from prune_gym.networks.checkpoints import find_checkpoint, load_weights
from prune_gym.problem.checks import (
    check_budgets,
    check_ignore,
    check_structure,
    check_unpruned_values,
    whole,
    with_folders,
    written_down,
)
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.copying import rebuild
from prune_gym.pruning.equivalence import check_compaction
from prune_gym.pruning.groups import FilterGroup, find_filter_groups, find_weight_groups
from prune_gym.pruning.inference import check_precision, find_form, trains_channels_last
from prune_gym.training.recovery import RECOVERIES
from prune_gym.utils.devices import resolve_device
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.registry import Registry

OWN = "custom"  # the name of data that is given as tensors


def make_problem(
    network: str | nn.Module = "small",
    dataset: str | Dataset = "digits",
    *,
    budgets: Mapping[Any, float | str] | None = None,
    criterion: str | Callable[..., Any] = "l1",
    recovery: str | Callable[..., None] = "bn",
    recovery_steps: int = 32,
    structure: str = "filter",
    round_to: int = 1,
    evaluation_samples: int | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    device: str = "cpu",
    weights: str | Path | None = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    ignore: Collection[str] = (),
    unpruned_values: Mapping[str, float] | None = None,
    seed: int = 0,
) -> PruningProblem:
    """Build a pruning problem from names or from objects.

    Args:
        network: a registered name, a ``"module:function"`` that builds a module, or a trained
            ``nn.Module`` (copied; yours stays as it is).
        dataset: a registered name, a ``"module:function"``, or a `Dataset`; not used where
            ``train`` and ``validation`` are given.
        budgets: limits by budget, ``{"params": 0.1}`` (the default), as fractions in (0, 1] of the
            unpruned network, or as text, amounts with a unit: ``{"latency_ms": "2ms"}``,
            ``"500KB"`` (1000 bytes each; KiB has 1024), ``"10M"``, ``"20%"``. A key is a registered
            name, a ``"module:function"``, a ``"command:./measure.sh {onnx}"`` (``command[ms]:`` if
            it prints ms; see `command_budget`), a callable ``(network) -> number``, or a `Budget`.
        criterion: scores filters, higher = more important: a registered name, a
            ``"module:function"``, or a callable ``(evidence) -> scores`` that gets an `Evidence`
            and gives one array (n_filters,) per filter group; see `prune_gym.criteria.base`.
        recovery: repairs a network before it is judged: a name or a callable.
        recovery_steps: optimizer steps of ``recovery="finetune"``.
        structure: ``"filter"`` removes filters; ``"weight"`` sets single weights to zero, as the
            paper's coarse variant does (budget ``params`` only).
        round_to: kept filters of a group come in multiples of it, e.g. 8, which hardware likes
            (groups of fewer filters stay whole).
        evaluation_samples: judge on the first so many validation images; None = all.
        precision: in which networks are judged: ``"float32"``, ``"bfloat16"``, or ``"tf32"`` on
            NVIDIA GPUs. Networks, their recovery and what a search returns stay float32.
        batch_size: images a forward when networks are judged; None = the fastest, measured.
        device: torch device, or ``"auto"``.
        weights: safetensors checkpoint of a named network; None = the shipped or cached one.
        train: (images, labels) or a torch Dataset of your own: float images as the network takes
            them, or uint8 pixels, which are divided by 255. Fine-tuning rotates, scales and shifts
            them a little; a `Dataset` can have another ``augment``.
        validation: likewise, held out of training.
        test: likewise, for reports only; may be left out.
        ignore: names of layers whose outputs stay whole; a container stands for all in it.
        unpruned_values: budgets of the unpruned network, by name and in their units, as they were
            measured before (``problem.dense_values``): costs and limits stay relative to them, so
            that ``"2ms"`` is one fraction in every process. What is not there is measured now.
        seed: of criteria that draw random numbers, or train.

    Raises:
        ValueError: any argument that is not allowed, by name, with what is allowed; a limit that
            cannot be reached, with its floor.
        CheckpointError: no trained weights, with the command that makes them.
        CriterionError: a criterion that cannot score such a network, with what can be done.
        UnsupportedNetworkError: nothing prunable, or a layer that cannot be followed.

    >>> problem = make_problem(budgets={"params": 0.25})
    >>> len(problem.groups), problem.limits
    (8, (0.25,))
    """
    arguments = written_down(locals())
    check_structure(structure, round_to)
    check_ignore(ignore)
    batch_size = None if batch_size is None else whole("batch_size", batch_size, 1)
    chosen = check_budgets({"params": 0.1} if budgets is None else budgets, structure)
    check_unpruned_values(unpruned_values, [budget.name for budget in chosen])
    place = resolve_device(device)
    check_precision(precision, place)
    score = _function("criterion", CRITERIA, criterion)
    repair = _function("recovery", RECOVERIES, recovery)
    if weights is None and train is None and network in NETWORKS and dataset in DATASETS:
        weights = find_checkpoint(str(network), dataset)  # before a download for nothing
    data = _limited(_dataset(dataset, train, validation, test), evaluation_samples)
    with memory_bound(f"{place} cannot hold the images; use another device or fewer of them"):
        data = data.to(place)
    module = _network(network, dataset, data, weights).to(place).eval()
    some = data.train.batch(slice(3))
    _check_runs(module, some, data)
    form = find_form(module, some, precision)
    if form.channels_last and trains_channels_last(module, some):
        data = data.channels_last()
    groups = _groups(module, data.train.batch(slice(1)), structure, ignore)
    problem = PruningProblem(
        network=module,
        groups=groups,
        scores=score_groups(module, groups, score, data.train, seed),
        data=data,
        budgets=tuple(chosen),
        limits=(1.0,) * len(chosen),
        recovery=repair,
        recovery_steps=whole("recovery_steps", recovery_steps, 0),
        structure=structure,
        round_to=whole("round_to", round_to, 1),
        form=form,
        batch_size=batch_size,
        arguments=arguments,
    )
    _check_cuts(problem)
    return _limited_to(problem, list(chosen.values()), unpruned_values)


def _limited_to(
    problem: PruningProblem, limits: list[Limit], known: Mapping[str, float] | None
) -> PruningProblem:
    """The problem with its limits, amounts as fractions; raises where they cannot be reached.

    Noise is not to refuse later what could be reached when the known values were measured.
    """
    alone = (replace(problem, budgets=(budget,), limits=(1.0,)) for budget in problem.budgets)
    values = np.array([(known or {}).get(p.names[0]) or p.dense_values[0] for p in alone], float)
    limited = replace(problem, limits=fractions(problem.budgets, limits, values))
    vars(limited)["dense_values"] = values  # measured once
    if known is None or all(budget.is_deterministic for budget in problem.budgets):
        limited.check_reachable(limited.kept_counts(np.ones(len(problem.groups))))
    return limited


def _groups(
    module: nn.Module, example: torch.Tensor, structure: str, ignore: Collection[str]
) -> tuple[FilterGroup, ...]:
    if structure == "filter":
        return find_filter_groups(module, example, ignore)
    return find_weight_groups(module, ignore)


def _check_runs(network: nn.Module, example: torch.Tensor, data: Dataset) -> None:
    """Run the unpruned network once, so that what goes wrong does now."""
    name = type(network).__name__
    try:
        with torch.no_grad():
            whole = network(example.clone())
    except (RuntimeError, IndexError, ValueError) as error:
        raise UnsupportedNetworkError(
            f"{name} does not run on an input of shape {tuple(example.shape)}: {error}"
        ) from error
    if not isinstance(whole, torch.Tensor):
        raise UnsupportedNetworkError(
            f"{name} gives {type(whole).__name__} in evaluation mode; expected one tensor of "
            "outputs, (n, n_classes). Wrap it in a module that picks that one."
        )
    _check_classes(name, (1, *whole.shape[1:]), data)


def _check_cuts(problem: PruningProblem) -> None:
    """Cut the network once by half and once to its smallest, likewise."""
    name = type(problem.network).__name__
    if problem.structure == "filter":
        check_compaction(problem.network, problem.groups, problem.example)
    smallest = problem.compact(problem.masks_of(np.ones(len(problem.groups), dtype=np.int64)))
    try:
        with torch.no_grad():
            shape = smallest(problem.example).shape
            whole = problem.network(problem.example).shape
    except (RuntimeError, IndexError, ValueError) as error:
        raise UnsupportedNetworkError(
            f"{name} does not run with one filter per group: {error}. Protect layers with "
            "ignore=[...]."
        ) from error
    if shape != whole:
        raise UnsupportedNetworkError(
            f"{name}: removing filters changes the output from {tuple(whole)} to "
            f"{tuple(shape)}; protect the last layers with ignore=[...]."
        )


def _check_classes(name: str, shape: tuple[int, ...], data: Dataset) -> None:
    """Outputs must be as many as the classes (as many at least, where only labels are known)."""
    outputs = shape[1] if len(shape) > 1 else 0
    if outputs < data.n_classes or (outputs > data.n_classes and data.name != OWN):
        raise InvalidValueError(
            f"{name} gives outputs of shape {shape} for one image, but {data.name!r} has "
            f"{data.n_classes} classes; expected (1, {data.n_classes}). Give the network a last "
            "layer that fits."
        )


@lru_cache(maxsize=8)
def _cached_problem(arguments: str) -> PruningProblem:
    return make_problem(**json.loads(arguments))


def shared_problem(**arguments: Any) -> PruningProblem:
    """`make_problem`, built once per process for equal JSON-able arguments.

    A problem is frozen and pure, so many environments can stand on one.
    """
    arguments = with_folders(arguments)
    try:
        key = json.dumps(dict(sorted(arguments.items())))  # the order of budgets matters
    except TypeError:  # objects among the arguments
        return make_problem(**arguments)
    return _cached_problem(key)


def _function(argument: str, registry: Registry[Any], value: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = registry.get(value) if isinstance(value, str) else value
    if not callable(found):
        raise InvalidTypeError(f"{argument}={value!r}: expected a registered name or a callable.")
    return found


def _dataset(dataset: str | Dataset, train: Any, validation: Any, test: Any) -> Dataset:
    if (train is None) != (validation is None):
        raise InvalidValueError("train and validation belong together: give both or none of them.")
    if train is None:
        return load_dataset(dataset)
    parts = (as_split("train", train), as_split("validation", validation))
    held_out = None if test is None else as_split("test", test)
    check_splits(*parts, held_out)
    n_classes = int(parts[0].labels.max()) + 1
    augment = shift_and_rotate if parts[0].images.ndim == 4 else None
    return Dataset(OWN, *parts, held_out, n_classes, augment)


def _limited(data: Dataset, evaluation_samples: int | None) -> Dataset:
    if evaluation_samples is None:
        return data
    n = whole("evaluation_samples", evaluation_samples, 1)
    if n > len(data.validation):
        raise InvalidValueError(
            f"evaluation_samples={n} is more than the {len(data.validation)} validation images."
        )
    return replace(data, validation=data.validation.first(n))


def _network(
    network: str | nn.Module, dataset: str | Dataset, data: Dataset, weights: str | Path | None
) -> nn.Module:
    if isinstance(network, nn.Module):
        if weights is not None:
            raise InvalidValueError(
                "weights: only for a network given by name; load yours yourself."
            )
        return rebuild(network, {})  # a copy without its owner's hooks and gradients
    module = build_network(network, data)
    if weights is None:
        weights = find_checkpoint(network, dataset)
    return load_weights(module, weights)


def build_network(name: str, data: Dataset) -> nn.Module:
    """An untrained network by name, with inputs and outputs that fit a dataset."""
    return build(name, in_channels=data.train.images.shape[1], n_classes=data.n_classes)


def check_outputs(network: nn.Module, data: Dataset, name: str) -> None:
    """Raise ValueError unless the network takes the dataset's images and tells its classes apart.

    Args:
        network: in any mode; it is run once, in evaluation mode.
        data: its first training image is the input.
        name: of the network, for the message.
    """
    example = data.train.batch(slice(1))
    training = network.training
    try:
        with torch.inference_mode():
            outputs = network.eval()(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InvalidValueError(
            f"network {name!r} does not run on {data.name!r}, whose images are "
            f"{tuple(example.shape[1:])}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        network.train(training)
    _check_classes(f"network {name!r}", tuple(getattr(outputs, "shape", ())), data)
