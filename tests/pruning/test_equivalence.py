"""Cures that can be pasted, and what rounding decides."""

from __future__ import annotations

import ast

import pytest
import tiny
import torch
from torch import nn

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.comparison import choices_of, rounding_decides
from prune_gym.pruning.equivalence import check_compaction, check_smallest
from prune_gym.pruning.groups import find_filter_groups


class Fixed(nn.Module):
    """A block whose widths are written down, between layers that can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.leave = nn.Linear(4, 3)

    def forward(self, images):
        hidden = self.block(self.enter(images))
        return self.leave(hidden.view(-1, 4, 64).mean(2))


def test_the_cure_is_complete_and_keeps_what_was_given():
    network, images = Fixed().eval(), tiny.images_of(2)
    groups = find_filter_groups(network, images, ["block.0"])
    with pytest.raises(UnsupportedNetworkError, match=r"of the parameters at least: ign") as caught:
        check_compaction(network, groups, images, ["block.0"])
    cure = ast.literal_eval(str(caught.value).rpartition("ignore=")[2].rstrip("."))
    assert cure == ["block.0", "block"]  # nothing else in it can be pruned
    assert str(caught.value).count("block.2") == 0  # no layer twice
    groups = find_filter_groups(network, images, cure)
    assert [group.name for group in groups] == ["enter"]
    check_compaction(network, groups, images, cure)


class NeedsTwo(nn.Module):
    """Compares the halves of its channels, which one channel has none of."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, images):
        hidden = self.enter(images)
        if hidden.shape[1] < 2:
            raise ValueError("too few channels")
        return self.leave(hidden.mean((2, 3)))


def test_what_the_smallest_network_needs_is_named():
    network, images = NeedsTwo().eval(), tiny.images_of(2)
    groups = find_filter_groups(network, images)
    masks = [torch.arange(group.n_filters).numpy() == 0 for group in groups]
    with pytest.raises(
        UnsupportedNetworkError, match=r"one filter per group: too few.*Mend it: every layer"
    ):
        check_smallest(network, groups, masks, images)


class Chooser(nn.Module):
    """The best of numbers that are nearly the same, as detectors choose boxes."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, scores):
        tilt = self.shift * torch.arange(scores.shape[1])
        return (scores + tilt).topk(2, dim=1).values * torch.tensor([1.0, -1.0])


def test_rounding_may_choose():
    scores = torch.ones(1, 5)
    up, down, far = (choices_of(Chooser(s), scores) for s in (1e-7, -1e-7, -1e-1))
    assert rounding_decides(up, down)  # other places of the same numbers
    assert not rounding_decides(up, up)  # nothing differs here: what differs later is wrong
    assert not rounding_decides(up, far)  # other numbers
