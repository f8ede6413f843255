"""Residual blocks that go whole: found, equal to the masked network, counted, saved, exported."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym import UnsupportedNetworkError
from prune_gym.networks.residual import Bottleneck, ResNet
from prune_gym.pruning.blocks import NoAttention, Zeros
from prune_gym.pruning.compact import compact
from prune_gym.pruning.groups import blocks_gone, find_filter_groups
from prune_gym.pruning.residual import with_blocks


def bottlenecks() -> nn.Module:
    return ResNet((3, 4), (2, 3), Bottleneck, in_channels=1, n_classes=tiny.N_CLASSES)


class InvertedBlock(nn.Module):
    """Layers in a Sequential of their own, and no activation behind the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()),
            *(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)),
        )

    def forward(self, maps):
        return maps + self.conv(maps)


class Inverted(nn.Module):
    """Blocks of MobileNetV2's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(InvertedBlock(), InvertedBlock())
        self.classifier = nn.Linear(4, tiny.N_CLASSES)

    def forward(self, images):
        return self.classifier(self.blocks(self.enter(images)).mean(dim=(2, 3)))


class Signed(nn.Module):
    """A block with an activation behind, and numbers below zero before: it is no identity."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.norm = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, tiny.N_CLASSES)

    def forward(self, images):
        maps = self.enter(images)
        inner = self.norm(self.first(maps)).relu()
        maps = (maps + self.last(self.second(inner))).relu()
        return self.classifier(maps.mean(dim=(2, 3)))


class Transformer(nn.Module):
    """Attention and a perceptron, before each of them a norm; patches of images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.classifier = nn.Linear(8, tiny.N_CLASSES)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        given = self.norm(tokens)
        tokens = tokens + self.attention(given, given, given, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norm2(tokens))
        return self.classifier(tokens.mean(dim=1))


class Plain(nn.Module):
    """A block of two convolutions, and nothing behind the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.first, self.second = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.classifier = nn.Linear(4, tiny.N_CLASSES)

    def branch(self, maps):
        return self.second(self.first(maps).relu())

    def forward(self, images):
        maps = self.enter(images)
        return self.classifier((maps + self.branch(maps)).mean(dim=(2, 3)))


class Constant(Plain):
    """A branch that gives a constant where its weights are zero."""

    def branch(self, maps):
        return self.norm(super().branch(maps))


class Watched(Plain):
    """A branch that is read elsewhere as well."""

    def forward(self, images):
        maps = self.enter(images)
        inner = self.branch(maps)
        return self.classifier((maps + inner).mean(dim=(2, 3))) + inner.mean()


CASES = {  # network, names of the blocks, what stands in the place of the first
    "basic": (tiny.residual, ["blocks.0", "blocks.1", "blocks.3"], nn.Identity),
    "bottleneck": (bottlenecks, ["blocks.1", "blocks.3", "blocks.4"], nn.Identity),
    "inverted": (Inverted, ["blocks.0", "blocks.1"], nn.Identity),
    "signed": (Signed, ["last"], Zeros),
    "plain": (Plain, ["second"], Zeros),
    "transformer": (Transformer, ["attention", "mlp"], NoAttention),
}


