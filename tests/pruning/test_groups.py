"""Networks that cannot be pruned, and layers that shall not be: the messages, and `ignore`."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym import UnsupportedNetworkError
from prune_gym.pruning.groups import find_filter_groups, find_weight_groups


def sequential(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_nothing_prunable():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UnsupportedNetworkError, match=r"Sequential has no prunable layer"):
        tiny.make_tiny(network)
    with pytest.raises(UnsupportedNetworkError, match="has no convolution whose weights"):
        find_weight_groups(network)


def test_everything_ignored():
    network = tiny.build("vgg")
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    with pytest.raises(UnsupportedNetworkError, match=r"or all are in `ignore`"):
        tiny.make_tiny(network, ignore=convolutions)


def test_ignored_layers_stay_whole():
    network = tiny.build("vgg")
    problem = tiny.make_tiny(network, ignore=["features.4"])
    assert [group.name for group in problem.groups] == ["features.0", "features.7"]
    with pytest.raises(ValueError, match=r"ignore: the network has no layer 'conv'; see the names"):
        tiny.make_tiny(network, ignore=["conv"])


def test_grouped_convolutions_are_named():
    network = sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(UnsupportedNetworkError, match=r"layer '1' is a convolution with groups=2"):
        find_filter_groups(network, tiny.images_of(1))


def test_layers_of_another_kind_are_named():
    network = sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4))
    with pytest.raises(UnsupportedNetworkError, match=r"layer '1' \(GroupNorm\) cannot be pruned"):
        find_filter_groups(network, tiny.images_of(1))


def test_a_network_that_does_not_run_says_why():
    network = sequential(nn.Conv2d(2, 4, 1))
    with pytest.raises(UnsupportedNetworkError, match=r"input of shape \(1, 1, 8, 8\): .*channels"):
        find_filter_groups(network, tiny.images_of(1))


def test_free_parameters_are_named():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))
            self.classifier = nn.Linear(4, 3)

        def forward(self, images):
            return self.classifier((self.conv(images) * self.scale).mean(dim=(2, 3)))

    with pytest.raises(UnsupportedNetworkError, match=r"parameter 'scale' belongs to no layer"):
        find_filter_groups(Scaled(), tiny.images_of(1))


def test_groups_come_in_the_order_of_the_layers(default_problem):
    names = [name for name, _ in default_problem.network.named_modules()]
    places = [names.index(group.name) for group in default_problem.groups]
    assert places == sorted(places)


def test_every_filter_axis_is_covered_once(residual_problem):
    seen = [(cut.tensor, cut.axis) for group in residual_problem.groups for cut in group.slices]
    assert len(seen) == len(set(seen))
    tensors = residual_problem.network.state_dict()
    for group in residual_problem.groups:
        for cut in group.slices:
            assert sorted(cut.positions.ravel()) == list(range(tensors[cut.tensor].shape[cut.axis]))


def test_single_weights_are_groups_of_convolutions(default_problem):
    groups = find_weight_groups(default_problem.network)
    sizes = [group.n_filters for group in groups]
    assert sizes == [
        module.weight.numel()
        for module in default_problem.network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert prune_gym.FilterGroup is type(groups[0])
