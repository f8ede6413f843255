"""Norms over channels, by torch and by hand: after a cut they are those of a narrower network."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional

from prune_gym.pruning.compact import compact
from prune_gym.pruning.equivalence import check_compaction, check_smallest, half_masks
from prune_gym.pruning.groups import find_filter_groups

WIDTH = 8


class Own(nn.Module):
    """A norm by hand."""

    def __init__(self, compute, width: int) -> None:
        super().__init__()
        self.compute, self.shape = compute, (width,)
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, rows):
        return self.compute(self, rows)


def mean(numbers):
    return numbers.mean(-1, keepdim=True)


def llama(norm, rows):
    variance = rows.to(torch.float32).pow(2).mean(-1, keepdim=True)
    return norm.weight * (rows * torch.rsqrt(variance + 1e-6)).to(rows.dtype)


def layer_norm(norm, rows):
    centred = rows - mean(rows)
    return norm.weight * centred / torch.sqrt(mean(centred.pow(2)) + 1e-6) + norm.bias


def of_two_means(norm, rows):
    """The variance as the mean of squares less the square of the mean."""
    variance = mean(rows * rows) - mean(rows) ** 2
    return norm.weight * (rows - mean(rows)) * (variance + 1e-6) ** -0.5 + norm.bias


def of_var_mean(norm, rows):
    variance, centre = torch.var_mean(rows, -1, keepdim=True, correction=0)
    return norm.weight * (rows - centre) / (variance + 1e-6).sqrt() + norm.bias


def response(norm, rows):
    """Of ConvNeXt V2."""
    lengths = rows.norm(p=2, dim=1, keepdim=True)
    return norm.weight * (rows * lengths / (mean(lengths) + 1e-6)) + norm.bias + rows


def with_shape(function):
    return lambda norm, rows: function(rows, norm.shape, norm.weight)


NORMS = {  # what makes a norm of a width, and whether a layer's number must follow
    "RMSNorm": (nn.RMSNorm, False),
    "RMSNorm without weights": (lambda n: nn.RMSNorm(n, elementwise_affine=False), True),
    "LayerNorm without weights": (lambda n: nn.LayerNorm(n, elementwise_affine=False), True),
    "rms_norm of an own width": (lambda n: Own(with_shape(functional.rms_norm), n), True),
    "layer_norm of an own width": (lambda n: Own(with_shape(functional.layer_norm), n), True),
    "layer_norm of the last axis": (
        lambda n: Own(lambda norm, rows: functional.layer_norm(rows, rows.shape[-1:]), n),
        False,
    ),
    "RMSNorm by hand": (lambda n: Own(llama, n), False),
    "RMSNorm by reciprocal": (
        lambda n: Own(lambda norm, rows: rows * (1.0 / (mean(rows * rows) + 1e-6).sqrt()), n),
        False,
    ),
    "LayerNorm by hand": (lambda n: Own(layer_norm, n), False),
    "LayerNorm of two means": (lambda n: Own(of_two_means, n), False),
    "LayerNorm of var_mean": (lambda n: Own(of_var_mean, n), False),
    "response normalisation": (lambda n: Own(response, n), False),
}


class Between(nn.Module):
    """Two linear layers with a norm between."""

    def __init__(self, make_norm, width: int = WIDTH) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(5, width), make_norm(width)
        self.second, self.out = nn.Linear(width, 6), nn.Linear(6, 3)

    def forward(self, rows):
        return self.out(self.second(self.norm(self.first(rows))).relu().mean(1))


def network_of(make_norm) -> Between:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Between(make_norm).eval()
        for parameter in network.norm.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
    return network


def rows_of(n: int) -> torch.Tensor:
    return torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(1))


def check_all(network: nn.Module, groups, example: torch.Tensor) -> None:
    check_compaction(network, groups, example)
    ones = [np.arange(group.n_filters) == 0 for group in groups]
    check_smallest(network, groups, ones, example)


@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_a_cut_norm_is_one_of_fewer_channels(name):
    make_norm, follows = NORMS[name]
    network, rows = network_of(make_norm), rows_of(2)
    groups = find_filter_groups(network, rows[:1])
    assert {group.name: group.n_filters for group in groups} == {"first": WIDTH, "second": 6}
    assert bool(groups[0].counts) is follows
    check_all(network, groups, rows)
    keep = np.arange(WIDTH) % 3 != 1
    left = torch.from_numpy(np.flatnonzero(keep))
    smaller = compact(network, groups, [keep, np.ones(6, dtype=bool)])
    narrow = Between(make_norm, len(left)).eval()
    state = network.state_dict()
    for key in narrow.state_dict():
        if key.startswith(("first.", "norm.")):
            state[key] = state[key][left]
    state["second.weight"] = state["second.weight"][:, left]
    narrow.load_state_dict(state)
    assert tiny.relative_difference(smaller(rows), narrow(rows)) < 1e-6


WHOLE = {  # channels that are not divided by their statistic, nor centred by it
    "gated by the mean": lambda norm, rows: rows * mean(rows),
    "shifted by the mean": lambda norm, rows: rows + mean(rows),
    "divides the mean": lambda norm, rows: mean(rows) / (rows.abs() + 1.0),
    "by the largest": lambda norm, rows: rows / (rows.amax(-1, keepdim=True) + 9.0),
    "to a power": lambda norm, rows: rows * mean(rows * rows) ** 0.5,
    "a width in code": lambda norm, rows: functional.rms_norm(rows, [8]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_other_uses_of_a_statistic_keep_its_channels_whole(name):
    network, rows = network_of(lambda width: Own(WHOLE[name], width)), rows_of(2)
    groups = find_filter_groups(network, rows[:1])
    assert [group.name for group in groups] == ["second"]
    check_all(network, groups, rows)


def test_a_mean_that_is_given_out_keeps_its_channels_whole():
    class Told(Between):
        def forward(self, rows):
            return super().forward(rows), mean(self.first(rows))

    network = Told(nn.RMSNorm).eval()
    groups = find_filter_groups(network, rows_of(1))
    assert [group.name for group in groups] == ["second"]


class Rotary(nn.Module):
    """A decoder's layer: RMSNorm by hand, queries of grouped heads, rotations that all share."""

    def __init__(self, n_heads: int = 4, n_shared: int = 2, width: int = 6, norms: bool = True):
        super().__init__()
        self.n_heads, self.n_shared, self.width = n_heads, n_shared, width
        self.enter, self.norm = nn.Linear(5, 16), Own(llama, 16)
        self.query = nn.Linear(16, n_heads * width)
        self.key, self.value = nn.Linear(16, n_shared * width), nn.Linear(16, n_shared * width)
        self.query_norm = Own(llama, width) if norms else nn.Identity()
        self.leave, self.out = nn.Linear(n_heads * width, 16), nn.Linear(16, 3)
        self.register_buffer("angles", torch.arange(1.0, width // 2 + 1))

    def rotated(self, heads):
        angles = torch.arange(heads.shape[2])[:, None] * self.angles
        angles = torch.cat([angles, angles], dim=-1)
        half = heads.shape[-1] // 2
        turned = torch.cat([-heads[..., half:], heads[..., :half]], dim=-1)
        return heads * angles.cos() + turned * angles.sin()

    def heads(self, rows, n_heads):
        return rows.view(*rows.shape[:2], n_heads, self.width).transpose(1, 2)

    def attend(self, query, key, value):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def forward(self, rows):
        stream = self.enter(rows)
        normed = self.norm(stream)
        query = self.rotated(self.query_norm(self.heads(self.query(normed), self.n_heads)))
        times = self.n_heads // self.n_shared
        key = self.rotated(self.heads(self.key(normed), self.n_shared))
        value = self.heads(self.value(normed), self.n_shared)
        key, value = (part.repeat_interleave(times, 1) for part in (key, value))
        made = self.attend(query, key, value).transpose(1, 2)
        return self.out((stream + self.leave(made.flatten(2))).mean(1))


class ByHand(Rotary):
    """With products of matrices."""

    def attend(self, query, key, value):
        scores = query @ key.transpose(2, 3) * self.width**-0.5
        return scores.softmax(-1) @ value


class Told(Rotary):
    """Only the width of a head is told, not how many there are."""

    def heads(self, rows, n_heads):
        return rows.view(*rows.shape[:-1], -1, self.width).transpose(1, 2)


@pytest.mark.parametrize("kind", [Rotary, ByHand, Told])
@pytest.mark.parametrize("norms", [True, False])
def test_heads_that_share_rotations_go_with_their_keys(kind, norms):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind(norms=norms).eval()
    groups = find_filter_groups(network, rows_of(1))
    assert {group.name: group.n_filters for group in groups} == {"enter": 16, "query": 2}
    check_all(network, groups, rows_of(3))
    smaller = compact(network, groups, half_masks(groups))
    assert smaller.query.weight.shape == (12, 8)
    assert smaller.key.weight.shape == (6, 8)


class Windows(nn.Module):
    """Queries, keys and values of one layer, in windows; a bias of the scores for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads = 3
        self.enter, self.qkv = nn.Linear(5, 12), nn.Linear(12, 36)
        self.leave, self.out = nn.Linear(12, 12), nn.Linear(12, 3)
        self.bias = nn.Parameter(torch.linspace(0.0, 1.0, 12).view(3, 2, 2))

    def forward(self, rows):
        stream = self.enter(rows)
        windows = stream.view(-1, 2, stream.shape[-1])
        split = self.qkv(windows).reshape(len(windows), 2, 3, self.n_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query @ key.transpose(2, 3) + self.bias).softmax(-1)
        made = self.leave((scores @ value).transpose(1, 2).reshape(len(windows), 2, -1))
        return self.out((stream + made.view(stream.shape)).mean(1))


def test_heads_of_windows_go_with_their_biases():
    network = Windows().eval()
    groups = find_filter_groups(network, rows_of(1))
    assert {group.name: group.n_filters for group in groups} == {"enter": 12, "qkv": 3}
    check_all(network, groups, rows_of(3))