def found(builder, ignore=()):
    """A network and its groups; blocks know theirs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.randomised(builder())
    images = tiny.images_of(4)
    groups = find_filter_groups(network, images[:1], ignore)
    return network, with_blocks(network, groups, (images[:1], images), ignore)


def without(groups, masks, names):
    """The masks, but nothing of the groups in blocks of these names."""
    pairs = zip(groups, masks, strict=True)
    return [m & (g.block is None or g.block.name not in names) for g, m in pairs]


def zeroed(network, blocks):
    """The slow reference: what blocks add to their input is multiplied by zero."""
    twin = copy.deepcopy(network)
    for block in blocks:
        for name, parameter in twin.named_parameters():
            if name in block.tensors:
                parameter.data.zero_()
    return twin


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_network_without_blocks_is_the_masked_one(name):
    builder, names, place = CASES[name]
    network, groups = found(builder)
    blocks = list(dict.fromkeys(g.block for g in groups if g.block is not None))
    assert [block.name for block in blocks] == names
    images, state = tiny.images_of(3, seed=5), set(network.state_dict())
    for seed, gone in enumerate((names, names[:1], names[1:])):
        masks = without(groups, tiny.group_masks(groups, seed), gone)
        smaller = compact(network, groups, masks).eval()
        left = [b for b in blocks if b.name in gone]
        ones = [m if m.any() else np.ones_like(m) for m in masks]
        expected = tiny.masked(zeroed(network, left), groups, ones)(images)
        assert tiny.relative_difference(smaller(images), expected) < 1e-5
        held = set(smaller.state_dict())
        assert not any(held & block.tensors for block in left)
        others = [b for b in blocks if b not in left]
        assert all(state & block.tensors <= held for block in others)
    every = compact(network, groups, without(groups, masks, names))
    assert isinstance(every.get_submodule(names[0]), place)


def test_copies_and_pickles_of_a_network_without_blocks():
    network, groups = found(Transformer)
    masks = without(groups, tiny.group_masks(groups, 0), ["attention", "mlp"])
    smaller, images = compact(network, groups, masks).eval(), tiny.images_of(3)
    for other in (copy.deepcopy(smaller), pickle.loads(pickle.dumps(smaller))):
        assert torch.equal(other(images), smaller(images))


@pytest.mark.parametrize("builder", [Constant, Watched, tiny.vgg, tiny.Dense])
def test_what_cannot_go_whole_is_not_offered(builder):
    with pytest.raises(UnsupportedNetworkError, match=r"depth=True: \w+ has no residual block"):
        found(builder)


def test_a_block_with_a_layer_to_keep_stays():
    _, groups = found(tiny.residual, ignore=["blocks.0.conv2"])
    assert {g.block.name for g in groups if g.block} == {"blocks.1", "blocks.3"}


def test_one_group_of_a_block_takes_the_others_with_it():
    problem = tiny.make_tiny(prepared(bottlenecks), depth=True)
    index = next(i for i, group in enumerate(problem.groups) if group.block is not None)
    first, second = problem.groups[index : index + 2]
    assert first.block is second.block
    for alone in (index, index + 1):
        counts = problem.sizes.copy()
        counts[alone] = 0
        masks = problem.check_masks(problem.masks_of(counts))
        assert [masks[i].any() for i in (index, index + 1)] == [False, False]
        assert blocks_gone(problem.groups, masks) == (first.block,)
        assert problem.evaluate(masks).kept[[index, index + 1]].tolist() == [0.0, 0.0]


def prepared(builder):
    """A network as if trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.randomised(builder())


@pytest.mark.parametrize("builder", [tiny.residual, bottlenecks, Transformer])
def test_costs_are_those_of_the_compact_network(builder):
    names = ("params", "size_bytes", "macs")[: 2 if builder is Transformer else 3]
    budgets = dict.fromkeys(names, 0.9)
    problem = tiny.make_tiny(prepared(builder), depth=True, budgets=budgets)
    generator = np.random.default_rng(0)
    for _ in range(6):
        ratios = generator.choice([0.0, 0.4, 0.8, 1.0], len(problem.groups))
        masks = problem.masks_of(problem.kept_counts(ratios))
        smaller = problem.compact(masks)
        counted = [prune_gym.count(name, smaller, problem.example) for name in budgets]
        assert problem.values(masks).tolist() == pytest.approx(counted, rel=1e-12)
        assert problem.counted_costs(problem.kept_counts(ratios)).tolist() == pytest.approx(
            problem.costs(masks).tolist(), rel=1e-12
        )


def test_masks_that_keep_nothing():
    problem = tiny.make_tiny("residual", depth=True)
    masks = [np.zeros(size, dtype=bool) for size in problem.sizes]
    words = r"masks\[0\] keeps nothing; only groups inside of a block that can go whole may"
    with pytest.raises(ValueError, match=words):
        problem.evaluate(masks)
    without_depth = tiny.make_tiny("residual")
    assert (without_depth.depth, problem.depth) == (False, True)
    assert without_depth.kept_counts(np.ones(len(masks))).min() == 1


def test_multiples_and_none():
    problem = tiny.make_tiny("residual", depth=True, round_to=2, budgets={"params": 0.9})
    counts = problem.kept_counts(np.full(len(problem.groups), 0.9))
    fewest = [group.fewest for group in problem.groups]
    assert counts.tolist() == [2 if least else 0 for least in fewest]


def test_arguments_that_do_not_go_with_it():
    with pytest.raises(ValueError, match=r"depth=True with structure='weight'"):
        tiny.make_tiny("residual", depth=True, structure="weight")
    with pytest.raises(TypeError, match=r"depth=2: expected True"):
        tiny.make_tiny("residual", depth=2)
    with pytest.raises(UnsupportedNetworkError, match=r"depth=True: VGG has no .* Leave depth out"):
        tiny.make_tiny("vgg", depth=True)
