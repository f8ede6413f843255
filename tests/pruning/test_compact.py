"""Compaction equals full masking, equals torch-pruning's own removal, and touches nothing."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import pytest
import tiny
import torch
import torch_pruning as tp
from torch import nn

import prune_gym
from prune_gym.pruning.compact import WeightZeroing, compact
from prune_gym.pruning.equivalence import check_compaction
from prune_gym.pruning.groups import FilterGroup, find_filter_groups

NETWORKS = [*tiny.BUILDERS, *prune_gym.NETWORKS.names()]
# small networks are cut in three ways, the others in one
CASES = [(name, seed) for name in NETWORKS for seed in range(3 if name in tiny.BUILDERS else 1)]


def network_and_images(name: str) -> tuple[nn.Module, torch.Tensor]:
    if name in tiny.BUILDERS:
        return tiny.build(name), tiny.images_of(4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = prune_gym.NETWORKS.get(name)(in_channels=1)
        return tiny.randomised(network), tiny.images_of(2, size=32)


@lru_cache(maxsize=1)
def subject_of(name: str) -> tuple[nn.Module, torch.Tensor, tuple[FilterGroup, ...]]:
    """A network, images, its filter groups; nothing here changes them, as tests below show."""
    network, images = network_and_images(name)
    return network, images, find_filter_groups(network, images[:1])


@pytest.fixture(params=NETWORKS, scope="module")
def subject(request):
    return subject_of(request.param)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}", scope="module")
def case(request):
    """A network, images, its filter groups, masks."""
    name, seed = request.param
    network, images, groups = subject_of(name)
    return network, images, groups, tiny.group_masks(groups, seed)


@torch.no_grad()
def test_compact_equals_masked(case):
    network, images, groups, masks = case
    expected = tiny.masked(network, groups, masks)(images)
    found = compact(network, groups, masks)(images)
    assert tiny.relative_difference(found, expected) < 1e-5
    assert tiny.relative_difference(network(images), expected) > 1e-3  # the masks matter


@torch.no_grad()
def test_compact_equals_the_removal_of_torch_pruning(case):
    network, images, groups, masks = case
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


def with_history(network: nn.Module, images: torch.Tensor) -> tuple[nn.Module, list]:
    """Frozen here, hooked there, partly trained, in mixed modes: what users hand in."""
    calls: list = []
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    layers[0].weight.requires_grad_(False)
    network.train()
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    network(images).sum().backward()
    last = layers[-1]
    last.register_forward_hook(lambda *_: calls.append("forward"))
    last.register_forward_hook(lambda *_, **__: calls.append("always"), always_call=True)
    last.register_forward_hook(lambda *_, **__: calls.append("keywords"), with_kwargs=True)
    last.register_forward_pre_hook(lambda *_: calls.append("pre"))
    last.register_full_backward_hook(lambda *_: calls.append("backward"))
    last.register_full_backward_pre_hook(lambda *_: calls.append("backward pre"))
    learning = next(parameter for parameter in network.parameters() if parameter.requires_grad)
    learning.register_hook(lambda *_: calls.append("gradient"))
    return network, calls


@pytest.mark.sampled
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_handed_in_is_changed(name):
    network, images = network_and_images(name)
    network, calls = with_history(network, images)
    before, random_state = tiny.snapshot(network), torch.get_rng_state()
    groups = find_filter_groups(network, images[:1])
    check_compaction(network, groups, images[:1])
    tiny.assert_unchanged(network, before)
    masks = tiny.group_masks(groups, 0)
    smaller = compact(network, groups, masks)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [p.requires_grad for p in smaller.parameters()] == before["requires_grad"]
    assert [m.training for m in smaller.modules()] == before["training"]
    smaller(images).sum().backward()
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.fill_(7.0)
        for buffer in smaller.buffers():
            buffer.fill_(7)
    tiny.assert_unchanged(network, before)
    assert calls == []  # the hooks watch what they were set on, nothing else
    network(images).sum().backward()
    assert set(calls) > {"forward", "pre", "backward", "gradient"}


def test_make_problem_changes_nothing():
    network, calls = with_history(tiny.build("vgg"), tiny.images_of(2))
    before, random_state = tiny.snapshot(network), torch.get_rng_state()
    problem = tiny.make_tiny(network, budgets={"params": 1.0, "macs": 0.9}, recovery="finetune")
    problem.evaluate(tiny.random_masks(problem, 0))
    problem.evaluate([np.ones(size, dtype=bool) for size in problem.sizes])
    tiny.assert_unchanged(network, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert problem.network is not network
    assert calls == []


def test_counting_changes_nothing():
    network, calls = with_history(tiny.build("vgg"), tiny.images_of(2))
    before = tiny.snapshot(network)
    for budget in ("params", "macs", "size_bytes"):
        assert prune_gym.count(budget, network, tiny.images_of(3)) > 0
    tiny.assert_unchanged(network, before)
    assert calls == []


def test_tracing_draws_no_random_numbers_of_the_caller():
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.classifier = nn.Linear(4, 3)

        def forward(self, images):
            hidden = self.conv(images + torch.randn_like(images)).mean(dim=(2, 3))
            return self.classifier(nn.functional.dropout(hidden, training=True))

    network, images = Noisy(), tiny.images_of(1)
    random_state = torch.get_rng_state()
    with torch.inference_mode():  # and in whatever mode the caller is
        groups = find_filter_groups(network, images)
    assert [group.name for group in groups] == ["conv"]
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", ["vgg", "residual"])
def test_zero_weights_changes_nothing_handed_in(name):
    problem = tiny.make_tiny(name, structure="weight")
    before = tiny.snapshot(problem.network)
    masks = tiny.random_masks(problem, 0)
    zeroed = WeightZeroing(problem.network, problem.groups).network(masks)
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


def test_frozen_networks_have_the_same_groups():
    network = tiny.build("residual")
    images = tiny.images_of(2)
    groups = find_filter_groups(network, images[:1])
    network.requires_grad_(False)
    frozen = find_filter_groups(network, images[:1])
    assert [group.producers for group in frozen] == [group.producers for group in groups]
    smaller = compact(network, frozen, tiny.group_masks(frozen, 0))
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
    smaller = compact(network, groups, tiny.group_masks(groups, 0))
    assert all(p.is_leaf and p.grad is None for p in smaller.parameters())
    smaller(tiny.images_of(2)).sum().backward()
    assert all(p.grad is not None for p in smaller.parameters())
