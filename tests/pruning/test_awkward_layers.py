"""Layers that are easy to cut wrongly: cut rightly, or refused at once with a cure that works."""

from __future__ import annotations

import ast
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torchvision.ops import FrozenBatchNorm2d

import prune_gym
from prune_gym import UnsupportedNetworkError, make_problem
from prune_gym.pruning.compact import compact
from prune_gym.pruning.copying import rebuild
from prune_gym.pruning.equivalence import check_compaction
from prune_gym.pruning.groups import find_filter_groups
from prune_gym.pruning.sizes import TensorSizes


class Awkward(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: nn.Module, first: int = 8, second: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, first, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(second, 6, 3, padding=1)
        self.out = nn.Linear(6, 3)

    def forward(self, images):
        hidden = self.second(self.between(self.first(images)))
        return self.out(hidden.mean(dim=(2, 3)))


class FixedSize(Awkward):
    """Writes the number of channels into forward()."""

    def forward(self, images):
        hidden = self.second(self.between(self.first(images)))
        return self.out(hidden.view(-1, 6, 64).mean(dim=2))


class Function(nn.Module):
    """A function of feature maps and layers."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, maps):
        return self.function(maps, *self.layers)


class Free(nn.Module):
    """A function of feature maps and a parameter that belongs to no layer."""

    def __init__(self, function, *shape: int) -> None:
        super().__init__()
        self.function = function
        self.free = nn.Parameter(torch.linspace(0.5, 1.5, int(np.prod(shape))).view(shape))

    def forward(self, maps):
        return self.function(maps, self.free)


def gate(maps):
    values, gates = maps.chunk(2, dim=1)
    return values * gates.sigmoid()


def shuffle(maps):
    return maps.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def to_tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def to_maps(tokens):
    return tokens.transpose(1, 2).unflatten(2, (8, 8))


def across(maps, one, other):
    """A residual add across a concatenation: the halves go apart."""
    return torch.cat([one(maps), maps], dim=1) + other(maps)


def attend(maps, attention):
    tokens = to_tokens(maps)
    return to_maps(attention(tokens, tokens, tokens, need_weights=False)[0])


def recur(maps, layer):
    """The maps, weighted by what a recurrent layer makes of their means."""
    return (
        maps * layer(to_tokens(maps.mean(dim=(2, 3), keepdim=True)))[0].transpose(1, 2)[..., None]
    )


# what stands between, its width before and after -> the filter groups; `second` has 6 more filters
CUT = {
    "PReLU of one slope": (nn.PReLU(), 8, 8, {"first": 8}),
    "PReLU": (nn.PReLU(8), 8, 8, {"first": 8}),
    "BatchNorm": (nn.BatchNorm2d(8), 8, 8, {"first": 8}),
    "BatchNorm without parameters": (nn.BatchNorm2d(8, affine=False), 8, 8, {"first": 8}),
    "InstanceNorm": (nn.InstanceNorm2d(8, affine=True), 8, 8, {"first": 8}),
    "GroupNorm": (nn.GroupNorm(4, 8), 8, 8, {"first": 4}),
    "GroupNorm of single channels": (nn.GroupNorm(8, 8), 8, 8, {"first": 8}),
    "GroupNorm of all channels": (nn.GroupNorm(1, 8), 8, 8, {"first": 8}),
    "LayerNorm": (nn.LayerNorm([8, 8, 8]), 8, 8, {"first": 8}),
    "groups": (nn.Conv2d(8, 8, 3, padding=1, groups=2), 8, 8, {"first": 4, "between": 4}),
    "groups that grow": (nn.Conv2d(8, 16, 1, groups=4), 8, 16, {"first": 2, "between": 4}),
    "groups of one input": (nn.Conv2d(8, 16, 1, groups=8), 8, 16, {"first": 8}),
    "groups of one output": (nn.Conv2d(8, 4, 1, groups=4), 8, 4, {"first": 2}),
    "groups, transposed": (
        nn.ConvTranspose2d(8, 16, 1, groups=4),
        8,
        16,
        {"first": 2, "between": 4},
    ),
    "depthwise, transposed": (nn.ConvTranspose2d(8, 8, 1, groups=8), 8, 8, {"first": 8}),
    "groups into a norm's groups": (
        nn.Sequential(nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8)),
        8,
        8,
        {"first": 2, "between.0": 2, "between.1": 2},
    ),
    "groups into other groups": (
        nn.Sequential(nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 8, 1, groups=2)),
        8,
        8,
        {"first": 2, "between.0": 2, "between.1": 4},
    ),
    "gate": (Function(gate), 16, 8, {"first": 8}),
    "itself, concatenated": (Function(lambda m: torch.cat([m, m.relu()], 1)), 8, 16, {"first": 8}),
    "add across a concatenation": (
        Function(across, nn.Conv2d(8, 5, 1), nn.Conv2d(8, 13, 1)),
        8,
        13,
        {"first": 8, "between.layers.0": 5},
    ),
    "add of two concatenations": (
        Function(
            lambda m, wide, *narrow: wide(m) + torch.cat([layer(m) for layer in narrow], 1),
            nn.Conv2d(8, 9, 1),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(8, 5, 1),
        ),
        8,
        9,
        {"first": 8, "between.layers.0": 4, "between.layers.0:2": 5},
    ),
    "one layer, twice": (Function(lambda m, x: x(x(m)), nn.Conv2d(8, 8, 1)), 8, 8, {"first": 8}),
    "tokens": (
        Function(
            lambda m, one, two: m + to_maps(two(one(to_tokens(m)).relu())),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
        ),
        8,
        8,
        {"first": 8, "between.layers.0": 12},
    ),
    "LayerNorm of tokens": (
        Function(
            lambda m, norm, one, two: m + to_maps(two(one(norm(to_tokens(m))).relu())),
            nn.LayerNorm(8),
            nn.Linear(8, 12),
            nn.Linear(12, 8),
        ),
        8,
        8,
        {"first": 8, "between.layers.1": 12},
    ),
    "scale": (Free(torch.mul, 8, 1, 1), 8, 8, {"first": 8}),
    "shift": (Free(torch.add, 1, 8, 1, 1), 8, 8, {"first": 8}),
    "scale of all": (Free(torch.mul, 1), 8, 8, {"first": 8}),
    "unit length": (Function(lambda m: functional.normalize(m, dim=1)), 8, 8, {"first": 8}),
    "frozen BatchNorm": (FrozenBatchNorm2d(8), 8, 8, {"first": 8}),
    "attention": (
        Function(attend, nn.MultiheadAttention(8, 2, batch_first=True)),
        8,
        8,
        {"first": 8, "between.layers.0": 2, "between.layers.0.out_proj": 8},
    ),
    "transposed in three dimensions": (
        Function(lambda m, x: x(m[:, :, None])[:, :, 0], nn.ConvTranspose3d(8, 8, 1)),
        8,
        8,
        {"first": 8, "between.layers.0": 8},
    ),
    "three dimensions": (
        Function(lambda m, x: x(m[:, :, None])[:, :, 0], nn.Conv3d(8, 10, 1)),
        8,
        10,
        {"first": 8, "between.layers.0": 10},
    ),
    "one dimension": (
        Function(lambda m, x: x(m.flatten(2)).unflatten(2, (8, 8)), nn.Conv1d(8, 10, 1)),
        8,
        10,
        {"first": 8, "between.layers.0": 10},
    ),
    "positions": (Free(torch.add, 8, 8, 8), 8, 8, {"first": 8}),
    "weight by column": (Free(torch.mul, 8), 8, 8, {"first": 8}),
    "groups across a concatenation": (
        Function(
            lambda m, one, x: x(torch.cat([one(m), m], 1)),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(16, 16, 1, groups=2),
        ),
        8,
        16,
        {"first": 8, "between.layers.1": 8},
    ),
    "channel shuffle": (nn.ChannelShuffle(2), 8, 8, {"first": 4}),
    "channel shuffle by views": (Function(shuffle), 8, 8, {"first": 4}),
    "pixel shuffle": (nn.PixelShuffle(2), 8, 2, {"first": 2}),
    "GLU": (nn.GLU(dim=1), 16, 8, {"first": 8}),
    "padded channels": (
        Function(lambda m: functional.pad(m, (0, 0, 0, 0, 4, 4))),
        8,
        16,
        {"first": 8},
    ),
    # kept whole: what mixes or counts off channels, and what is laid out by numbers of its own
    "GroupNorm without parameters": (nn.GroupNorm(4, 8, affine=False), 8, 8, {}),
    "InstanceNorm without parameters": (nn.InstanceNorm2d(8), 8, 8, {}),
    "LSTM": (Function(recur, nn.LSTM(8, 8, batch_first=True)), 8, 8, {}),
    "GRU": (Function(recur, nn.GRU(8, 8, batch_first=True)), 8, 8, {}),
    "bilinear": (
        Function(
            lambda m, x: x(m.movedim(1, 3), m.movedim(1, 3)).movedim(3, 1), nn.Bilinear(8, 8, 8)
        ),
        8,
        8,
        {},
    ),
    "computed weight": (parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), 8, 8, {}),
    "softmax over channels": (nn.Softmax2d(), 8, 8, {}),
    "mean over channels": (Function(lambda m: m * m.mean(1, True)), 8, 8, {}),
    "norm over channels": (Function(lambda m: functional.group_norm(m, 2)), 8, 8, {}),
    "rolled channels": (Function(lambda m: m.roll(1, 1)), 8, 8, {}),
}

# what stands between, its width before and after -> what the message says of it
REFUSED = {
    "channels by number": (Function(lambda m: m[:, :4]), 8, 4, "does not run once filters are"),
    "width by number": (
        Function(lambda m: m.reshape(-1, 8, 64).view(-1, 8, 8, 8)),
        8,
        8,
        "does not run once filters are",
    ),
}


def network_of(between: nn.Module, first: int, second: int) -> nn.Module:
    """A network with fixed random weights, whatever was drawn when the tables were made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Awkward(between, first, second)
        for layer in network.modules():
            if "weight" in layer._parameters and layer.weight is not None:
                layer.reset_parameters()
    return tiny.randomised(network)


def problem_of(network: nn.Module, **arguments) -> prune_gym.PruningProblem:
    split = (tiny.images_of(12), torch.arange(12) % 3)
    budgets = {"params": 1.0, "macs": 1.0}
    return make_problem(
        network=network, train=split, validation=split, budgets=budgets, **arguments
    )


@lru_cache
def cut_of(name: str):
    """A network of `CUT`, its filter groups, and the expected ones."""
    *between, expected = CUT[name]
    network = network_of(*between)
    with torch.enable_grad():
        return network, find_filter_groups(network, tiny.images_of(1)), expected


@pytest.mark.parametrize("name", CUT)
@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=st.integers(0, 10**6), keep=st.floats(0.0, 1.0))
@torch.no_grad()
def test_what_is_cut_is_cut_rightly(name, seed, keep):
    network, groups, expected = cut_of(name)
    images = tiny.images_of(3)
    assert {group.name: group.n_filters for group in groups} == {**expected, "second": 6}
    masks = tiny.group_masks(groups, seed, keep)
    smaller = compact(network, groups, masks)
    reference = tiny.masked(network, groups, masks)(images)
    assert tiny.relative_difference(smaller(images), reference) < 1e-5
    sizes = TensorSizes.of(network, groups)
    counted = sizes.count(np.array([mask.sum() for mask in masks]))
    state = smaller.state_dict()
    assert dict(zip(sizes.names, counted, strict=True)) == {k: v.numel() for k, v in state.items()}
    again = rebuild(network, state)  # as load_pruned does it
    assert repr(again) == repr(smaller)
    assert torch.equal(again(images), smaller(images))


