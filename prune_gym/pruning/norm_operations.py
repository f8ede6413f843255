"""What operations do with the labels of the tensors that they take: statistics and norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from prune_gym.pruning.labels import STATISTICS, Facet, Facets, axes_of, tidy
from prune_gym.pruning.layer_operations import channels, rule_of, tie
from prune_gym.pruning.numbers import FittedNumber, OwnNumber, ShapeNumber
from prune_gym.pruning.operations import Call, block, move, pointwise, rule, same, tensors_in, view


def statistics_on(call: Call) -> Facets:
    """Statistics of channels among what an operation takes that are in what it gives, too.

    Channels that are divided by a statistic, or centred by it, may still go: it is over those left.
    For any other use they stay, as do those of which other numbers than statistics are made.
    """
    on: list[Facet] = []
    tensors = tensors_in([call.args, call.kwargs])
    is_labelled = any(axes_of(facet) for t in tensors for facet in call.facets_of(t))
    passes = not is_labelled and rule_of(call.function) in (pointwise, same, move, view)
    for tensor in tensors:
        for facet in call.facets_of(tensor):
            if axes_of(facet):
                continue
            if not call.labels.is_statistic(facet):
                call.keep([facet])
            elif not _normalises(call, tensor, is_labelled):
                if passes:
                    on.append(facet[(0,) * facet.ndim].expand(call.shape))
                else:
                    call.keep([facet])
    return tuple(on)


def _normalises(call: Call, tensor: torch.Tensor, is_labelled: bool) -> bool:
    """Whether an operation divides by a tensor of statistics, or centres channels by it."""
    if call.name == "pow":
        exponent = call.args[1]
        return isinstance(exponent, int | float) and exponent < 0
    if call.name == "div":
        return tensor is not call.args[0]
    return call.name in ("rsqrt", "reciprocal") or (call.name == "sub" and is_labelled)


@rule("sum", "linalg_vector_norm", "norm", "nansum")
@rule("mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "logsumexp", "prod", "argmax")
@rule("median", "any", "all", "argmin", "topk", "sort")
def reduce(call: Call) -> list[Facets]:
    """Over axes without labels; a sum may also lose numbers, as those that go are zero."""
    source = call.args[0]
    dims = _reduced(call, source.ndim)
    adds = call.name in ("sum", "linalg_vector_norm", "norm", "nansum")
    keeps_axes = call.shape != () and len(call.shape) == source.ndim
    made = []
    for facet in call.facets_of(source):
        inside = set(axes_of(facet)) & set(dims)
        if inside and not adds and inside == set(axes_of(facet)):
            call.reduce(facet, dims)
            if call.asked == "rms_norm":  # torch makes it of simpler operations
                _as_wide(call, facet, dims)
            mixed = torch.tensor(call.labels.mixed(facet, call.name in STATISTICS))
            made.append(mixed.expand(call.shape))
            continue
        if inside and len(inside) < len(axes_of(facet)):
            tie(call.labels, facet, sorted(inside))
        if inside == set(axes_of(facet)):
            continue
        for dim in sorted(dims, reverse=True):
            facet = facet.narrow(dim, 0, 1) if keeps_axes else facet.select(dim, 0)
        made.append(tidy(facet.expand(call.shape)))
    return [tuple(made) for _ in call.outputs]


def _reduced(call: Call, n_axes: int) -> list[int]:
    given = [a for a in call.args[1:] if isinstance(a, int | list | tuple)]
    given = [a for a in given if not isinstance(a, bool)]
    if call.name in ("linalg_vector_norm", "norm", "topk"):
        given = given[1:] if not isinstance(given[0], list | tuple) else given
    dims = given[0] if given else call.kwargs.get("dim")
    if dims is None or (isinstance(dims, list | tuple) and not dims):
        return list(range(n_axes))
    dims = [dims] if isinstance(dims, int) else dims
    return [dim % n_axes for dim in dims]


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
@rule("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_with_update", "batch_norm")
def batch_norm(call: Call) -> list[Facets]:
    """Channel by channel."""
    source = call.args[0]
    vectors = [tensor for tensor in call.args[1:5] if isinstance(tensor, torch.Tensor)]
    trains = any(isinstance(a, bool) and a for a in call.args[5:6])
    facets = call.facets_of(source)
    for facet in facets:
        if not vectors or (trains and set(axes_of(facet)) - {1}):
            call.keep([facet])
    shape = [1, source.shape[1], *[1] * (source.ndim - 2)]
    operands = [(facets, source.shape)]
    operands += [
        (tuple(f.view(shape) for f in call.facets_of(vector)), torch.Size(shape))
        for vector in vectors
    ]
    return [call.merge(operands), *[() for _ in call.outputs[1:]]]


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(call: Call) -> list[Facets]:
    """Statistics are over the channels that are left, where their number follows."""
    source, shape = call.args[:2]
    facets = call.facets_of(source)
    dims = range(source.ndim - len(shape), source.ndim)
    for facet in facets:
        if set(axes_of(facet)) & set(dims):
            call.reduce(facet, dims)
            _as_wide(call, facet, dims)
    operands = [(facets, source.shape)]
    operands += [
        (call.facets_of(tensor), tensor.shape)
        for tensor in call.args[2:4]
        if isinstance(tensor, torch.Tensor)
    ]
    return [call.merge(operands), *[() for _ in call.outputs[1:]]]


def _as_wide(call: Call, facet: Facet, dims: Sequence[int]) -> None:
    """Widths that the code gave a norm, by axis, lose what is lost along it; else that stays."""
    given = dict(zip(dims, call.numbers, strict=False))
    inside = set(axes_of(facet)) & set(dims)
    if all(isinstance(given.get(a), FittedNumber | OwnNumber | ShapeNumber) for a in inside):
        block(call, facet, given=given)
    else:
        call.keep([facet])


@rule("native_group_norm")
def group_norm(call: Call) -> list[Facets]:
    """Whole groups of channels go; where all are one group, as with a layer norm."""
    source, weight, bias = call.args[:3]
    n_groups = call.args[6]
    n = source.shape[1]
    facets = call.facets_of(source)
    for facet in facets:
        if axes_of(facet) and (
            set(axes_of(facet)) - {1} or not isinstance(call.owner_of(weight), nn.GroupNorm)
        ):
            call.keep([facet])
        elif axes_of(facet) and n_groups > 1:
            rows = channels(call, [facet], 1)[0].view(n_groups, n // n_groups)
            call.labels.join(rows, rows[:, :1])
        elif axes_of(facet):
            call.reduce(facet, range(1, source.ndim))
    shape = [1, n, *[1] * (source.ndim - 2)]
    operands = [(facets, source.shape)]
    operands += [
        (tuple(f.view(shape) for f in call.facets_of(vector)), torch.Size(shape))
        for vector in (weight, bias)
        if vector is not None
    ]
    return [call.merge(operands), *[() for _ in call.outputs[1:]]]
