"""`make_problem`: a pruning problem from names or from objects."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from prune_gym.budgets import Budget, BudgetKey, CommandSpec, Limit, budget_key, fractions
from prune_gym.criteria import CRITERIA, score_groups
from prune_gym.criteria.weights import has_norm_scales
from prune_gym.datasets import DATASETS, Dataset, load_dataset, own_dataset
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.networks import NETWORKS
from prune_gym.networks.build import trained_network
from prune_gym.networks.checkpoints import find_checkpoint
from prune_gym.networks.plain import with_plain_weights
from prune_gym.problem.checks import (
    AUTO,
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
from prune_gym.problem.fast_widths import on_fast_widths
from prune_gym.problem.find_task import find_task
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
from prune_gym.pruning.residual import with_blocks
from prune_gym.pruning.trace import own_randomness
from prune_gym.tasks.task import ONE_LABEL, check_requests
from prune_gym.training.recovery import RECOVERIES
from prune_gym.training.trainer import try_trainer
from prune_gym.utils.devices import resolve_device
from prune_gym.utils.memory import memory_bound
from prune_gym.utils.registry import Registry, suggest
from prune_gym.utils.stopping import check_stop

CHOSEN = "auto"  # the criterion that suits the network


def make_problem(
    network: str | nn.Module = "small",
    dataset: str | Dataset = "digits",
    *,
    budgets: Mapping[Any, float | str] | None = None,
    criterion: str | Callable[..., Any] = "l1",
    recovery: str | Callable[..., None] = "bn",
    recovery_steps: int = 32,
    structure: str = "filter",
    round_to: int | str = 1,
    depth: bool = False,
    evaluation_samples: int | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    device: str = "cpu",
    weights: str | Path | None = None,
    train: Any = None,
    validation: Any = None,
    test: Any = None,
    metric: Any = "accuracy",
    loss: Any = None,
    output: Any = None,
    fine_tune: str | Callable[..., Any] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
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
        criterion: scores filters, higher = more important: a registered name, ``"auto"``
            (``"bn_scale"`` where every filter runs through a BatchNorm, else ``"l1"``), a
            ``"module:function"``, or a callable ``(evidence) -> scores`` that gets an `Evidence`
            and gives one array (n_filters,) per filter group; see `prune_gym.criteria.base`.
        recovery: repairs a network before it is judged: a name or a callable.
        recovery_steps: optimizer steps of ``recovery="finetune"``.
        structure: ``"filter"`` removes filters; ``"weight"`` sets single weights to zero, as the
            paper's coarse variant does (budget ``params`` only).
        round_to: kept filters of a group come in multiples of it, e.g. 8, which hardware likes
            (groups of fewer filters stay whole). ``"auto"`` = the multiple that is fast here,
            measured once (`prune_gym.problem.fast_widths`); ``problem.round_to`` says which.
        depth: whether residual blocks whose shortcut is the identity can go whole: filter groups
            inside of them may then keep none (a prune ratio of 1), and the compact network has
            nothing of the block left.
        evaluation_samples: judge on so many validation examples, each class as frequent as in all
            of them; None = all.
        precision: in which networks are judged: ``"float32"``, ``"bfloat16"``, or ``"tf32"`` on
            NVIDIA GPUs. Networks, their recovery and what a search returns stay float32.
        batch_size: examples a forward when networks are judged; None = the fastest, measured.
        device: torch device, or ``"auto"``.
        weights: of a named network: a safetensors file, a state dict (``.pt``, ``.pth``), or a
            folder with ``model.safetensors``; None = the shipped or cached ones.
        train: your own examples: a pair (inputs, targets) of tensors, arrays, or tuples or dicts of
            them, a torch Dataset, or a DataLoader. Inputs are as the network takes them (several
            are a tuple, or a dict by the names of its forward()); one uint8 tensor is pixels, which
            are divided by 255. Fine-tuning rotates, scales and shifts images with a class each a
            little; a `Dataset` can have another ``augment``.
        validation: likewise, held out of training.
        test: likewise, for reports only; may be left out.
        metric: how well networks do: a name (``prune-gym list metrics``), a function ``(outputs,
            targets) -> number`` of all examples, a ``torchmetrics.Metric``, or a `Metric`, which
            says direction and scale; the reward is made of it (`prune_gym.tasks.metrics`).
        loss: what fine-tuning, ``recovery="finetune"`` and criteria with gradients go by: a name
            (``prune-gym list losses``), an ``nn.Module``, or a function ``(outputs, targets) ->
            tensor ()``; None = the one that goes with metric and targets.
        output: which of the network's outputs metric and loss get: a key, an index, or a function
            of them; None = all.
        fine_tune: trains a network after the search in place of the recipe here: a function of the
            network, and by name of what it wants of ``train``, ``steps``, ``seed`` and
            ``generator``; in place, or it gives the trained network back.
        collate: makes a batch ``(inputs, targets)`` of a list of items of ``train``, ...; None =
            that of a DataLoader, else they are stacked.
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
    given = {**locals(), "budgets": {"params": 0.1} if budgets is None else budgets}
    arguments, chosen = written_down(given), _chosen(given)
    check_precision(precision, place := resolve_device(device))
    repair = _function("recovery", RECOVERIES, recovery)
    weights = _early_weights(weights, network, dataset, train)
    data = _dataset(dataset, (train, validation, test), metric, collate, evaluation_samples, place)
    module = trained_network(network, dataset, data, weights).to(place).eval()
    task = find_task(module, data, metric, loss, output, fine_tune)
    data, layout = _laid_out(module, data, precision)
    groups = _groups(module, data, given)
    score, arguments = _scoring(criterion, module, groups, arguments)
    scores = score_groups(module, groups, score, data.train, seed, task)
    unpruned = measure_unpruned(tuple(chosen), module, data.train.example, unpruned_values)
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
        round_to=1 if round_to == AUTO else int(round_to),
        layout=layout,
        batch_size=None if batch_size is None else int(batch_size),
        arguments=arguments,
        task=task,
    )
    return _checked(problem, given, is_known=unpruned_values is not None)


def _check_given(given: Mapping[str, Any]) -> None:
    """Raise for arguments that can never be right, whatever the network and the data."""
    numbers = ("recovery_steps", "round_to", "evaluation_samples", "batch_size", "seed")
    check_numbers(*(given[name] for name in numbers))
    check_structure(given["structure"], given["round_to"], given["depth"])
    check_ignore(given["ignore"])
    if given["criterion"] != CHOSEN:
        _function("criterion", CRITERIA, given["criterion"])
    check_requests(*(given[name] for name in ("metric", "loss", "output", "fine_tune")))


def _scoring(
    criterion: str | Callable[..., Any],
    network: nn.Module,
    groups: tuple[FilterGroup, ...],
    arguments: dict[str, Any] | None,
) -> tuple[Callable[..., Any], dict[str, Any] | None]:
    """What scores filters, chosen by the network where that was asked for; and the arguments."""
    if criterion == CHOSEN:
        criterion = "bn_scale" if has_norm_scales(network, groups) else "l1"
        arguments = None if arguments is None else {**arguments, "criterion": criterion}
    return _function("criterion", CRITERIA, criterion), arguments


def _chosen(given: Mapping[str, Any]) -> dict[Budget, Limit]:
    """Limits by budget; raises for arguments that can never be right."""
    _check_given(given)
    chosen = check_budgets(given["budgets"], given["structure"])
    check_unpruned_values(given["unpruned_values"], [budget.name for budget in chosen])
    return chosen


def _early_weights(
    weights: str | Path | None, network: str | nn.Module, dataset: str | Dataset, train: Any
) -> str | Path | None:
    """Weights of a registered network, looked for before a download for nothing."""
    if weights is None and train is None and network in NETWORKS and dataset in DATASETS:
        return find_checkpoint(str(network), dataset)
    return weights


def _laid_out(network: nn.Module, data: Dataset, precision: str) -> tuple[Dataset, InferenceLayout]:
    """The data as the network is trained on it fastest, and how the network is judged."""
    check_stop()
    some = data.train.batch(data.train.spread(2))
    with_plain_weights(network, some)
    layout = find_layout(network, some, precision)
    if layout.channels_last and trains_channels_last(network, some):
        data = data.channels_last()
    return data, layout


def _groups(module: nn.Module, data: Dataset, given: Mapping[str, Any]) -> tuple[FilterGroup, ...]:
    """The filter groups; raises where removing filters is not the same as masking them."""
    check_stop()
    ignore = given["ignore"]
    if given["structure"] == "weight":
        return find_weight_groups(module, ignore)
    example = data.train.batch(slice(1))
    groups = find_filter_groups(module, example, ignore)
    check_round_to(given["round_to"], groups)
    check_branches(module, groups, [example, *_unlike(data)], ignore)
    check_compaction(module, groups, example, ignore)
    several = data.train.batch(data.train.spread(4))
    check_training(module, groups, several, ignore)
    return with_blocks(module, groups, (example, several), ignore) if given["depth"] else groups


def _unlike(data: Dataset) -> Iterator[Any]:
    """Inputs of one example each, from both ends of the classes."""
    for split, place in ((data.train, -1), (data.validation, 0), (data.validation, -1)):
        labels = split.classes
        row = place if labels is None else int(np.argsort(labels, kind="stable")[place])
        yield split.batch(torch.tensor([row % len(split)], device=split.device))


def _checked(
    problem: PruningProblem, given: Mapping[str, Any], *, is_known: bool
) -> PruningProblem:
    """The problem, on fast widths where that was asked for.

    Raises unless the smallest network runs and is within every limit, and training works. Noise is
    not to refuse later what could be reached when the known values were measured.
    """
    check_stop()
    ones = problem.masks_of(np.ones(len(problem.groups), dtype=np.int64))
    check_smallest(problem.network, problem.groups, ones, problem.example, given["ignore"])
    problem = on_fast_widths(problem) if given["round_to"] == AUTO else problem
    if not is_known or all(budget.is_deterministic for budget in problem.budgets):
        problem.check_reachable(problem.kept_counts(np.ones(len(problem.groups))))
    if not is_known:  # else it was tried when they were measured
        _try_training(problem)
    return problem


def _try_training(problem: PruningProblem) -> None:
    """Raise where a training of the user's own cannot train a network that is cut by half."""
    if problem.task.fine_tune is None:
        return
    half = problem.compact(problem.masks_of(problem.kept_counts(np.full(len(problem.groups), 0.5))))
    with own_randomness(problem.device):
        try_trainer(problem.task.fine_tune, half, problem.data.train)


