"""What operations do with the labels of the tensors that they take: those that move numbers about.

An operation that is not known keeps all that it takes whole, so that nothing is ever cut by
mistake; to open one, write a rule here, or beside those that compute in `layer_operations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from prune_gym.pruning.labels import (
    Facet,
    Facets,
    Labels,
    Rectangle,
    axes_of,
    core,
    merge,
    tidy,
)
from prune_gym.pruning.numbers import FixedLength, OwnNumber, QuotientNumber, ShapeNumber


@dataclass
class Call:
    """One operation of a forward.

    Attributes:
        name: of the operation, e.g. ``"convolution"``.
        args: its arguments, by position.
        kwargs: and by name.
        outputs: the tensors that it made.
        labels: the sets of labels.
        rectangles: blocks that must stay blocks; operations add to them.
        facets_of: the facets of a tensor.
        owner_of: the module that a parameter or buffer belongs to.
        place: the line of code that asked for it.
        numbers: whole numbers that the code gave, in their order.
        function: the operation itself.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outputs: Sequence[torch.Tensor]
    labels: Labels
    rectangles: list[Rectangle]
    facets_of: Callable[[Any], Facets]
    owner_of: Callable[[Any], nn.Module | None]
    place: str
    numbers: Sequence[int]
    function: Callable[..., Any]

    @property
    def why(self) -> str:
        """For labels that stay because of it."""
        return f"{self.name} at {self.place}"

    @property
    def shape(self) -> torch.Size:
        """Of the first tensor made."""
        return self.outputs[0].shape

    def keep(self, facets: Sequence[Facet]) -> None:
        """Keep all labels of some facets whole."""
        self.labels.keep(facets, self.why)

    def merge(self, operands: Sequence[tuple[Facets, Sequence[int]]]) -> Facets:
        """Broadcast against each other; see `labels.merge`."""
        return merge(self.labels, operands, self.shape, self.why)