@pytest.mark.parametrize("name", CUT)
def test_what_is_cut_makes_problems(name):
    *between, _ = CUT[name]
    problem = problem_of(network_of(*between))
    outcome = problem.evaluate(tiny.random_masks(problem, 0))
    by_hand = tiny.numbers_by_hand(outcome.network, problem.example)
    n_known = 1 if name in ("attention", "LSTM", "GRU") else 2  # by hand layers are counted only
    assert list(outcome.values.values())[:n_known] == pytest.approx(by_hand[:n_known])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_how_to_go_on(name):
    *between, message = REFUSED[name]
    network = network_of(*between)
    with pytest.raises(UnsupportedNetworkError, match=message) as caught:
        problem_of(network)
    cure = ast.literal_eval(str(caught.value).rpartition("ignore=")[2].rstrip("."))
    assert "first" in cure
    problem = problem_of(network, ignore=cure)  # the cure works, and costs no more than it must
    assert [group.name for group in problem.groups][-1] == "second"


def test_a_size_fixed_in_forward_is_found():
    network = FixedSize(nn.Identity())
    with pytest.raises(
        UnsupportedNetworkError, match=r"view\(\).*leaves \d+% of the parameters .*: ignore="
    ):
        problem_of(network)
    assert [group.name for group in problem_of(network, ignore=["second"]).groups] == ["first"]