@lru_cache(maxsize=8)
def _cached_problem(arguments: str, budgets: tuple[BudgetKey, ...]) -> PruningProblem:
    given = json.loads(arguments)
    if budgets:
        given["budgets"] = dict(zip(budgets, given["budgets"], strict=True))
    return make_problem(**given)


def shared_problem(**arguments: Any) -> PruningProblem:
    """`make_problem`, built once per process for equal JSON-able arguments.

    A problem is frozen and pure, so many environments can stand on one.

    Raises:
        TypeError: an argument that there is not.
    """
    known = inspect.signature(make_problem).parameters
    for name in sorted(set(arguments) - set(known)):
        raise InvalidTypeError(
            f"unexpected keyword argument {name!r}.{suggest(name, list(known))} Those of "
            "make_problem() are taken."
        )
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
    own: tuple[Any, Any, Any],
    metric: Any,
    collate: Callable[[list[Any]], Any] | None,
    evaluation_samples: int | None,
    device: torch.device,
) -> Dataset:
    """The dataset that is meant, on the device, with so many validation images at most."""
    check_stop()
    train, validation, test = own
    if (train is None) != (validation is None):
        raise InvalidValueError("train and validation belong together: give both or none of them.")
    is_one_label = isinstance(metric, str) and metric in ONE_LABEL
    if train is not None:
        data = own_dataset(train, validation, test, classes=is_one_label, collate=collate)
    elif collate is not None:
        raise InvalidValueError("collate= goes with train= and validation=, torch Datasets.")
    else:
        data = load_dataset(dataset) if is_one_label else load_dataset(dataset, classes=False)
    if evaluation_samples is not None:
        if evaluation_samples > len(data.validation):
            raise InvalidValueError(
                f"evaluation_samples={evaluation_samples} is more than the {len(data.validation)} "
                "validation examples; give at most so many, or leave it out."
            )
        data = replace(data, validation=data.validation.subset(evaluation_samples))
    with memory_bound(f"{device} cannot hold the images; use another device or fewer of them"):
        return data.to(device)
