"""Splits from what users have: tensors, arrays, torch datasets and loaders, checked at the door."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from prune_gym.datasets.augment import shift_and_rotate
from prune_gym.datasets.base import Dataset, Examples, Split, is_pixels
from prune_gym.datasets.checks import check_alike, check_splits
from prune_gym.datasets.holdout import hold_out
from prune_gym.datasets.items import Items, as_tensor, in_tensors, of_list, pair_of, stacked
from prune_gym.datasets.streamed import (
    IN_MEMORY,
    READ_TWICE,
    Collate,
    StreamedSplit,
    n_bytes,
    same,
)
from prune_gym.errors import InvalidTypeError, InvalidValueError
from prune_gym.utils.randomness import seeded
from prune_gym.utils.trees import in_words, leaves

OWN = "custom"  # the name of data that is given as tensors
EPOCHS_DRAWN = 8  # of a sampler, which may leave some examples out of each


def own_dataset(
    train: Any,
    validation: Any,
    test: Any = None,
    *,
    classes: bool = True,
    collate: Collate | None = None,
) -> Dataset:
    """A dataset from a user's splits.

    Images with a class each are augmented when they are trained on, others are not. Where the
    examples of a torch dataset come out differently each time, as with random transforms, training
    reads them anew in every epoch, and augments no further. Validation and test are read once, with
    a warning: every network is to be judged on the same examples.

    Args:
        train: what `as_split` takes.
        validation: likewise, held out of training.
        test: likewise, or None.
        classes: whether a target is the number of a class, (n,); else it is taken as it comes.
        collate: see `as_split`.

    Raises:
        ValueError: splits that are none, or that do not belong together.
    """
    given = {"train": train, "validation": validation, "test": test}
    parts = {
        name: as_split(name, data, classes=classes, collate=collate)
        for name, data in given.items()
        if data is not None
    }
    for name in set(parts) - {"train"}:
        parts[name] = _frozen(name, parts[name])
    training = parts["train"]
    if training.classes is None or not classes:
        check_alike(parts)
        return Dataset(OWN, training, parts["validation"], parts.get("test"))
    check_splits(training, parts["validation"], parts.get("test"))
    augment = None
    if isinstance(training, Split) and isinstance(training.images, torch.Tensor):
        is_fixed = training.images.ndim == 4 and training.reader is None
        augment = shift_and_rotate if is_fixed else None
    n_classes = int(training.classes.max()) + 1
    return Dataset(OWN, training, parts["validation"], parts.get("test"), n_classes, augment)


def _frozen(name: str, split: Examples) -> Examples:
    """A split that networks are judged on, which is never read anew."""
    if getattr(split, "reader", None) is None and not getattr(split, "is_random", False):
        return split
    warnings.warn(
        f"{name}: its examples come out differently each time they are read (random "
        "transforms?); they are read once, so that every network is judged on the same ones. "
        "Better give it a dataset without random transforms.",
        stacklevel=3,
    )
    return replace(split, reader=None) if isinstance(split, Split) else split


def as_split(
    name: str, data: Any, *, classes: bool = True, collate: Collate | None = None
) -> Examples:
    """A split from what users have: a split, a pair (inputs, targets), a torch dataset or loader.

    Types stay what they are. One uint8 tensor of images is pixels: it stays uint8 and is divided by
    255 as it is used. Examples that are sorted by class, as an ``ImageFolder`` has them, are
    shuffled once with a fixed seed. A dataset whose examples come out differently each time gives
    a split that is read anew where it is trained on (`Examples.fresh`). A dataset larger than 2 GiB
    is read as it is used, and so is one with a ``collate`` of its own where it is as large.

    Args:
        name: the argument's name, for error messages.
        data: inputs (n, ...) and targets (n, ...), each a tensor, an array, or a tuple or dict of
            them; a ``torch.utils.data.Dataset`` of (input, target) pairs, map-style or iterable
            with a length, where an input may be a PIL image; or a ``DataLoader`` of one.
        classes: whether a target is the number of a class; else it is taken as it comes.
        collate: makes a batch, ``(inputs, targets)``, of a list of items, e.g. of images of
            different sizes; that of a ``DataLoader`` where None is given.

    Raises:
        ValueError: shapes that do not fit, an empty split, values that are not finite, or classes
            that are not whole numbers from 0.
    """
    if isinstance(data, Examples):
        return data
    order = None
    if isinstance(data, DataLoader):
        data, collate, order = _of_loader(name, data, collate)
    is_plain = collate is None and order is None
    if is_plain and isinstance(data, TensorDataset) and len(data.tensors) == 2:
        given: tuple[Any, Any] = data.tensors
    elif isinstance(data, TorchDataset):
        split = _read_split(name, Items(name, data), classes, collate)
        return split if order is None else split.of(order)
    elif isinstance(data, tuple | list) and len(data) == 2:
        given = data[0], data[1]
    else:
        raise InvalidValueError(
            f"{name}: expected a pair (inputs, targets) or a torch Dataset, got "
            f"{type(data).__name__}. A DataLoader is taken, too."
        )
    if collate is not None:
        raise InvalidTypeError(
            f"{name}: collate= makes batches of the items of a torch Dataset or DataLoader; "
            f"{type(data).__name__} is none."
        )
    split = _checked(name, *given) if classes else _as_it_comes(name, *given)
    return _shuffled(split)


def _of_loader(
    name: str, loader: DataLoader[Any], collate: Collate | None
) -> tuple[TorchDataset[Any], Collate | None, torch.Tensor | None]:
    """The dataset of a loader, how it makes batches, and which rows it gives (None = all)."""
    if loader.batch_sampler is None:
        raise InvalidValueError(
            f"{name}: a DataLoader with batch_size=None gives what its dataset gives; let the "
            "dataset give single examples, and the DataLoader have a batch_size."
        )
    if collate is None and loader.collate_fn is not default_collate:
        collate = loader.collate_fn
    has_batches = type(loader.batch_sampler) is BatchSampler
    is_plain = has_batches and type(loader.sampler) in (SequentialSampler, RandomSampler)
    if is_plain or isinstance(loader.dataset, IterableDataset):
        return loader.dataset, collate, None
    return loader.dataset, collate, _drawn(name, loader)


def _drawn(name: str, loader: DataLoader[Any]) -> torch.Tensor:
    """Which examples a loader's sampler draws in some epochs: trainings mix them themselves."""
    epochs = []
    for seed in range(EPOCHS_DRAWN):
        with seeded(seed):
            batches: Any = loader.batch_sampler
            epochs.append(np.sort([row for batch in batches for row in batch]))
    rows = np.unique(np.concatenate(epochs))
    if any(not np.array_equal(epoch, rows) for epoch in epochs):
        sampler = loader.sampler if type(loader.sampler) is not SequentialSampler else batches
        warnings.warn(
            f"{name}: {type(sampler).__name__} draws examples several times, or others in each "
            f"epoch; here each of the {len(rows)} that it draws counts once. To give some more "
            "weight, give them to the loss (nn.CrossEntropyLoss(weight=...)) or train in your own "
            "way (fine_tune=).",
            stacklevel=4,
        )
    return torch.from_numpy(rows)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads rows of a torch dataset: inputs and targets as `as_split` has them."""

    items: Items
    classes: bool

    def __call__(self, rows: torch.Tensor) -> tuple[Any, Any]:
        name, chosen = self.items.name, rows.tolist()
        kind = type(self.items.data).__name__
        targets: list[Any] = []

        def inputs() -> Iterator[tuple[int, Any]]:
            for row, item in zip(chosen, self.items.read(chosen), strict=True):
                given, target = pair_of(name, row, item, kind)
                targets.append(target)
                yield row, in_tensors(name, f"image {row}", given)

        whole = stacked(name, "image", inputs(), len(chosen))
        if self.classes:
            split = _checked(name, torch.empty(0) if whole is None else whole, targets)
            return split.images, split.labels
        pairs = zip(chosen, targets, strict=True)
        parts = ((row, in_tensors(name, f"target {row}", target)) for row, target in pairs)
        split = _as_it_comes(name, whole, stacked(name, "target", parts, len(chosen)))
        return split.images, split.labels


def _read_split(name: str, items: Items, classes: bool, collate: Collate | None) -> Examples:
    """The split of a torch dataset, in memory where it fits; it is read in parts a second time."""
    n = len(items)
    if collate is not None or (n > 0 and n * n_bytes([*items.read([0], seed=0)]) > IN_MEMORY):
        return StreamedSplit.of_items(items, collate)
    reader = _Reader(items, classes)
    with seeded(0):
        split = Split(*reader(torch.arange(n)))
    rows = split.spread(READ_TWICE)
    with seeded(1):
        images, labels = reader(rows)
    once = split.of(rows)
    if not same((images, labels), (once.images, once.labels)):
        split = replace(split, reader=reader)
    return _shuffled(split)


def _shuffled(split: Split) -> Split:
    """A split that is sorted by class in a mixed order; any other one as it is."""
    labels = split.classes
    if labels is None or not (np.diff(labels) >= 0).all() or labels[0] == labels[-1]:
        return split
    nothing = np.zeros(int(labels[-1]) + 1, dtype=np.int64)
    return split.of(torch.from_numpy(hold_out(labels, nothing, seed=0)[0]))


def _checked(name: str, given_images: Any, given_labels: Any) -> Split:
    """A split of inputs with a class each."""
    images, labels = _inputs(name, given_images), as_tensor(name, "labels", given_labels)
    found = leaves(images)
    n = [tensor.shape[:1] for tensor in found]
    shapes = in_words(images) if len(found) != 1 else f"{tuple(found[0].shape)}"
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.shape[:1] in n:
        raise InvalidValueError(
            f"{name}: labels of shape {tuple(labels.shape)} look one-hot, or are several of each "
            "example; expected the number of a class each, (n,). Targets of other kinds go with a "
            "metric of theirs: metric='multilabel_f1', 'r2', 'mean_iou', or one of your own."
        )
    short = any(tensor.ndim < 2 for tensor in found) and isinstance(images, torch.Tensor)
    if short or any(labels.shape != shape for shape in n) or len(labels) == 0:
        raise InvalidValueError(
            f"{name}: images of shape {shapes} and labels of shape {tuple(labels.shape)} do not "
            "fit; expected (n, ...) and (n,) with n > 0, the number of a class each."
            f"{of_list(given_images) or _metrics_for(labels)}"
        )
    return Split(images, _labels(name, labels))


def _metrics_for(targets: torch.Tensor) -> str:
    """Which metrics go with targets that are no classes of an example each."""
    if targets.is_floating_point():
        return " Targets that are numbers to be told go with metric='r2', 'mae' or 'rmse'."
    return (
        " Targets of other kinds go with a metric of theirs: a class for each place with "
        "metric='mean_iou' or 'pixel_accuracy', one output that is 0 or 1 with 'binary_accuracy'."
    )


def _as_it_comes(name: str, given_inputs: Any, given_targets: Any) -> Split:
    """A split of any inputs and targets with one axis in common, the first."""
    inputs, targets = _inputs(name, given_inputs), _tree(name, "targets", given_targets)
    found = [*leaves(inputs), *leaves(targets)]
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in found}
    if not leaves(inputs) or not leaves(targets) or len(sizes) != 1 or 0 in sizes:
        raise InvalidValueError(
            f"{name}: inputs {in_words(inputs)} and targets {in_words(targets)} do not fit; the "
            "first axis of each is the number of examples, the same one everywhere and above 0."
            f"{of_list(given_inputs)}"
        )
    return Split(inputs, targets)


def _tree(name: str, what: str, given: Any) -> Any:
    """Tuples and dicts of tensors from those of arrays."""
    if isinstance(given, Mapping):
        return {key: _tree(name, f"{what}[{key!r}]", part) for key, part in given.items()}
    if isinstance(given, tuple) and any(not isinstance(x, bool | int | float) for x in given):
        return tuple(_tree(name, f"{what}[{i}]", part) for i, part in enumerate(given))
    return as_tensor(name, what, given)


def _inputs(name: str, given: Any) -> Any:
    """Inputs as tensors that a network can be run on."""
    inputs = _tree(name, "images", given)
    for tensor in leaves(inputs):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InvalidValueError(f"{name}: images hold NaN or infinity; clean them first.")
    return _pixels(name, inputs) if is_pixels(inputs) else inputs


def _pixels(name: str, images: torch.Tensor) -> torch.Tensor:
    if images.ndim == 3:
        raise InvalidValueError(
            f"{name}: uint8 images of shape {tuple(images.shape)}; expected (n, channels, height, "
            "width), e.g. images[:, None] of grey ones."
        )
    if images.ndim == 4 and images.shape[1] > 4 and images.shape[3] <= 4:
        raise InvalidValueError(
            f"{name}: uint8 images of shape {tuple(images.shape)} have their channels last; "
            "expected (n, channels, height, width): images.transpose(0, 3, 1, 2) of an array, "
            "images.permute(0, 3, 1, 2) of a tensor."
        )
    return images


def _labels(name: str, labels: torch.Tensor) -> torch.Tensor:
    found = labels.real.long()
    wrong = found < 0
    if labels.is_floating_point() or labels.is_complex():
        wrong = wrong | (found != labels)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        raise InvalidValueError(
            f"{name}: label {row} is {labels[row].item()!r}; expected whole numbers from 0, the "
            "number of a class each. Targets that are numbers to be told go with metric='r2', "
            "'mae' or 'rmse', those of other kinds with a metric of theirs."
        )
    return found
