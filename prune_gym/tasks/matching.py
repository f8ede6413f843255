"""Outputs held against targets: what fits is brought into one shape, what does not is named."""

from __future__ import annotations

from typing import Any

import torch

from prune_gym.errors import InvalidValueError
from prune_gym.utils.trees import in_words, leaves


def classes(outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (n, n_classes, ...) and the number of a class for each place, (n, ...) int64.

    Numbers of classes that there are no outputs for pass: losses have some that they ignore.

    Raises:
        InvalidValueError: they are not.
    """
    scores = only_tensor(outputs)
    expected = (*scores.shape[:1], *scores.shape[2:])
    is_whole = isinstance(targets, torch.Tensor) and not targets.is_floating_point()
    if scores.ndim < 2 or not is_whole or tuple(targets.shape) != expected:
        is_number = isinstance(targets, torch.Tensor) and targets.is_floating_point()
        cure = " Numbers to be told go with metric='r2', 'mae' or 'rmse'." if is_number else ""
        raise InvalidValueError(
            f"outputs are {in_words(scores)} and targets {in_words(targets)}; expected outputs "
            "(n, n_classes, ...) and for each place the number of a class, (n, ...), whole numbers."
            f"{cure}"
        )
    if scores.shape[1] < 2:
        raise InvalidValueError(
            f"outputs are {in_words(scores)}, a single one for each example or place; of two "
            "classes, they go with metric='binary_accuracy', 'binary_f1', 'binary_iou' or 'auroc'."
        )
    return scores.float(), targets.long()


def values(outputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets of one shape; axes of length 1 may be missing on either side.

    Raises:
        InvalidValueError: their shapes differ otherwise, which would be spread over each other.
    """
    found = only_tensor(outputs)
    wanted = only_tensor(targets)
    same = [n for n in found.shape[1:] if n != 1] == [n for n in wanted.shape[1:] if n != 1]
    if found.shape[:1] != wanted.shape[:1] or not same:
        raise InvalidValueError(
            f"outputs are {in_words(found)} and targets {in_words(wanted)}; expected both of one "
            "shape, a number for each number."
        )
    kind = found.dtype if found.is_floating_point() else torch.float32
    return found.reshape(wanted.shape), wanted.to(kind)


def only_tensor(tree: Any) -> torch.Tensor:
    """The one tensor of outputs; of a tuple, as some networks give in training, the first.

    Raises:
        InvalidValueError: there is none, or they have names of which one must be chosen.
    """
    if isinstance(tree, torch.Tensor):
        return tree
    found = leaves(tree)
    if isinstance(tree, tuple | list) and found:
        return found[0]
    raise InvalidValueError(
        f"{in_words(tree)} is no tensor; name the part that counts: output='out' or output=0, or "
        "give a function of the outputs."
    )
