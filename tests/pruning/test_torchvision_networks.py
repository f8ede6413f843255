"""The networks that users bring: torchvision's, end to end, against slow references."""

from __future__ import annotations

import copy
from functools import lru_cache

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
import torch_pruning as tp
from torch import nn
from torchvision import models

import prune_gym
from prune_gym.pruning.compact import compact
from prune_gym.pruning.groups import find_filter_groups

COUNTED = ("params", "macs", "size_bytes")
# name -> (filter groups, filters); where convolutions are in groups, a filter is a set of channels
NETWORKS = {
    "resnet18": (12, 2880),
    "resnet50": (37, 11456),
    "mobilenet_v2": (25, 9128),
    "densenet121": (120, 10240),
    "efficientnet_b0": (40, 11404),
    "googlenet": (57, 7280),
    "regnet_y_400mf": (53, 2048),
}


def build(name: str, **arguments) -> nn.Module:
    if name == "googlenet":
        arguments = {"aux_logits": False, "init_weights": False, **arguments}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(models, name)(weights=None, num_classes=10, **arguments)
    return tiny.randomised(network)


def images_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=1)
def problem_of(name: str) -> prune_gym.PruningProblem:
    return prune_gym.make_problem(
        network=build(name),
        train=(images_of(10), torch.arange(10)),
        validation=(images_of(10, 1), torch.arange(10)),
        budgets=dict.fromkeys(COUNTED, 0.3),
    )


@pytest.fixture(params=NETWORKS, scope="module")
def named(request):
    """A network's name, and the problem made of it."""
    return request.param, problem_of(request.param)


@pytest.mark.sampled
def test_groups_are_all_there(named):
    name, problem = named
    assert (len(problem.groups), problem.sizes.sum()) == NETWORKS[name]
    assert len({group.name for group in problem.groups}) == len(problem.groups)
    outputs = [m for m in problem.network.modules() if isinstance(m, nn.Linear)][-1]
    producers = {name for group in problem.groups for name in group.producers}
    layers = dict(problem.network.named_modules())
    idle = {
        name
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name not in producers
    }
    assert [layers[name] for name in idle] == [outputs]  # all filters but the outputs can go


@pytest.mark.parametrize("seed", range(2))
@torch.no_grad()
@pytest.mark.sampled
def test_compact_equals_masked(named, seed):
    _, problem = named
    masks = tiny.group_masks(problem.groups, seed)
    images = images_of(2, seed)
    expected = tiny.masked(problem.network, problem.groups, masks)(images)
    smaller = compact(problem.network, problem.groups, masks)
    assert tiny.relative_difference(smaller(images), expected) < 1e-5
    assert tiny.relative_difference(problem.network(images), expected) > 1e-3  # they matter
    kept = np.array([mask.sum() for mask in masks])
    sizes = problem.cost_model.sizes
    counted = dict(zip(sizes.names, sizes.count(kept), strict=True))
    assert counted == {name: value.numel() for name, value in smaller.state_dict().items()}
    by_hand = tiny.numbers_by_hand(smaller, problem.example)
    values = problem.costs(masks) * problem.unpruned_values
    np.testing.assert_allclose(values, by_hand, rtol=1e-12)
    measured = [prune_gym.count(budget, smaller, problem.example) for budget in COUNTED]
    assert measured == by_hand


@torch.no_grad()
@pytest.mark.sampled
def test_compact_equals_the_removal_of_torch_pruning(named):
    _, problem = named
    masks = tiny.group_masks(problem.groups, 3)
    reference = copy.deepcopy(problem.network)
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(reference, problem.example, verbose=False)
    for group, mask in zip(problem.groups, masks, strict=True):
        layer = reference.get_submodule(group.name)
        remove = graph.get_pruner_of_module(layer).prune_out_channels
        own = next(cut for cut in group.slices if cut.tensor == f"{group.name}.weight")
        dropped = own.dropped(mask).tolist()
        if dropped:
            graph.get_pruning_group(layer, remove, idxs=dropped).prune()
    found = compact(problem.network, problem.groups, masks)
    expected = reference.state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert repr(found) == repr(reference)  # channel counts of the layers as well


@pytest.mark.sampled
def test_an_episode_meets_the_budget(named):
    """Random actions, then as much of everything as the tightest budget allows."""
    _, problem = named
    before = tiny.snapshot(problem.network)
    env = gym.make("PruneVGG-v0", problem=problem)
    seen = tiny.rollout(env)
    info = seen[-1][4]
    network = env.unwrapped.compact_network()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert info["params"] == parameters
    assert 0.0 <= info["accuracy"] <= 1.0
    for ratio in np.linspace(0.0, 1.0, 41):
        counts = np.maximum(1, np.round((1.0 - ratio) * problem.sizes)).astype(np.int64)
        if problem.feasible(problem.counted_costs(counts)):
            break
    outcome = problem.evaluate(problem.masks_of(counts))
    assert outcome.feasible
    by_hand = tiny.numbers_by_hand(outcome.network, problem.example)
    for value, dense in zip(by_hand, problem.unpruned_values, strict=True):
        assert 0.05 * dense < value <= 0.3 * dense
    assert list(outcome.values.values()) == pytest.approx(by_hand)
    tiny.assert_unchanged(problem.network, before)


def test_branches_that_only_run_in_training_are_cut_as_well():
    network = build("googlenet", aux_logits=True)
    groups = find_filter_groups(network, images_of(1))
    plain = find_filter_groups(build("googlenet"), images_of(1))
    named = {group.name: group for group in groups}
    assert set(named) - {group.name for group in plain} == {
        f"aux{index}.{layer}" for index in (1, 2) for layer in ("conv.conv", "fc1")
    }
    masks = tiny.group_masks(groups, 0)
    smaller = compact(network, groups, masks)
    twin = tiny.masked(network, groups, masks)
    for module in (smaller, twin):  # run the branches, without dropout and batch statistics
        module.training = True
    with torch.no_grad():
        found, expected = smaller(images_of(2)), twin(images_of(2))
    assert found._fields == ("logits", "aux_logits2", "aux_logits1")
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (2, 10)
        assert tiny.relative_difference(one, other) < 1e-5


def test_containers_can_be_kept_whole():
    network = build("mobilenet_v2")
    groups = find_filter_groups(network, images_of(1), ignore=["features.1", "features.18"])
    reached = {name for group in groups for name in group.producers}
    assert not any(name.startswith(("features.1.", "features.18.")) for name in reached)
    assert "features.2.conv.0.0" in reached
