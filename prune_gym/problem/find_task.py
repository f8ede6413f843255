"""What is asked of a network, from what the user gave; tried out before anything is searched."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from prune_gym.datasets import Dataset, Examples, Split
from prune_gym.datasets.own import OWN
from prune_gym.errors import InvalidValueError, LossError, MetricError
from prune_gym.networks.build import check_classes, run_once
from prune_gym.pruning.copying import rebuild
from prune_gym.pruning.trace import own_randomness
from prune_gym.tasks.losses import LOSSES, Loss, cross_entropy
from prune_gym.tasks.matching import classes
from prune_gym.tasks.metrics import Metric, Tally
from prune_gym.tasks.named_metrics import ACCURACY, METRICS
from prune_gym.tasks.task import (
    ONE_LABEL,
    Output,
    Task,
    Trainer,
    instance,
    loaded,
    loss_name,
)
from prune_gym.training.evaluation import largest_batch, measured
from prune_gym.training.trainer import check_trainer
from prune_gym.utils.onednn import SoundConvolutions
from prune_gym.utils.trees import clone, device_of, in_words, leaves, rows_of
from prune_gym.utils.user_code import user_code

TRIED = 64  # examples of the batch that metric and loss are tried on, if they are not too large
FEWEST = 4  # that are tried whatever their size: some metrics say nothing of a single one
SAME = 1e-3  # how far the order of examples may move a metric, as a fraction of its size


def find_task(
    network: nn.Module,
    data: Dataset,
    metric: Any = "accuracy",
    loss: Any = None,
    output: Output = None,
    fine_tune: str | Trainer | None = None,
) -> Task:
    """What is asked of a network; everything is tried out on a batch of validation examples.

    Args:
        network: in evaluation mode; left as it is.
        data: its examples.
        metric: see `prune_gym.make_problem`, as the others.
        loss: likewise.
        output: likewise.
        fine_tune: likewise.

    Raises:
        UnsupportedNetworkError: the network does not run on the inputs.
        MetricError, LossError, TrainerError: what does not fit, by name.
    """
    output, trainer = loaded("output", output), loaded("fine_tune", fine_tune)
    is_usual = metric == "accuracy" and loss is None and output is None and trainer is None
    split = data.train if is_usual else data.validation
    tried = 3 if is_usual else max(FEWEST, min(TRIED, largest_batch(split)))
    inputs, targets = split.read(split.spread(tried))
    outputs = Task(output=output).outputs(run_once(network, inputs))
    if isinstance(metric, str) and metric in ONE_LABEL and split.classes is not None:
        check_classes(type(network).__name__, outputs, data)
    if isinstance(metric, str) and metric in METRICS:
        _check_targets(data)
    chosen = _metric(metric, outputs, targets)
    own_loss = _loss(loss, chosen, outputs, targets, device_of(inputs))
    task = Task(chosen, own_loss, output, trainer)
    is_known = chosen is ACCURACY and own_loss is cross_entropy and split.classes is not None
    if is_known and output is None and trainer is None:
        return task
    task = replace(task, metric=_tried(network, data, task, outputs, targets))
    if task.loss is not None and trainer is None:
        _try_loss(network, task, inputs, targets)
    if trainer is not None:
        check_trainer(trainer)
    return task


def _check_targets(data: Dataset) -> None:
    """Raise where all targets of a user's split are one number: nothing is asked."""
    for name, split in (("train", data.train), ("validation", data.validation)):
        if data.name != OWN or len(split) < 2:
            continue
        tensors = _target_tensors(split)
        first = next((t.flatten()[0] for t in tensors if t.numel()), None)
        # both begin with the first tensor: a set is read until a second number is seen
        if first is not None and all(bool((t == first).all()) for t in _target_tensors(split)):
            raise InvalidValueError(
                f"{name}: every target is {first.item() + 0:g}: any network that says so always is "
                "right. Give examples of more than one kind, or a metric of your own."
            )


def _target_tensors(split: Examples) -> Iterator[torch.Tensor]:
    """The tensors of a split's targets: of all in memory, else of a batch after another."""
    if isinstance(split, Split):
        yield from leaves(split.labels)
        return
    yield from leaves(split.targets(split.spread(min(len(split), TRIED))))
    for start in range(0, len(split), TRIED):
        yield from leaves(split.targets(slice(start, start + TRIED)))


