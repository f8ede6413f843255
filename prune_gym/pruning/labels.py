"""Labels: to which index of which tensor axis every number in a network belongs.

Every axis of every parameter and buffer has one label an index. A tensor of a forward carries
*facets*: whole-number tensors of its own shape (mostly expanded ones, which cost no memory) that
say for each of its numbers with which label it would go. A feature map has one facet, along its
channels; a weight has two. Operations move facets about, or find that labels can only go together.
Label 0 stands for what always stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Facet: TypeAlias = torch.Tensor  # int64, of the shape of what it labels
Facets: TypeAlias = tuple[Facet, ...]


class Labels:
    """Disjoint sets of labels: those that can only go together share a set.

    Attributes:
        reasons: why labels stay, in words, by label.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self.reasons: dict[int, str] = {}
        self._behind: dict[int, Facet] = {}

    def allocate(self, n: int) -> int:
        """The first of ``n`` new labels."""
        first = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(first, first + n)])
        return first

    def sets(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The label that stands for the whole set of each: its lowest."""
        found = self._parent[labels]
        while True:
            higher = self._parent[found]
            if (higher == found).all():
                break
            found = higher
        self._parent[labels] = found
        return found

    def are_same(self, one: Facet, other: Facet) -> bool:
        """Whether two rows hold the same sets, in any order."""
        first, second = (np.sort(self.sets(row.numpy())) for row in (one, other))
        return np.array_equal(first, second)

    def join(self, one: Facet, other: Facet) -> None:
        """Make one set of each label and the one at its place in another facet."""
        if one is other:
            return
        shape = np.broadcast_shapes(one.shape, other.shape)
        one, other = one.expand(shape), other.expand(shape)
        index = tuple(
            slice(0, 1) if a == 0 and b == 0 else slice(None)
            for a, b in zip(one.stride(), other.stride(), strict=True)
        )
        self._join(one[index].numpy(), other[index].numpy())

    def _join(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
        while True:
            left, right = self.sets(one), self.sets(other)
            apart = left != right
            if not apart.any():
                return
            one, other = left[apart], right[apart]
            np.minimum.at(self._parent, np.maximum(one, other), np.minimum(one, other))

    def keep(self, facets: Sequence[Facet], why: str) -> None:
        """Keep all labels of some facets whole, for a reason."""
        for facet in facets:
            labels = np.unique(core(facet).numpy())
            fresh = labels[self.sets(labels) > 0]
            if len(fresh):
                self.reasons.update(dict.fromkeys(fresh.tolist(), why))
                self._join(fresh, np.zeros_like(fresh))
                self.keep([self._behind.pop(x) for x in fresh.tolist() if x in self._behind], why)

    def mixed(self, facet: Facet) -> int:
        """A label for numbers that are made of all in a facet: where they are used, it stays."""
        label = self.allocate(1)
        self._behind[label] = facet
        return label

    def alive(self, facets: Sequence[Facet]) -> Facets:
        """The facets with labels that may go."""
        return tuple(facet for facet in facets if self.sets(core(facet).numpy()).any())


class Rectangle(NamedTuple):
    """Labels of a block of numbers that has to stay one: whole slices along one of its axes go.

    Attributes:
        labels: one by place in the block, each axis longer than 1.
        closed: axes along which nothing can go.
        place: the line of code that laid the block out.
        numbers: the lengths of the axes as the code gave them, where it did.
    """

    labels: NDArray[np.int64]
    closed: tuple[int, ...]
    place: str
    numbers: tuple[int | None, ...]


def settle(labels: Labels, rectangles: Sequence[Rectangle]) -> list[tuple[Rectangle, int]]:
    """Join labels until all blocks stay blocks.

    Returns:
        The blocks, each with the axis along which it is cut.
    """
    cut: dict[int, int] = {}
    moved = True
    while moved:
        moved = False
        for number, rectangle in enumerate(rectangles):
            sets = labels.sets(rectangle.labels)
            if not sets.any():
                continue
            open_axes = [a for a in range(sets.ndim) if a not in rectangle.closed]
            axis = next((a for a in open_axes if _is_constant_but_along(sets, a)), None)
            if axis is None and not _is_constant(sets):
                moved = True
                if not open_axes:
                    labels.keep([torch.from_numpy(sets)], f"numbered at {rectangle.place}")
                    continue
                axis = _best_axis(sets, open_axes)
                rows = np.moveaxis(sets, axis, 0).reshape(sets.shape[axis], -1)
                facet = torch.from_numpy(np.ascontiguousarray(rows))
                labels.join(facet, facet[:, :1])
            if axis is not None:
                cut[number] = axis
    return [(rectangles[number], axis) for number, axis in cut.items()]


def _best_axis(sets: NDArray[np.int64], axes: Sequence[int]) -> int:
    """The longest axis (the last of several): blocks have few rows and many filters."""
    return max(axes, key=lambda axis: (sets.shape[axis], axis))


def _is_constant(sets: NDArray[np.int64]) -> bool:
    return bool((sets == sets.flat[0]).all())


def _is_constant_but_along(sets: NDArray[np.int64], axis: int) -> bool:
    first = sets
    for other in range(sets.ndim):
        if other != axis:
            first = first.take([0], other)
    return bool((sets == first).all())


# -- facets ----------------------------------------------------------------------------------------


def core(facet: Facet) -> torch.Tensor:
    """A facet without the places that expansion made."""
    return facet[tuple(slice(0, 1) if s == 0 else slice(None) for s in facet.stride())]


def along(first: int, n: int, axis: int, shape: Sequence[int]) -> Facet:
    """The facet of ``n`` labels along an axis."""
    row = torch.arange(first, first + n).view([-1 if a == axis else 1 for a in range(len(shape))])
    return row.expand(tuple(shape))


def tidy(facet: Facet) -> Facet:
    """The same facet, expanded along every axis on which it is constant."""
    small = core(facet)
    for axis in range(facet.ndim):
        first = small.narrow(axis, 0, 1) if small.shape[axis] else small
        if small.shape[axis] > 1 and bool((small == first).all()):
            small = first
    return small.expand(facet.shape)


def axes_of(facet: Facet) -> tuple[int, ...]:
    """The axes along which a tidy facet varies."""
    pairs = enumerate(zip(facet.shape, facet.stride(), strict=True))
    return tuple(axis for axis, (length, stride) in pairs if length > 1 and stride != 0)


def merge(
    labels: Labels, operands: Sequence[tuple[Facets, Sequence[int]]], shape: Sequence[int], why: str
) -> Facets:
    """Facets of what tensors make that are broadcast against each other, number by number.

    Where one varies along an axis that another has, too, both must lose the same.

    Args:
        labels: the sets; what belongs together is joined.
        operands: facets of each tensor, and its shape.
        shape: of the outcome.
        why: labels stay that stand against numbers without.
    """
    wide = [
        (
            [tidy(f.expand(tuple(shape))) for f in facets if axes_of(f)],
            [1] * (len(shape) - len(own)) + list(own),
        )
        for facets, own in operands
    ]
    made: list[Facet] = []
    for number, (facets, _) in enumerate(wide):
        for facet in facets:
            axes = set(axes_of(facet))
            for other, (others, own) in enumerate(wide):
                if other == number or all(own[axis] == 1 for axis in axes):
                    continue
                partners = _partners(facet, others)
                for partner in partners if other > number else ():  # once for two
                    labels.join(facet, partner)
                if not partners:
                    labels.keep([facet], why)
            if not any(axes <= set(axes_of(one)) for one in made):
                made = [one for one in made if not set(axes_of(one)) < axes] + [facet]
    return tuple(made)


def _partners(facet: Facet, others: Sequence[Facet]) -> list[Facet]:
    """The facets that vary along the same axes; the same one alone, where it is there."""
    axes = set(axes_of(facet))
    found = [other for other in others if axes & set(axes_of(other))]
    same = [other for other in found if torch.equal(core(facet), core(other))]
    return same or found
