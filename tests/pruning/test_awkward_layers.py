"""Layers that are easy to cut wrongly: cut rightly, or refused at once with a cure."""

import pytest
import torch
from torch import nn

import prune_gym
from prune_gym import UnsupportedNetworkError, make_problem


class Awkward(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(width, 6, 3, padding=1)
        self.out = nn.Linear(6, 3)

    def forward(self, images):
        hidden = self.second(self.between(self.first(images)))
        return self.out(hidden.mean(dim=(2, 3)))


class FixedSize(Awkward):
    """Writes the number of channels into forward()."""

    def forward(self, images):
        hidden = self.second(self.between(self.first(images)))
        return self.out(hidden.view(-1, 6, 64).mean(dim=2))


def problem_of(network):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    split = (images, torch.arange(12) % 3)
    return make_problem(network=network, train=split, validation=split, budgets={"params": 0.5})


@pytest.mark.parametrize(
    "between", [nn.PReLU(), nn.PReLU(8), nn.BatchNorm2d(8, affine=False), nn.Identity()]
)
def test_layers_that_are_cut(between):
    problem = problem_of(Awkward(between))
    network = problem.compact(problem.masks_of([3, 2]))
    assert network.first.out_channels == network.second.in_channels == 3
    assert network(problem.example).shape == (1, 3)


@pytest.mark.parametrize(
    "network",
    [
        FixedSize(nn.Identity()),
        Awkward(nn.GroupNorm(2, 8)),
        Awkward(nn.GroupNorm(2, 8, affine=False)),
        Awkward(nn.PixelShuffle(2), width=2),
    ],
    ids=["fixed size", "GroupNorm", "GroupNorm without parameters", "PixelShuffle"],
)
def test_layers_that_are_refused(network):
    with pytest.raises(UnsupportedNetworkError, match=r"ignore=\[...\]|cannot be traced"):
        problem_of(network)


def test_groups_are_named_after_their_first_layer():
    problem = make_problem(
        network=prune_gym.NETWORKS.get("small_resnet")(), train=images(), validation=images()
    )
    order = [name for name, _ in problem.network.named_modules()]
    for group in problem.groups:
        assert group.name == min(group.producers, key=order.index)


def images():
    return (torch.zeros(10, 1, 16, 16), torch.arange(10))
