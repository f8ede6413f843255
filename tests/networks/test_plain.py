"""Wrappers of torch, and layers that compute their weights."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

import prune_gym
from prune_gym.errors import UnsupportedNetworkError
from prune_gym.networks.plain import unwrapped, with_plain_weights


class Standardised(nn.Conv2d):
    """Its weight has mean 0 and variance 1, filter by filter."""

    def forward(self, images):
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, True)) / (weight.std(1, keepdim=True) + 1e-5)
        return functional.conv2d(
            images, weight.view_as(self.weight), self.bias, self.stride, self.padding
        )


def network_of(layer) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), layer(), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        )
    return network.eval()


LAYERS = {
    "standardised": lambda: Standardised(6, 8, 3),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(6, 8, 3)),
}


def problem_of(network):
    split = (tiny.images_of(12), torch.arange(12) % 3)
    return prune_gym.make_problem(network, train=split, validation=split, budgets={"params": 0.9})


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_computed_weights_become_plain(name, tmp_path):
    network, images = network_of(LAYERS[name]), tiny.images_of(3)
    before = network(images)
    problem = problem_of(network)
    assert [(g.name, g.n_filters) for g in problem.groups] == [("0", 6), ("2", 8)]
    assert type(problem.network[2]) is nn.Conv2d
    torch.testing.assert_close(problem.network(images), before)
    assert torch.equal(network(images), before)
    masks = tiny.group_masks(problem.groups, 0)
    smaller = problem.compact(masks)
    prune_gym.save_pruned(tmp_path, smaller, problem, masks)
    assert torch.equal(prune_gym.load_pruned(tmp_path, network)(images), smaller(images))


def test_plain_networks_stay_as_they_are():
    network = tiny.build("vgg")
    kinds = [type(module) for module in network.modules()]
    with_plain_weights(network, tiny.images_of(1))
    assert [type(module) for module in network.modules()] == kinds


@torch.no_grad()
def test_compiled_networks_are_unwrapped():
    network = tiny.build("vgg")
    compiled = torch.compile(network)
    assert unwrapped(compiled) is network
    assert unwrapped(nn.DataParallel(compiled)) is network
    network.features[0].compile()
    network.classifier = torch.compile(network.classifier)
    problem = problem_of(network)
    kinds = {type(module).__name__ for module in problem.network.modules()}
    assert "OptimizedModule" not in kinds
    assert len(problem.groups) == 3


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripts_and_programs_are_refused():
    network, images = tiny.build("vgg").eval(), tiny.images_of(1)
    traced = torch.jit.trace(network, images)
    with pytest.raises(UnsupportedNetworkError, match=r"is a ScriptModule.*give the nn\.Module"):
        problem_of(traced)
    with pytest.raises(UnsupportedNetworkError, match=r"layer '0' is a ScriptModule"):
        problem_of(nn.Sequential(traced))
    exported = torch.export.export(network, (images,))
    with pytest.raises(UnsupportedNetworkError, match=r"ExportedProgram has no layers"):
        problem_of(exported)
    with pytest.raises(UnsupportedNetworkError, match=r"the module of an ExportedProgram.*give"):
        problem_of(exported.module())
    with pytest.raises(ValueError, match=r"unknown network 3: expected a registered name"):
        problem_of(3)
