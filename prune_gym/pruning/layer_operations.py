"""What operations do with the labels of the tensors that they take: those that compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prune_gym.pruning.labels import Facet, Facets, Labels, axes_of, merge, tidy
from prune_gym.pruning.operations import (
    RULES,
    Call,
    Rule,
    dimension,
    keep_all,
    pointwise,
    rule,
    tensors_in,
)


def rule_of(function: Any) -> Rule:
    """What an operation of torch does with labels; one in place does what its twin does."""
    name = operation_name(function)
    if name in RULES:
        return RULES[name]
    return pointwise if torch.Tag.pointwise in function.tags else keep_all


def operation_name(function: Any) -> str:
    """The name that rules go by, e.g. ``"add"`` for ``aten::add_.Tensor``."""
    name: str = function._schema.name.rpartition("::")[2]
    return name if name in RULES or not name.endswith("_") else name[:-1]


# -- reductions ------------------------------------------------------------------------------------


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
            mixed = torch.tensor(call.labels.mixed(facet))
            made.append(mixed.expand(call.shape))
            continue
        if inside and len(inside) < len(axes_of(facet)):
            _tie(call.labels, facet, sorted(inside))
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


def _tie(labels: Labels, facet: Facet, axes: Sequence[int]) -> None:
    """What lies along some axes can only go together."""
    first = facet
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    labels.join(facet, first)


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax", "cumsum", "cumprod")
def mix(call: Call) -> Facets:
    """Mixes along an axis, along which no label may go."""
    dim = dimension(call, 1, -1)
    facets = call.facets_of(call.args[0])
    for facet in facets:
        if axes_of(facet) == (dim,):
            call.keep([facet])
        elif dim in axes_of(facet):
            _tie(call.labels, facet, [dim])
    return facets


# -- windows over the last axes --------------------------------------------------------------------


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d_with_indices")
@rule("max_pool3d_with_indices", "max_pool2d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
@rule("adaptive_avg_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_avg_pool2d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d")
@rule("upsample_linear1d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bicubic2d_aa")
@rule("_upsample_bilinear2d_aa", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
@rule("replication_pad1d", "replication_pad2d", "replication_pad3d", "_upsample_nearest_exact2d")
@rule("fractional_max_pool2d", "mkldnn_max_pool2d", "grid_sampler_2d", "quantized_max_pool2d")
def window(call: Call) -> list[Facets]:
    """Labels lie along axes before those that are resampled."""
    source = call.args[0]
    resampled = {a for a in range(source.ndim) if a >= min(2, source.ndim - 1)}
    made = []
    for facet in call.facets_of(source):
        if resampled & set(axes_of(facet)):
            call.keep([facet])
            continue
        for axis in resampled:
            facet = facet.narrow(axis, 0, 1)
        made.append(facet.expand(call.shape))
    return [tuple(made) for _ in call.outputs]


@rule("im2col")
def unfold_windows(call: Call) -> Facets:
    """Every channel, once for each place of a window."""
    times = math.prod(call.args[1])
    made = []
    for facet in call.facets_of(call.args[0]):
        if axes_of(facet) != (1,):
            call.keep([facet])
            continue
        row = facet[0, :, 0, 0].repeat_interleave(times)
        made.append(row[None, :, None].expand(call.shape))
    return tuple(made)


@rule("col2im")
def fold_windows(call: Call) -> Facets:
    """Every channel of what `unfold_windows` made, once again."""
    times = math.prod(call.args[2])
    made = []
    for facet in call.facets_of(call.args[0]):
        if axes_of(facet) != (1,):
            call.keep([facet])
            continue
        rows = facet[0, :, 0].view(-1, times)
        call.labels.join(rows, rows[:, :1])
        made.append(rows[None, :, :1, None].expand(call.shape))
    return tuple(made)


# -- layers ----------------------------------------------------------------------------------------


@rule("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution")
def convolution(call: Call) -> Facets:
    """Inputs meet the weight's inputs; channels of groups go at the same places in each."""
    source, weight, bias = call.args[0], call.args[1], call.args[2]
    transposed = call.name in ("convolution", "_convolution") and bool(call.args[6])
    n_groups = call.args[8] if call.name in ("convolution", "_convolution") else call.args[-1]
    n_in, n_out = source.shape[1], call.shape[1]
    inputs = _channels(call, call.facets_of(source), 1)
    first = _channels(call, [f for f in call.facets_of(weight) if 0 in axes_of(f)], 0)
    second = _channels(call, [f for f in call.facets_of(weight) if 0 not in axes_of(f)], 1)
    if 1 < n_groups == n_in and (n_in == n_out or not transposed):  # depthwise
        outputs = first
        call.keep(second)
        rows = [facet.view(n_in, -1) for facet in outputs]  # several outputs an input, perhaps
        for row in rows:
            call.labels.join(row, row[:, :1])
        _meet(call, inputs, [row[:, 0] for row in rows])
    else:
        into, outputs = (first, second) if transposed else (second, first)
        inputs = [_folded(call, facet, n_groups, n_in) for facet in inputs]
        into = [_folded(call, f, n_groups, n_in) if len(f) == n_in else f for f in into]
        _meet(call, inputs, into)
        outputs = [f if len(f) == n_out else f.repeat(n_groups) for f in outputs]
        for facet in outputs if n_groups > 1 else ():
            _folded(call, facet, n_groups, n_out)
    shape = [1, n_out, *[1] * (len(call.shape) - 2)]
    operands: list[tuple[Facets, Sequence[int]]] = [
        (tuple(facet.view(shape) for facet in outputs), shape)
    ]
    if bias is not None:
        operands.append((tuple(f.view(shape) for f in call.facets_of(bias)), shape))
    return call.merge(operands)