Rule: TypeAlias = Callable[[Call], "Facets | list[Facets]"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by name."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def tensors_in(values: Any) -> list[torch.Tensor]:
    """Tensors among arguments, in lists as well."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in tensors_in(value)]
    return []


def keep_all(call: Call) -> Facets | list[Facets]:
    """What is not known keeps everything whole."""
    for tensor in tensors_in([call.args, call.kwargs]):
        call.keep(call.facets_of(tensor))
    return ()


@rule("_prelu_kernel", "hardswish", "hardsigmoid", "hardtanh", "gelu", "silu", "mish", "elu")
@rule("celu", "selu", "leaky_relu", "softplus", "softshrink", "hardshrink", "threshold", "logit")
@rule("log_sigmoid_forward", "rrelu_with_noise", "relu6", "lerp", "nan_to_num", "masked_fill")
def pointwise(call: Call) -> Facets | list[Facets]:
    """Number by number, with broadcasting."""
    tensors = tensors_in([call.args, call.kwargs])
    return call.merge([(call.facets_of(tensor), _own_shape(tensor)) for tensor in tensors])


def _own_shape(tensor: torch.Tensor) -> list[int]:
    """The shape without what expansion made of it."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return [1 if stride == 0 else length for length, stride in pairs]


@rule("new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided")
@rule("_local_scalar_dense", "equal", "nonzero")
def no_part(call: Call) -> Facets:
    """Only the kind of numbers, or one value, is looked at."""
    return ()


@rule("as_strided", "as_strided_")
def strided(call: Call) -> Facets | list[Facets]:
    """A new view of a tensor as it lies."""
    source = call.args[0]
    is_whole = source.numel() == call.outputs[0].numel() and source.is_contiguous()
    return view(call) if is_whole and call.outputs[0].is_contiguous() else keep_all(call)


# -- moving numbers about --------------------------------------------------------------------------


@rule("permute", "transpose", "t", "numpy_T", "expand", "unsqueeze", "squeeze", "repeat", "movedim")
@rule("pixel_unshuffle", "diagonal", "unfold", "index_select", "index", "swapaxes")
@rule("swapdims", "tile")
def move(call: Call) -> Facets:
    """Labels move as the numbers do; padding is of no label."""
    return tuple(
        tidy(_moved(call, facet, call.outputs[0])) for facet in call.facets_of(call.args[0])
    )


def _moved(call: Call, facet: Facet, made: torch.Tensor) -> Facet:
    moved: Facet = call.function(facet.to(made.device), *call.args[1:])
    return moved.cpu()


@rule("constant_pad_nd", "pad")
def pad(call: Call) -> Facets:
    """Padding is of no label along an axis of labels; along others it is of theirs."""
    amounts = list(call.args[1])
    made = []
    for facet in call.facets_of(call.args[0]):
        own = list(amounts)
        for axis in range(facet.ndim):
            place = 2 * (facet.ndim - 1 - axis)
            if axis not in axes_of(facet) and place < len(own):
                own[place : place + 2] = [0, 0]
        small = torch.constant_pad_nd(core(facet), own)
        made.append(tidy(small.expand(call.shape)))
    return tuple(made)


@rule("channel_shuffle", "native_channel_shuffle")
def shuffle(call: Call) -> Facets | list[Facets]:
    """Channels of all groups in turn: each group loses as many, at the same places."""
    facets = call.facets_of(call.args[0])
    for facet in facets:
        if 1 in axes_of(facet):
            _block(call, tidy(facet.reshape(-1, call.args[1], *_rest(facet, call.args[1]))), [1])
    return move(call)


def _rest(facet: Facet, n_groups: int) -> list[int]:
    return [facet.shape[1] // n_groups, *facet.shape[2:]]


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Facets:
    """So many channels make the pixels of one, and go together."""
    n_pixels = call.args[1] ** 2
    made = []
    for facet in call.facets_of(call.args[0]):
        if axes_of(facet) != (facet.ndim - 3,):
            call.keep([facet])
            continue
        rows = torch.unflatten(facet[..., 0, 0], -1, (-1, n_pixels))
        call.labels.join(rows, rows[..., :1])
        made.append(tidy(rows[..., 0, None, None].expand(call.shape)))
    return tuple(made)


@rule("glu")
def glu(call: Call) -> Facets:
    """One half of the channels gates the other."""
    dim = dimension(call, 1, -1)
    made = []
    for facet in call.facets_of(call.args[0]):
        one, other = facet.tensor_split(2, dim)
        if dim in axes_of(facet):
            call.labels.join(one, other)
        made.append(tidy(one))
    return tuple(made)


@rule("roll", "flip")
def reorder(call: Call) -> Facets:
    """Along other axes than those of labels; else places would change with what goes."""
    dims = call.args[-1] if len(call.args) > 1 else call.kwargs.get("dims", [])
    dims = [dims] if isinstance(dims, int) else list(dims)
    facets = call.facets_of(call.args[0])
    closed = {dim % len(call.shape) for dim in dims}
    for facet in facets:
        if not dims or closed & set(axes_of(facet)):
            call.keep([facet])
    return facets


@rule("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "view_as_real", "dropout")
@rule("native_dropout", "resolve_conj", "resolve_neg", "zeros_like", "ones_like", "empty_like")
@rule("full_like", "rand_like", "randn_like", "bernoulli", "uniform", "normal", "fill", "zero")
def same(call: Call) -> Facets:
    """Numbers stay where they are, or others come into their places."""
    return call.facets_of(call.args[0])


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten")
def view(call: Call) -> Facets:
    """Numbers in a row stay in a row; an axis of labels that is split up must stay a block."""
    n_axes = len(call.shape)
    sizes = list(call.numbers[-n_axes:])  # of unflatten, before it the axis
    given = dict(enumerate(sizes)) if len(sizes) == n_axes else {}
    made = []
    for facet in call.facets_of(call.args[0]):
        out = tidy(facet.reshape(call.shape))
        owned = any(isinstance(given.get(axis), OwnNumber) for axis in axes_of(out))
        if len(axes_of(out)) > len(axes_of(facet)) or owned:
            _block(call, out, given=given)
        _as_long(call, out, given)
        made.append(out)
    for axis, number in given.items():
        if isinstance(number, ShapeNumber) and not any(axis in axes_of(facet) for facet in made):
            call.keep([number.row])
    return tuple(made)


def _as_long(call: Call, facet: Facet, given: Mapping[int, int]) -> None:
    """Axes whose lengths the code read off other tensors lose what those lose."""
    for axis, number in given.items():
        if isinstance(number, QuotientNumber | FixedLength) and axis in axes_of(facet):
            call.keep([facet])  # the number stays, or grows as what divides it falls
        if not isinstance(number, ShapeNumber) or facet.shape[axis] != number:
            continue
        lines = facet.movedim(axis, -1)
        if call.labels.are_same(lines[(0,) * (facet.ndim - 1)], number.row):
            continue
        if number.divisor == 1 and axes_of(facet) == (axis,):
            call.labels.join(lines, number.row)
        elif axis and facet.shape[axis - 1] == number.divisor:  # width // heads
            planes = lines.movedim(axis - 1, -2)
            call.labels.join(planes, number.row.view(number.divisor, -1))


def _block(
    call: Call, facet: Facet, closed: Sequence[int] = (), given: Mapping[int, int] | None = None
) -> None:
    """A block of labels that must stay one.

    Args:
        call: what lays it out.
        facet: the block.
        closed: axes along which nothing can go.
        given: the number that the code gave, by axis.
    """
    axes = axes_of(facet)
    table = core(facet).reshape([facet.shape[axis] for axis in axes]).numpy()
    inside = tuple(axes.index(axis) for axis in closed if axis in axes)
    numbers = tuple((given or {}).get(axis) for axis in axes)
    call.rectangles.append(Rectangle(table, inside, call.place, numbers))


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk")
@rule("unsafe_chunk", "tensor_split")
def split(call: Call) -> list[Facets]:
    """Parts; along an axis of labels they must be alike, or as long as numbers of a module say."""
    dim = dimension(call, 2, 0)
    made: list[list[Facet]] = [[] for _ in call.outputs]
    sizes = [part.shape[dim] for part in call.outputs]
    given = list(call.numbers[: len(sizes)])
    for facet in call.facets_of(call.args[0]):
        parts = [tidy(part) for part in torch.split(facet, sizes, dim)]
        if dim in axes_of(facet) and len(sizes) > 1:
            if all(isinstance(number, OwnNumber) for number in given) and given == sizes:
                for part, number in zip(parts, given, strict=True):
                    _block(call, part, given={dim: number})
            elif len(set(sizes)) > 1 or call.name.endswith("with_sizes"):
                call.keep([facet])
            else:
                blocks = torch.unflatten(facet, dim, (len(sizes), sizes[0]))
                size = {dim + 1: given[0]} if given and given[0] == sizes[0] else {}
                _block(call, tidy(blocks), [dim], size)
        for held, part in zip(made, parts, strict=True):
            held.append(part)
    return [tuple(held) for held in made]


@rule("unbind")
def unbind(call: Call) -> list[Facets]:
    """Parts by number along an axis: nothing can go along it."""
    dim = dimension(call, 1, 0)
    made: list[list[Facet]] = [[] for _ in call.outputs]
    for facet in call.facets_of(call.args[0]):
        if dim in axes_of(facet):
            _block(call, facet, [dim])
        for part, label in zip(made, facet.unbind(dim), strict=True):
            part.append(tidy(label))
    return [tuple(part) for part in made]


@rule("select")
def select(call: Call) -> Facets:
    """One by number along an axis: nothing can go along it."""
    dim, index = dimension(call, 1, 0), call.args[2]
    facets = call.facets_of(call.args[0])
    for facet in facets:
        if dim in axes_of(facet):
            _block(call, facet, [dim])
    return tuple(tidy(facet.select(dim, index)) for facet in facets)


@rule("slice")
def cut_out(call: Call) -> Facets:
    """A half, say; along an axis of labels the parts of that size must stay alike."""
    dim = dimension(call, 1, 0)
    before, after = call.args[0].shape[dim], call.shape[dim]
    made = []
    for facet in call.facets_of(call.args[0]):
        if dim in axes_of(facet) and after < before:
            step = call.args[4] if len(call.args) > 4 else 1
            start = call.args[2] if len(call.args) > 2 and call.args[2] else 0
            if step != 1 or before % after or start % after:
                call.keep([facet])
            else:
                _block(call, tidy(torch.unflatten(facet, dim, (before // after, after))), [dim])
        made.append(tidy(call.function(facet, *call.args[1:], **call.kwargs)))
    return tuple(made)


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Facets:
    """One after the other along an axis; along others all must lose the same."""
    tensors = [tensor for tensor in call.args[0] if tensor.numel() or tensor.ndim > 1]
    dim = dimension(call, 1, 0)
    rows: list[list[Facet]] = []  # facets that vary along the axis, by tensor
    crossing: list[tuple[Facets, Sequence[int]]] = []
    for tensor in tensors:
        facets = call.facets_of(tensor)
        rows.append([facet for facet in facets if dim in axes_of(facet)])
        others = tuple(f.narrow(dim, 0, 1) for f in facets if dim not in axes_of(f))
        shape = list(tensor.shape)
        crossing.append((others, [1 if axis == dim else n for axis, n in enumerate(shape)]))
    shape = [1 if axis == dim else n for axis, n in enumerate(call.shape)]
    made = merge(call.labels, crossing, shape, call.why)
    made = tuple(facet.expand(call.shape) for facet in made)
    for level in range(max((len(row) for row in rows), default=0)):
        parts = [
            row[level] if level < len(row) else torch.zeros((), dtype=torch.int64).expand(t.shape)
            for row, t in zip(rows, tensors, strict=True)
        ]
        made = (*made, tidy(torch.cat(parts, dim)))
    return made


@rule("stack")
def stack(call: Call) -> Facets:
    """On top of each other: all must lose the same."""
    dim = dimension(call, 1, 0, len(call.shape))
    shape = [n for axis, n in enumerate(call.shape) if axis != dim]
    operands = [(call.facets_of(tensor), tensor.shape) for tensor in call.args[0]]
    made = merge(call.labels, operands, shape, call.why)
    return tuple(facet.unsqueeze(dim).expand(call.shape) for facet in made)


@rule("copy_")
def copy(call: Call) -> Facets:
    """Into a whole tensor; into a part of one, what is written stays."""
    target, source = call.args[0], call.args[1]
    if target._base is not None and not call.facets_of(target):
        call.keep(call.facets_of(source))
        return ()
    return call.merge([(call.facets_of(source), source.shape), (call.facets_of(target), (1,))])


def dimension(call: Call, place: int, default: int, n_axes: int | None = None) -> int:
    """The axis that an operation is along, counted from the first."""
    n_axes = tensors_in(call.args[0])[0].ndim if n_axes is None else n_axes
    value = call.args[place] if len(call.args) > place else call.kwargs.get("dim", default)
    return int(value) % n_axes
