"""Forwards that take another way on another input: refused where layers hang on it."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_gym import UnsupportedNetworkError, make_problem
from prune_gym.pruning.branches import check_branches
from prune_gym.pruning.compact import compact
from prune_gym.pruning.groups import find_filter_groups


class Branching(nn.Module):
    """Three convolutions; a function of it and the first one's maps says what follows them."""

    def __init__(self, follow) -> None:
        super().__init__()
        self.follow = follow
        self.calls = 0
        self.register_buffer("seen", torch.zeros(1))
        self.one = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.three = nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Linear(6, 3)

    def forward(self, images):
        self.calls += 1
        maps = self.follow(self, images, self.norm(self.one(images)).relu())
        return self.out(maps.mean(dim=(2, 3)))


def skips(net, images, maps):
    return net.two(maps) + maps if images.mean() > 0 else net.two(maps)


def other_layer(net, images, maps):
    return net.two(maps) if images.mean() > 0 else net.three(maps)


def on_maps(net, images, maps):
    return net.two(maps) if maps[:, 0].mean() > 0.45 else net.three(net.two(maps))


def loops(net, images, maps):
    for _ in range(int(images.abs().max())):
        maps = net.two(maps)
    return maps


def on_zeros_only(net, images, maps):
    return net.two(maps) if images.any().item() else net.three(maps) + maps


def swaps(net, images, maps):
    one, two = net.two(maps), net.three(maps)
    return torch.cat(
        [one[:, :3], two[:, 3:]] if images.sum().item() > 0 else [two[:, :3], one[:, 3:]], 1
    )


def draws(net, images, maps):
    return net.two(maps) + maps if random.random() < 0.5 else maps


def draws_numpy(net, images, maps):
    return net.two(maps) if np.random.random() < 0.5 else net.three(maps)  # noqa: NPY002


def draws_torch(net, images, maps):
    return net.two(maps) if torch.rand(1) < 0.5 else net.three(maps)


def counts(net, images, maps):
    return net.three(maps) if net.calls % 15 == 0 else net.two(maps)


def counts_in_a_buffer(net, images, maps):
    net.seen += 1
    return net.three(maps) if net.seen % 15 == 0 else net.two(maps)


def on_the_batch(net, images, maps):
    return net.two(maps) if len(images) == 1 else net.three(maps) + maps


REFUSED = [
    *(skips, other_layer, on_maps, loops, on_zeros_only, swaps, draws, draws_numpy, draws_torch),
    *(counts, counts_in_a_buffer, on_the_batch),
]


def same_layers(net, images, maps):
    maps = net.two(maps)
    return maps * 2 if images.mean() > 0 else maps.relu()


def same_layers_at_random(net, images, maps):
    return net.two(maps).relu() if random.random() < 0.5 else net.two(maps) * 0.5


def same_layers_by_batch(net, images, maps):
    return net.two(maps).squeeze(0)[None] if len(images) == 1 else net.two(maps)


def counts_only(net, images, maps):
    net.seen += 1
    return net.two(maps)


def chooses_by_where(net, images, maps):
    positive = images.mean(dim=(1, 2, 3), keepdim=True) > 0
    return torch.where(positive, net.two(maps), net.three(maps))


def raises_on_zeros(net, images, maps):
    if not images.any():
        raise ValueError("an empty image")
    return net.two(maps)


TAKEN = [
    *(same_layers, same_layers_at_random, same_layers_by_batch, counts_only, chooses_by_where),
    raises_on_zeros,
]


def network_of(follow):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.randomised(Branching(follow))


def problem_of(follow, **arguments):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    images += torch.linspace(0.5, 2.5, 12).view(-1, 1, 1, 1)  # all means are above 0
    split = (images, torch.arange(12) % 3)
    return make_problem(
        network_of(follow), train=split, validation=split, budgets={"params": 1.0}, **arguments
    )


@pytest.mark.parametrize("follow", REFUSED, ids=lambda follow: follow.__name__)
def test_ways_with_other_layers_are_refused_by_line(follow):
    code = follow.__code__
    lines = "|".join(str(code.co_firstlineno + i) for i in range(5))
    with pytest.raises(
        UnsupportedNetworkError,
        match=rf"Branching takes other ways .*test_branches.py:({lines})\): ",
    ) as caught:
        problem_of(follow)
    assert "\n" not in str(caught.value)
    assert re.search(r"in a wrapper of the network\), or compute both", str(caught.value))


@pytest.mark.parametrize("follow", TAKEN, ids=lambda follow: follow.__name__)
@torch.no_grad()
def test_ways_with_the_same_layers_are_taken(follow):
    problem = problem_of(follow)
    assert {"one", "two"} <= {group.name for group in problem.groups}
    masks = tiny.group_masks(problem.groups, 0)
    smaller = compact(problem.network, problem.groups, masks)
    twin = tiny.masked(problem.network, problem.groups, masks)
    for images in (problem.example, -problem.example, problem.data.validation.images):
        random.seed(0)
        found = smaller(images)
        random.seed(0)
        assert tiny.relative_difference(found, twin(images)) < 1e-5


def other_layer_in_large_batches(net, images, maps):
    return net.three(maps) if len(images) > 8 else net.two(maps)


def test_layers_of_large_batches_alone_are_named_when_a_network_is_judged():
    """Batches as large as those that networks are judged on are not tried before."""
    problem = problem_of(other_layer_in_large_batches)
    message = r"a compact network does not run: .*by the size of the batch.*ignore="
    with pytest.raises(UnsupportedNetworkError, match=message) as caught:
        problem.evaluate(problem.masks_of(problem.sizes // 2))
    assert "\n" not in str(caught.value)


def other_layer_in_training(net, images, maps):
    return net.three(maps) if net.training else net.two(maps)


def more_layers_in_training(net, images, maps):
    return net.two(maps) + net.three(maps) if net.training else net.two(maps)


def test_layers_of_training_alone_are_pruned_as_well():
    problem = problem_of(other_layer_in_training)
    smaller = problem.compact(tiny.group_masks(problem.groups, 0))
    assert smaller.train()(problem.data.train.images).shape == (12, 3)


def test_layers_of_training_beside_others_are_pruned_with_them():
    problem = problem_of(more_layers_in_training)
    smaller = problem.compact(tiny.group_masks(problem.groups, 0))
    assert smaller.train()(problem.data.train.images).shape == (12, 3)


def test_looking_leaves_everything_as_it_was():
    network = network_of(same_layers_at_random)
    images = [torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)]
    groups = find_filter_groups(network, images[0])
    before = random.getstate(), torch.get_rng_state(), tiny.snapshot(network), network.calls
    check_branches(network, groups, images)
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())
    tiny.assert_unchanged(network, before[2])
    assert network.calls == before[3]


def test_looking_costs_few_forwards(monkeypatch):
    network, seen = network_of(counts_only).eval(), []
    network.follow = lambda net, images, maps: (seen.append(len(images)), net.two(maps))[1]
    groups = find_filter_groups(network, tiny.images_of(1))
    seen.clear()
    monkeypatch.setattr(Branching, "forward", plain_forward)
    check_branches(network, groups, [tiny.images_of(1)] * 4)
    assert len(seen) <= 9


def plain_forward(net, images):
    return net.out(net.follow(net, images, net.one(images)).mean(dim=(2, 3)))