def _channels(call: Call, facets: Sequence[Facet], axis: int) -> list[Facet]:
    """The labels along one axis, of facets that vary along no other one; others stay whole."""
    found = []
    for facet in facets:
        if set(axes_of(facet)) <= {axis}:
            for other in range(facet.ndim - 1, -1, -1):
                facet = facet if other == axis else facet.select(other, 0)
            if bool((facet != facet[:1]).any()):
                found.append(facet)
            else:
                call.keep([facet])
        else:
            call.keep([facet])
    return found


def _meet(call: Call, one: Sequence[Facet], other: Sequence[Facet]) -> None:
    """Labels that must go together; what meets numbers without labels stays."""
    for facet in one:
        for partner in other:
            call.labels.join(facet, partner)
    if not one or not other:
        call.keep([*one, *other])


def _folded(call: Call, facet: Facet, n_groups: int, n: int) -> Facet:
    """Labels by place in a group of a convolution; those of all groups go together."""
    rows = facet.view(n_groups, n // n_groups)
    call.labels.join(rows, rows[:1])
    return rows[0]


@rule("mm", "bmm", "addmm", "baddbmm", "mv", "dot", "linear", "matmul", "addbmm", "addmv")
def multiply(call: Call) -> Facets | list[Facets]:
    """A product of matrices: what is summed over meets, all else is broadcast."""
    if call.name not in ("mm", "bmm", "addmm", "baddbmm"):
        return keep_all(call)
    *added, one, other = (
        call.args[:3]
        if call.name.endswith(("addmm", "addbmm")) or (call.name in ("addmm", "baddbmm"))
        else call.args[:2]
    )
    n_axes = one.ndim
    left, right = call.facets_of(one), call.facets_of(other)
    rows, inner_left = _inner(call, left, n_axes - 1, n_axes - 2)
    columns, inner_right = _inner(call, right, n_axes - 2, n_axes - 1)
    for facet in inner_left:
        for partner in inner_right:
            call.labels.join(facet, partner)
    if not inner_left or not inner_right:
        call.keep([*inner_left, *inner_right])
    batch = list(one.shape[:-2])
    operands: list[tuple[Facets, Sequence[int]]] = [
        (tuple(rows), [*batch, one.shape[-2], 1]),
        (tuple(columns), [*batch, 1, other.shape[-1]]),
    ]
    operands += [(call.facets_of(tensor), tensor.shape) for tensor in added]
    return call.merge(operands)


def _inner(
    call: Call, facets: Sequence[Facet], summed: int, outer: int
) -> tuple[list[Facet], list[Facet]]:
    """Facets apart: what is left of them after a sum over an axis, and what lies along it.

    Returns:
        Facets of length 1 along the axis summed over; (batch, n) facets along it.
    """
    left, inner = [], []
    for facet in facets:
        axes = axes_of(facet)
        if summed not in axes:
            left.append(facet.narrow(summed, 0, 1))
        elif outer in axes:
            call.keep([facet])
        else:
            line = facet.select(outer, 0)
            inner.append(line)
            if len(axes) > 1:  # heads: what is summed over goes with them
                call.labels.join(line, line[..., :1])
                left.append(facet.narrow(summed, 0, 1))
    return left, inner


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")
@rule("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")
@rule("_scaled_dot_product_fused_attention_overrideable")
def attention(call: Call) -> list[Facets]:
    """Queries, keys and values (batch, heads, tokens, width): whole heads go.

    Where several heads of queries share one of keys and values, they go with it.
    """
    query, key, value = call.args[:3]
    n_heads = query.shape[1]
    shape = [query.shape[0], n_heads, 1, value.shape[3]]
    operands: list[tuple[Facets, Sequence[int]]] = []
    for tensor in (query, key):
        facets = call.facets_of(tensor)
        call.keep([facet for facet in facets if 2 in axes_of(facet)])
        for facet in facets:
            _tie(call.labels, facet, [3])
        heads = tuple(_shared(tidy(facet[:, :, :1, :1]), n_heads) for facet in facets)
        operands.append((heads, [tensor.shape[0], n_heads, 1, 1]))
    for tensor in tensors_in([call.args[3:], call.kwargs]):
        if tensor.ndim == 4:  # a bias of the scores
            heads = tuple(tidy(facet[:, :, :1, :1]) for facet in call.facets_of(tensor))
            operands.append((heads, [*tensor.shape[:2], 1, 1]))
    facets = call.facets_of(value)
    call.keep([facet for facet in facets if 2 in axes_of(facet)])
    values = tuple(_shared(facet[:, :, :1], n_heads) for facet in facets)
    operands.append((values, [value.shape[0], n_heads, 1, shape[3]]))
    made = merge(call.labels, operands, shape, call.why)
    return [tuple(f.expand(call.shape) for f in made), *[() for _ in call.outputs[1:]]]


def _shared(facet: Facet, n_heads: int) -> Facet:
    """A facet of heads, each as often as heads of queries share it."""
    times = n_heads // facet.shape[1]
    return facet if times == 1 else tidy(facet.repeat_interleave(times, 1))


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
    """Statistics are over the channels that are left, where a module holds their number."""
    source, shape, weight = call.args[:3]
    facets = call.facets_of(source)
    if not isinstance(call.owner_of(weight), nn.LayerNorm):
        for facet in facets:
            if set(axes_of(facet)) & set(range(source.ndim - len(shape), source.ndim)):
                call.keep([facet])
    operands = [(facets, source.shape)]
    operands += [
        (call.facets_of(tensor), tensor.shape)
        for tensor in call.args[2:4]
        if isinstance(tensor, torch.Tensor)
    ]
    return [call.merge(operands), *[() for _ in call.outputs[1:]]]


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
            rows = _channels(call, [facet], 1)[0].view(n_groups, n // n_groups)
            call.labels.join(rows, rows[:, :1])
    shape = [1, n, *[1] * (source.ndim - 2)]
    operands = [(facets, source.shape)]
    operands += [
        (tuple(f.view(shape) for f in call.facets_of(vector)), torch.Size(shape))
        for vector in (weight, bias)
        if vector is not None
    ]
    return [call.merge(operands), *[() for _ in call.outputs[1:]]]


@rule("embedding")
def embedding(call: Call) -> Facets:
    """Rows of a table by number: the numbers stay, the width is of labels."""
    weight, _ = call.args[:2]
    made = []
    for facet in call.facets_of(weight):
        if 0 in axes_of(facet):
            call.keep([facet])
        else:
            row = facet[0].view([1] * (len(call.shape) - 1) + [-1])
            made.append(row.expand(call.shape))
    return tuple(made)