def test_activations_that_make_something_of_zero():
    """Removing a filter takes away its 0.5 = sigmoid(0), too: nothing of it may reach consumers."""
    network = network_of(nn.Sigmoid(), 8, 8)
    groups = find_filter_groups(network, tiny.images_of(1))
    masks = tiny.group_masks(groups, 0)
    deaf = tiny.masked(network, groups, masks)
    with torch.no_grad():
        deaf.second.weight[:, torch.from_numpy(~masks[0])] = 0.0
        found, expected = (n(tiny.images_of(3)) for n in (compact(network, groups, masks), deaf))
    assert tiny.relative_difference(found, expected) < 1e-5
    assert len(problem_of(network).groups) == 2


@pytest.mark.parametrize("make", [prune.l1_unstructured, prune.random_unstructured])
def test_weights_that_a_hook_computes(make):
    network = Awkward(make(nn.Conv2d(8, 8, 1), "weight", 0.5))
    with pytest.raises(
        UnsupportedNetworkError, match=r"layer 'between' is computed by a hook.*pru"
    ):
        problem_of(network)
    prune.remove(network.between, "weight")
    assert len(problem_of(network).groups) == 3


def test_tensors_that_cannot_be_copied():
    network = Awkward(nn.Identity())
    network.seen = network(tiny.images_of(1))
    with pytest.raises(UnsupportedNetworkError, match=r"Awkward cannot be copied.*keep a tensor"):
        problem_of(network)


