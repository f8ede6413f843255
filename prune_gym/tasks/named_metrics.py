"""The metrics that go by a name. torchmetrics computes all but plain accuracy.

A builder gets a batch of outputs and targets, for their shapes. Outputs of classifiers are logits
or probabilities, (n, n_classes, ...); those of binary and multi-label ones are logits where any of
the batch lies outside of [0, 1], else probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from prune_gym.errors import InvalidValueError
from prune_gym.tasks.matching import classes, only_tensor, values
from prune_gym.tasks.metrics import Metric
from prune_gym.utils.registry import Registry

METRICS: Registry[Callable[[Any, Any], Metric]] = Registry("metric")


@METRICS.register
def accuracy(outputs: Any, targets: Any) -> Metric:
    """Share of examples whose class is right; targets (n,), numbers of classes."""
    return ACCURACY


@METRICS.register
def pixel_accuracy(outputs: Any, targets: Any) -> Metric:
    """Share of places whose class is right; targets (n, ...), a class for each place."""
    return _of_classes("pixel_accuracy", "MulticlassAccuracy", outputs, targets, average="micro")


@METRICS.register
def top5(outputs: Any, targets: Any) -> Metric:
    """Share of examples whose class is among the five highest outputs."""
    n_classes = only_tensor(outputs).shape[1]
    return _of_classes(
        "top5", "MulticlassAccuracy", outputs, targets, average="micro", top_k=min(5, n_classes)
    )


@METRICS.register
def balanced_accuracy(outputs: Any, targets: Any) -> Metric:
    """Mean over the classes of the share that is recognised."""
    return _of_classes("balanced_accuracy", "MulticlassAccuracy", outputs, targets, average="macro")


@METRICS.register
def f1(outputs: Any, targets: Any) -> Metric:
    """Mean over the classes of F1."""
    return _of_classes("f1", "MulticlassF1Score", outputs, targets, average="macro")


@METRICS.register
def mean_iou(outputs: Any, targets: Any) -> Metric:
    """Mean over the classes of intersection over union (Jaccard index) of all places."""
    return _of_classes("mean_iou", "MulticlassJaccardIndex", outputs, targets, average="macro")


@METRICS.register
def binary_accuracy(outputs: Any, targets: Any) -> Metric:
    """Share of examples (or places) that are right, of one output each; targets 0 or 1."""
    return _of_chances("binary_accuracy", "BinaryAccuracy", outputs, targets)


@METRICS.register
def binary_f1(outputs: Any, targets: Any) -> Metric:
    """F1 of one output for each example (or place); targets 0 or 1."""
    return _of_chances("binary_f1", "BinaryF1Score", outputs, targets)


@METRICS.register
def binary_iou(outputs: Any, targets: Any) -> Metric:
    """Intersection over union (Jaccard index) of one output for each place; targets 0 or 1."""
    return _of_chances("binary_iou", "BinaryJaccardIndex", outputs, targets)


@METRICS.register
def auroc(outputs: Any, targets: Any) -> Metric:
    """Area under the ROC curve of one output for each example; targets 0 or 1."""
    return _of_chances("auroc", "BinaryAUROC", outputs, targets)


@METRICS.register
def multilabel_accuracy(outputs: Any, targets: Any) -> Metric:
    """Mean over the labels of the share that is right; targets (n, n_labels), 0 or 1."""
    n_labels = _n_labels(outputs, targets)
    return _of_chances(
        "multilabel_accuracy", "MultilabelAccuracy", outputs, targets, num_labels=n_labels
    )


@METRICS.register
def multilabel_f1(outputs: Any, targets: Any) -> Metric:
    """Mean over the labels of F1; targets (n, n_labels), 0 or 1."""
    n_labels = _n_labels(outputs, targets)
    return _of_chances("multilabel_f1", "MultilabelF1Score", outputs, targets, num_labels=n_labels)


@METRICS.register
def r2(outputs: Any, targets: Any) -> Metric:
    """Coefficient of determination, 1 at best; mean over the columns of the targets."""
    return Metric(_torchmetrics().R2Score(), "r2", highest=1.0, loss="mse", prepare=_columns)


@METRICS.register
def mae(outputs: Any, targets: Any) -> Metric:
    """Mean absolute error, in the targets' unit; lower is better."""
    return Metric(_torchmetrics().MeanAbsoluteError(), "mae", loss="l1", prepare=values)


