"""Compaction equals full masking, equals torch-pruning's own removal, and touches nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
import torch_pruning as tp
from torch import nn

import prune_gym
from prune_gym.pruning.compact import compact, zero_weights
from prune_gym.pruning.groups import find_filter_groups

NETWORKS = [*tiny.BUILDERS, *prune_gym.NETWORKS.names()]


def network_and_images(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name in tiny.BUILDERS:
        return tiny.build(name), tiny.images_of(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.randomised(prune_gym.NETWORKS.get(name)()), tiny.images_of(4, size=16)


@pytest.fixture(params=NETWORKS)
def subject(request):
    """A network, images, its filter groups."""
    network, images = network_and_images(request.param)
    return network, images, find_filter_groups(network, images[:1])


def masks_for(groups, seed, keep=0.6):
    generator = np.random.default_rng(seed)
    masks = []
    for group in groups:
        mask = generator.random(group.n_filters) < keep
        mask[generator.integers(group.n_filters)] = True
        masks.append(mask)
    return masks


def masked(network: nn.Module, groups, masks) -> nn.Module:
    """A copy in which dropped filters are zeroed in every producer and in every norm they meet."""
    twin = copy.deepcopy(network)
    tensors = twin.state_dict()
    for group, mask in zip(groups, masks, strict=True):
        dropped = torch.from_numpy(np.flatnonzero(~mask))
        for name in group.producers:
            layer = twin.get_submodule(name)
            transposed = isinstance(layer, nn.ConvTranspose2d)
            (layer.weight.data.transpose(0, 1) if transposed else layer.weight.data)[dropped] = 0
            if layer.bias is not None:
                layer.bias.data[dropped] = 0
        for cut in group.slices:
            layer = twin.get_submodule(cut.tensor.rpartition(".")[0])
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and "running" not in cut.tensor:
                tensors[cut.tensor][torch.from_numpy(cut.dropped(mask))] = 0
    return twin


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_compact_equals_masked(subject, seed):
    network, images, groups = subject
    masks = masks_for(groups, seed)
    expected = masked(network, groups, masks)(images)
    found = compact(network, groups, masks)(images)
    assert relative_difference(found, expected) < 1e-5
    assert relative_difference(network(images), expected) > 1e-3  # the masks matter


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_compact_equals_the_removal_of_torch_pruning(subject, seed):
    network, images, groups = subject
    masks = masks_for(groups, seed)
    reference = copy.deepcopy(network)
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(reference, example_inputs=images[:1])
    for group, mask in zip(groups, masks, strict=True):
        layer = reference.get_submodule(group.name)
        remove = graph.get_pruner_of_module(layer).prune_out_channels
        dropped = np.flatnonzero(~mask).tolist()
        if dropped:
            graph.get_pruning_group(layer, remove, idxs=dropped).prune()
    found = compact(network, groups, masks)
    expected = reference.state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert repr(found) == repr(reference)  # channel counts of the layers as well
    torch.testing.assert_close(found(images), reference.eval()(images), rtol=1e-6, atol=1e-6)


def test_groups_are_those_of_torch_pruning(subject):
    network, images, groups = subject
    graph = tp.DependencyGraph().build_dependency(copy.deepcopy(network), images[:1])
    sizes = sorted(
        len(group[0].idxs)
        for group in graph.get_all_groups(
            root_module_types=(nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        )
    )
    outputs = dict(network.named_modules())["classifier"].out_features
    sizes.remove(outputs)  # the network's own output is never pruned
    assert sorted(group.n_filters for group in groups) == sizes
    assert all("classifier" not in group.producers for group in groups)


def test_outputs_are_never_pruned(subject):
    network, images, groups = subject
    one_each = [np.arange(group.n_filters) == 0 for group in groups]
    smallest = compact(network, groups, one_each)
    assert smallest(images).shape == network(images).shape


def test_residual_adds_couple_layers():
    groups = find_filter_groups(tiny.build("residual"), tiny.images_of(1))
    coupled = {frozenset(group.producers) for group in groups if len(group.producers) > 1}
    assert coupled == {
        frozenset({"stem", "blocks.0.conv2", "blocks.1.conv2"}),
        frozenset({"blocks.2.conv2", "blocks.2.shortcut.0", "blocks.3.conv2"}),
    }


def test_a_flattened_map_feeds_several_inputs_per_filter():
    groups = find_filter_groups(tiny.build("flat"), tiny.images_of(1))
    widths = {
        (group.name, cut.tensor): cut.positions.shape for group in groups for cut in group.slices
    }
    assert widths["conv", "hidden.weight"] == (4, 16)
    assert [group.name for group in groups] == ["conv", "hidden", "second"]


def test_a_kept_network_is_the_same(subject):
    network, _, groups = subject
    whole = compact(network, groups, [np.ones(group.n_filters, dtype=bool) for group in groups])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name])
    shared = {t.data_ptr() for t in network.parameters()} & {
        t.data_ptr() for t in whole.parameters()
    }
    assert not shared


def with_history(network: nn.Module) -> tuple[nn.Module, list]:
    """Frozen here, hooked there, partly in training mode: what users hand in."""
    calls: list = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    layers[0].weight.requires_grad_(False)
    layers[-1].register_forward_hook(lambda *_: calls.append("forward"))
    layers[-1].register_forward_pre_hook(lambda *_: calls.append("pre"))
    network.train()
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    return network, calls


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_handed_in_is_changed(name):
    network, images = network_and_images(name)
    network, calls = with_history(network)
    before = tiny.snapshot(network)
    groups = find_filter_groups(network, images[:1])
    tiny.assert_unchanged(network, before)
    assert calls == []  # tracing fires no hooks
    masks = masks_for(groups, 0)
    smaller = compact(network, groups, masks)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(7.0)
        for buffer in smaller.buffers():
            buffer.fill_(7)
    tiny.assert_unchanged(network, before)
    assert [p.requires_grad for p in smaller.parameters()] == before["requires_grad"]
    assert [m.training for m in smaller.modules()] == before["training"]


@pytest.mark.parametrize("name", ["vgg", "residual"])
def test_zero_weights_changes_nothing_handed_in(name):
    problem = tiny.make_tiny(name, structure="weight")
    before = tiny.snapshot(problem.network)
    masks = tiny.random_masks(problem, 0)
    zeroed = zero_weights(problem.network, problem.groups, masks)
    tiny.assert_unchanged(problem.network, before)
    for group, mask in zip(problem.groups, masks, strict=True):
        old = problem.network.get_submodule(group.name).weight.detach().flatten().numpy()
        new = zeroed.get_submodule(group.name).weight.detach().flatten().numpy()
        np.testing.assert_array_equal(new, np.where(mask, old, 0.0))
    assert repr(zeroed) == repr(problem.network)


def test_evaluation_changes_nothing():
    for recovery in prune_gym.RECOVERIES:
        problem = tiny.make_tiny(recovery=recovery, recovery_steps=2)
        before = tiny.snapshot(problem.network)
        problem.evaluate(tiny.random_masks(problem, 0))
        tiny.assert_unchanged(problem.network, before)


def test_make_problem_changes_nothing():
    network, _ = with_history(tiny.build("vgg"))
    before = tiny.snapshot(network)
    problem = tiny.make_tiny(network)
    problem.evaluate(tiny.random_masks(problem, 0))
    tiny.assert_unchanged(network, before)
    assert problem.network is not network


def test_frozen_networks_have_the_same_groups():
    network = tiny.build("residual")
    images = tiny.images_of(2)
    groups = find_filter_groups(network, images[:1])
    network.requires_grad_(False)
    frozen = find_filter_groups(network, images[:1])
    assert [group.producers for group in frozen] == [group.producers for group in groups]
    smaller = compact(network, frozen, masks_for(frozen, 0))
    assert not any(parameter.requires_grad for parameter in smaller.parameters())


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.classifier = nn.Linear(4, 3)
            self.twin = nn.Linear(4, 3)
            self.twin.weight = self.classifier.weight

        def forward(self, images):
            hidden = self.conv(images).relu().mean(dim=(2, 3))
            return self.classifier(hidden) + self.twin(hidden)

    network = Tied().eval()
    groups = find_filter_groups(network, tiny.images_of(1))
    smaller = compact(network, groups, [np.array([True, False, True, False])])
    assert smaller.twin.weight is smaller.classifier.weight
    assert smaller.twin.weight.shape == (3, 2)
    assert smaller(tiny.images_of(2)).shape == (2, 3)


def test_gradients_and_graphs_stay_behind():
    network = tiny.build("vgg")
    network(tiny.images_of(2)).sum().backward()
    groups = find_filter_groups(network, tiny.images_of(1))
    smaller = compact(network, groups, masks_for(groups, 0))
    assert all(p.is_leaf and p.grad is None for p in smaller.parameters())
    smaller(tiny.images_of(2)).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())