def test_layers_that_share_a_weight_unevenly():
    network = Awkward(nn.Conv2d(8, 8, 3, padding=1), second=8)
    network.first = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
    network.first[1].weight = network.between.weight
    problem = problem_of(network)  # the filters of all three layers go together
    assert [group.name for group in problem.groups] == ["first.0", "second"]
    masks = tiny.group_masks(problem.groups, 0)
    smaller = compact(network.eval(), problem.groups, masks)
    assert smaller.first[1].weight is smaller.between.weight
    with torch.no_grad():
        expected = tiny.masked(network, problem.groups, masks)(tiny.images_of(2))
        assert tiny.relative_difference(smaller(tiny.images_of(2)), expected) < 1e-5


def test_outputs_must_be_one_tensor():
    class Two(Awkward):
        def forward(self, images):
            return {"logits": super().forward(images)}

    with pytest.raises(UnsupportedNetworkError, match=r"Two gives dict .*expected one tensor"):
        problem_of(Two(nn.Identity()))


def wrong_norm(groups):
    """The groups, with the norm's filters of the first one in reverse."""
    first = groups[0]
    slices = tuple(
        replace(cut, positions=cut.positions[::-1]) if cut.tensor.startswith("between") else cut
        for cut in first.slices
    )
    return (replace(first, slices=slices), *groups[1:])


def test_wrong_cuts_are_found_in_untrained_networks_too():
    """A norm that treats all channels alike, or a branch that starts at zero, hides nothing."""
    plain = Awkward(nn.BatchNorm2d(8)).eval()
    silent = Awkward(nn.BatchNorm2d(8)).eval()
    for parameter in silent.parameters():
        nn.init.zeros_(parameter)
    for network in (plain, silent, tiny.randomised(Awkward(nn.BatchNorm2d(8)))):
        images = tiny.images_of(1)
        groups = find_filter_groups(network, images)
        check_compaction(network, groups, images)
        with pytest.raises(UnsupportedNetworkError, match=r"the same as masking.*=\['first'\]\."):
            check_compaction(network, wrong_norm(groups), images)