def _metric(metric: Any, outputs: Any, targets: Any) -> Metric:
    found = METRICS.get(metric) if isinstance(metric, str) else metric
    if not isinstance(metric, str) or metric not in METRICS:
        return found if isinstance(found, Metric) else Metric(instance("metric", found))
    if not isinstance(outputs, torch.Tensor):
        raise MetricError(
            f"metric {metric!r} takes one tensor, and the network gives {in_words(outputs)}: name "
            "the part that counts, output='out' or output=0, or give a function of the outputs."
        )
    try:
        return METRICS.get(metric)(outputs, targets)
    except InvalidValueError as error:
        raise MetricError(f"metric {metric!r}: {error}") from error


def _loss(
    loss: Any, metric: Metric, outputs: Any, targets: Any, device: torch.device
) -> Loss | None:
    """The loss that is asked for, or the one that goes with metric and targets."""
    wanted = metric.loss if loss is None else loss
    if wanted is not None:
        found = instance("loss", LOSSES.get(wanted) if isinstance(wanted, str) else wanted)
        own: Loss = copy.deepcopy(found).to(device) if isinstance(found, nn.Module) else found
        return own
    try:
        classes(outputs, targets)
    except InvalidValueError:
        return None
    return cross_entropy


def _tried(network: nn.Module, data: Dataset, task: Task, outputs: Any, targets: Any) -> Metric:
    """The metric, tried on a batch and on the whole split, with the scale that it needs."""
    metric = task.metric
    value = _value(metric, [(outputs, targets)])
    tensors = [tensor for tensor in [*leaves(outputs), *leaves(targets)] if tensor.ndim]
    n = len(outputs) if isinstance(outputs, list) else len(tensors[0]) if tensors else 0
    if metric.prepare is None and n > 1:  # a user's own
        back = torch.arange(n - 1, -1, -1)
        halves = [back[: n // 2], back[n // 2 :]]
        parts = [(rows_of(outputs, rows), rows_of(targets, rows)) for rows in halves]
        other = _value(metric, parts)
        if math.isfinite(value) and not abs(other - value) <= SAME * _size(metric, value, parts):
            raise MetricError(
                f"metric {metric.name!r} depends on the order of the examples: {value:.6g} of a "
                f"batch, {other:.6g} of the same one in another order. It is to judge all "
                "examples together; a torchmetrics.Metric keeps what it needs from batch to batch."
            )
    whole = measured(network, data.validation, task)
    if not math.isfinite(whole):
        raise MetricError(
            f"metric {metric.name!r} of the unpruned network on the validation split is {whole}; "
            "expected a finite number. Do outputs and targets fit?"
        )
    metric.reward(whole)  # within its ends
    return metric.scaled(whole)


def _size(metric: Metric, value: float, parts: list[tuple[Any, Any]]) -> float:
    """How large a metric's numbers are: of a batch, where they may cancel out, and of its parts."""
    sizes = [abs(value)]
    for part in parts:
        with suppress(MetricError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a part may hold a single class
            sizes.append(abs(_value(metric, [part])))
    return max(size for size in sizes if math.isfinite(size))


def _value(metric: Metric, batches: list[tuple[Any, Any]]) -> float:
    tally = Tally(metric, device_of(batches[0][0]))
    with torch.no_grad():
        for outputs, targets in batches:
            tally.add(clone(outputs), targets)
        return tally.value()


def _try_loss(network: nn.Module, task: Task, inputs: Any, targets: Any) -> None:
    """Raise LossError unless the network, in training mode, can learn from the loss."""
    name = loss_name(task.loss)
    device = device_of(inputs)
    copied = rebuild(network, {}).train()
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with own_randomness(device), torch.inference_mode(False), torch.enable_grad():
        loss = task.loss_of(task.run(copied, clone(inputs)), targets)
        if not loss.requires_grad:
            raise LossError(
                f"loss {name!r} has no gradient: nothing of the network's outputs is in it. "
                "Compute it with torch from the outputs, without detach(), argmax() or numpy."
            )
        if not bool(torch.isfinite(loss)):
            raise LossError(
                f"loss {name!r} of the unpruned network is {float(loss.detach())}; expected a "
                "finite number."
            )
        with SoundConvolutions(), user_code(f"loss {name!r}, going backward,", LossError):
            loss.backward()  # type: ignore[no-untyped-call]
    if not any(p.grad is not None and bool((p.grad != 0).any()) for p in copied.parameters()):
        raise LossError(
            f"loss {name!r} has a gradient of 0 everywhere: the network cannot learn from it."
        )