@METRICS.register
def mse(outputs: Any, targets: Any) -> Metric:
    """Mean squared error; lower is better."""
    return Metric(_torchmetrics().MeanSquaredError(), "mse", loss="mse", prepare=values)


@METRICS.register
def rmse(outputs: Any, targets: Any) -> Metric:
    """Root of the mean squared error, in the targets' unit; lower is better."""
    measure = _torchmetrics().MeanSquaredError(squared=False)
    return Metric(measure, "rmse", loss="mse", prepare=values)


def share_right(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Fraction of examples whose highest output is that of their class, in [0, 1]."""
    return float((outputs.argmax(dim=1) == targets).double().mean())


def _single_class(outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scores, labels = classes(outputs, targets)
    if scores.ndim != 2:
        raise InvalidValueError(
            f"outputs are {tuple(scores.shape)}, a class for each place; metric='pixel_accuracy' "
            "or 'mean_iou' judges them."
        )
    return scores, labels


ACCURACY = Metric(
    share_right, "accuracy", True, 0.0, 1.0, loss="cross_entropy", prepare=_single_class
)


def is_accuracy(metric: Metric) -> bool:
    """Whether a metric is `ACCURACY`, also where it came from another process."""
    return metric.measure is share_right and metric.name == ACCURACY.name


def _torchmetrics() -> Any:
    import torchmetrics  # it takes long

    return torchmetrics


def _of_classes(name: str, kind: str, outputs: Any, targets: Any, **settings: Any) -> Metric:
    n_classes = classes(outputs, targets)[0].shape[1]
    measure = getattr(_torchmetrics().classification, kind)(n_classes, **settings)
    shown = "".join(f", {key}={value!r}" for key, value in settings.items())
    cure = f"torchmetrics.classification.{kind}({n_classes}{shown}, ignore_index="
    prepare = partial(_within_classes, cure)
    return Metric(measure, name, True, 0.0, 1.0, loss="cross_entropy", prepare=prepare)


def _within_classes(cure: str, outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets; raises for a number that is none of the classes."""
    scores, labels = classes(outputs, targets)
    n_classes, (lowest, highest) = scores.shape[1], (int(end) for end in labels.aminmax())
    if lowest >= 0 and highest < n_classes:
        return scores, labels
    wrong = lowest if lowest < 0 else highest
    raise InvalidValueError(
        f"targets hold {wrong}, but outputs tell {n_classes} classes apart, 0 to {n_classes - 1}. "
        f"Where {wrong} says that a place does not count: metric={cure}{wrong}), "
        f"loss=torch.nn.CrossEntropyLoss(ignore_index={wrong})."
    )


def _of_chances(name: str, kind: str, outputs: Any, targets: Any, **settings: Any) -> Metric:
    found, wanted = values(outputs, targets)
    if bool(((wanted != 0) & (wanted != 1)).any()):
        raise InvalidValueError("targets must be 0 or 1 each.")
    measure = getattr(_torchmetrics().classification, kind)(**settings)
    are_logits = bool(((found < 0) | (found > 1)).any())
    prepare = _from_logits if are_logits else _from_chances
    loss = "binary_cross_entropy" + ("_with_logits" if are_logits else "")
    return Metric(measure, name, True, 0.0, 1.0, loss=loss, prepare=prepare)


def _from_logits(outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found, wanted = values(outputs, targets)
    return found.sigmoid(), wanted.long()


def _from_chances(outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found, wanted = values(outputs, targets)
    return found, wanted.long()


def _n_labels(outputs: Any, targets: Any) -> int:
    found, _ = values(outputs, targets)
    if found.ndim < 2 or found.shape[1] < 2:
        raise InvalidValueError(
            f"outputs are {tuple(found.shape)}; expected (n, n_labels), two labels at least. For "
            "one, metric='binary_f1' or 'binary_accuracy'."
        )
    return int(found.shape[1])


def _columns(outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    found, wanted = values(outputs, targets)
    if found.ndim > 1 and found.flatten(1).shape[1] > 1:
        return found.flatten(1), wanted.flatten(1)
    return found.flatten(), wanted.flatten()
