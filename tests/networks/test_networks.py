"""The registered networks: known sizes, shapes, and that each of them can be pruned."""

from __future__ import annotations

import pytest
import torch

import prune_gym
from prune_gym.budgets import count
from prune_gym.errors import UnknownNameError
from prune_gym.pruning.groups import find_filter_groups

# Parameters as published: VGG-BN and ResNet with 32x32 stems in the CIFAR-10 model zoos, ResNet-20
# to ResNet-110 with 1x1 shortcuts (2,752 more than without).
PARAMETERS = {
    "vgg11": 9_231_114,
    "vgg13": 9_416_010,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet44": 661_338,
    "resnet56": 855_770,
    "resnet110": 1_730_714,
}
# Multiply-adds of convolutions and the linear layer for one 32x32 image, in millions.
MEGA_MACS = {"vgg11": 152.77, "vgg16": 313.2, "resnet18": 555.4, "resnet50": 1297.8}
# Filter groups: a convolution each, but those that a residual stage's shortcuts tie together.
GROUPS = {"vgg11": 8, "vgg13": 10, "vgg16": 13, "vgg19": 16, "resnet18": 12, "resnet34": 20}


@pytest.mark.parametrize("name", ["weights.pt", "a/b.safetensors", "x.PTH"])
def test_a_file_of_weights_is_no_network(name):
    cure = rf"network '{name}' is a file; give the network .* weights='{name}' \(--weights\)"
    with pytest.raises(UnknownNameError, match=cure):
        prune_gym.make_problem(name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    network = prune_gym.NETWORKS.get(name)()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MEGA_MACS)
def test_macs(name):
    network = prune_gym.NETWORKS.get(name)().eval()
    macs = count("macs", network, torch.zeros(1, 3, 32, 32))
    assert macs / 1e6 == pytest.approx(MEGA_MACS[name], abs=0.06)


@pytest.mark.parametrize("name", list(prune_gym.NETWORKS))
def test_classes_and_channels(name):
    network = prune_gym.NETWORKS.get(name)(in_channels=2, n_classes=7).eval()
    with torch.no_grad():
        assert network(torch.zeros(3, 2, 32, 32)).shape == (3, 7)


@pytest.mark.parametrize("name", GROUPS)
def test_filter_groups(name):
    network = prune_gym.NETWORKS.get(name)()
    groups = find_filter_groups(network, torch.zeros(1, 3, 32, 32))
    assert len(groups) == GROUPS[name]
