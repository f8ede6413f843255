"""`make_problem`: a pruning problem from names or from objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_gym.budgets import BudgetKey, CommandSpec, budget_key, fractions
from prune_gym.criteria import CRITERIA, score_groups
from prune_gym.datasets import DATASETS, Dataset, load_dataset, own_dataset
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.networks import NETWORKS
from prune_gym.networks.build import check_runs, trained_network
from prune_gym.networks.checkpoints import find_checkpoint
from prune_gym.problem.checks import (
    check_budgets,
    check_ignore,
    check_numbers,
    check_round_to,
    check_structure,
    check_unpruned_values,
    from_anywhere,
    written_down,
)
from prune_gym.problem.costs import measure_unpruned
from prune_gym.problem.problem import PruningProblem
from prune_gym.pruning.branches import check_branches, check_training
from prune_gym.pruning.equivalence import check_compaction, check_smallest
from prune_gym.pruning.groups import FilterGroup, find_filter_groups, find_weight_groups
from prune_gym.pruning.inference import (
    InferenceLayout,
    check_precision,
    find_layout,
    trains_channels_last,
)
from prune_gym.training.recovery import RECOVERIES
from prune_gym.utils.devices import resolve_device
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.registry import Registry
from prune_gym.utils.stopping import check_stop


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
        evaluation_samples: judge on so many validation images, each class as frequent as in all of
            them; None = all.
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
            measured before (``problem.unpruned_values``): costs and limits stay relative to them,
            so that ``"2ms"`` is one fraction in every process. What is not there is measured now.
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
    check_numbers(recovery_steps, round_to, evaluation_samples, batch_size, seed)
    check_structure(structure, round_to)
    check_ignore(ignore)
    chosen = check_budgets({"params": 0.1} if budgets is None else budgets, structure)
    check_unpruned_values(unpruned_values, [budget.name for budget in chosen])
    check_precision(precision, place := resolve_device(device))
    score = _function("criterion", CRITERIA, criterion)
    repair = _function("recovery", RECOVERIES, recovery)
    if weights is None and train is None and network in NETWORKS and dataset in DATASETS:
        weights = find_checkpoint(str(network), dataset)  # before a download for nothing
    data = _dataset(dataset, train, validation, test, evaluation_samples, place)
    module = trained_network(network, dataset, data, weights).to(place).eval()
    data, layout = _laid_out(module, data, precision)
    example = data.train.batch(data.train.spread(1))
    groups = _groups(module, data, structure, ignore, round_to)
    scores = score_groups(module, groups, score, data.train, seed)
    unpruned = measure_unpruned(tuple(chosen), module, example, unpruned_values)
    problem = PruningProblem(
        network=module,
        groups=groups,
        scores=scores,
        data=data,
        budgets=tuple(chosen),
        limits=fractions(tuple(chosen), tuple(chosen.values()), unpruned),
        unpruned_values=unpruned,
        recovery=repair,
        recovery_steps=int(recovery_steps),
        structure=structure,
        round_to=int(round_to),
        layout=layout,
        batch_size=None if batch_size is None else int(batch_size),
        arguments=arguments,
    )
    _check_smallest(problem, is_known=unpruned_values is not None)
    return problem


def _laid_out(network: nn.Module, data: Dataset, precision: str) -> tuple[Dataset, InferenceLayout]:
    """The data as the network is trained on it fastest, and how the network is judged."""
    check_stop()
    some = data.train.batch(data.train.spread(3))
    check_runs(network, some, data)
    layout = find_layout(network, some, precision)
    if layout.channels_last and trains_channels_last(network, some):
        data = data.channels_last()
    return data, layout


def _groups(
    module: nn.Module, data: Dataset, structure: str, ignore: Collection[str], round_to: int
) -> tuple[FilterGroup, ...]:
    """The filter groups; raises where removing filters is not the same as masking them."""
    check_stop()
    if structure == "weight":
        return find_weight_groups(module, ignore)
    example = data.train.batch(slice(1))
    groups = find_filter_groups(module, example, ignore)
    check_round_to(round_to, groups)
    check_branches(module, groups, [example, *_unlike(data)], ignore)
    check_compaction(module, groups, example)
    check_training(module, groups, data.train.batch(data.train.spread(4)))
    return groups


def _unlike(data: Dataset) -> Iterator[torch.Tensor]:
    """Inputs of one example each, from both ends of the classes."""
    for split, place in ((data.train, -1), (data.validation, 0), (data.validation, -1)):
        row = int(split.labels.argsort(stable=True)[place]) if split.labels.ndim == 1 else place
        yield split.batch(torch.tensor([row % len(split)], device=split.labels.device))


def _check_smallest(problem: PruningProblem, *, is_known: bool) -> None:
    """Raise unless the smallest network runs, and is within every limit.

    Noise is not to refuse later what could be reached when the known values were measured.
    """
    check_stop()
    ones = np.ones(len(problem.groups), dtype=np.int64)
    check_smallest(problem.network, problem.compact(problem.masks_of(ones)), problem.example)
    if not is_known or all(budget.is_deterministic for budget in problem.budgets):
        problem.check_reachable(problem.kept_counts(np.ones(len(problem.groups))))


@lru_cache(maxsize=8)
def _cached_problem(arguments: str, budgets: tuple[BudgetKey, ...]) -> PruningProblem:
    given = json.loads(arguments)
    if budgets:
        given["budgets"] = dict(zip(budgets, given["budgets"], strict=True))
    return make_problem(**given)


def shared_problem(**arguments: Any) -> PruningProblem:
    """`make_problem`, built once per process for equal JSON-able arguments.

    A problem is frozen and pure, so many environments can stand on one.
    """
    arguments = from_anywhere(arguments)
    budgets = arguments.get("budgets")
    budgets = budgets if isinstance(budgets, Mapping) else {}
    plain = {**arguments, "budgets": list(budgets.values())} if budgets else arguments
    try:
        text = json.dumps(dict(sorted(plain.items())))
    except TypeError:  # objects among the arguments
        return make_problem(**arguments)
    if not all(isinstance(key, str | CommandSpec) for key in budgets):
        return make_problem(**arguments)
    # the order of budgets matters; a program comes with the folder in which it is to run
    keys = tuple(budget_key(key) if isinstance(key, str) else key for key in budgets)
    return _cached_problem(text, keys)


def _function(argument: str, registry: Registry[Any], value: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = registry.get(value) if isinstance(value, str) else value
    if not callable(found):
        raise InvalidTypeError(f"{argument}={value!r}: expected a registered name or a callable.")
    return found


def _dataset(
    dataset: str | Dataset,
    train: Any,
    validation: Any,
    test: Any,
    evaluation_samples: int | None,
    device: torch.device,
) -> Dataset:
    """The dataset that is meant, on the device, with so many validation images at most."""
    check_stop()
    if (train is None) != (validation is None):
        raise InvalidValueError("train and validation belong together: give both or none of them.")
    data = load_dataset(dataset) if train is None else own_dataset(train, validation, test)
    if evaluation_samples is not None:
        if evaluation_samples > len(data.validation):
            raise InvalidValueError(
                f"evaluation_samples={evaluation_samples} is more than the {len(data.validation)} "
                "validation images; give at most so many, or leave it out."
            )
        data = replace(data, validation=data.validation.subset(evaluation_samples))
    with memory_bound(f"{device} cannot hold the images; use another device or fewer of them"):
        return data.to(device)
