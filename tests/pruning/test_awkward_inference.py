"""Networks that the fast layout of judging could get wrong."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym.errors import UnsupportedNetworkError
from prune_gym.problem.sharing import _read
from prune_gym.pruning.inference import find_layout
from prune_gym.training.evaluation import accuracy
from prune_gym.training.loop import Recipe, fit
from prune_gym.training.recovery import RECOVERIES


class Awkward(nn.Module):
    """A convolution, its norm, a linear layer, and what a test does with them."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, tiny.N_CLASSES)
        self.steps = [self.conv, self.norm]  # no ModuleList
        self.does = forward

    def forward(self, images):
        return self.does(self, images)


def infinite(net, images):
    """The norm cannot be folded, and one class can never be."""
    maps = net.conv(images)
    outputs = net.classifier((net.norm(maps) + maps).relu().mean(dim=(2, 3)))
    return torch.cat([outputs, torch.full_like(outputs[:, :1], float("-inf"))], dim=1)


def nothing_finite(net, images):
    return net.classifier(net.norm(net.conv(images)).mean(dim=(2, 3))) * float("inf")


def each_channel_alone(net, images):
    """A view of the images that one image allows in any layout, and several do not."""
    n, channels, height, width = images.shape
    maps = net.norm(net.conv(images.view(n * channels, 1, height, width))).relu()
    return net.classifier(maps.mean(dim=(2, 3))).view(n, channels, -1).mean(dim=1)


def by_list(net, images):
    for step in net.steps:
        images = step(images)
    return net.classifier(images.relu().mean(dim=(2, 3)))


def read(problem) -> prune_gym.PruningProblem:
    """As another process does."""
    shared = prune_gym.share(problem)
    return _read(shared._rest, shared._path, shared._n_bytes)


def network_of(forward) -> nn.Module:
    return tiny.randomised(Awkward(forward))


def problem_of(forward, channels=1, **arguments):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((30, channels, 8, 8), generator=generator)
    data = (images, torch.arange(30) % tiny.N_CLASSES)
    given = {"train": data, "validation": data, "budgets": {"params": 0.9}, "recovery": "none"}
    return prune_gym.make_problem(network=network_of(forward), **given, **arguments)


@pytest.mark.parametrize("forward", [infinite, nothing_finite])
def test_outputs_that_are_not_finite_prove_no_fold(forward):
    assert find_layout(network_of(forward), tiny.images_of(3), "float32").folds == ()


def test_a_layout_is_tried_on_several_images():
    problem = problem_of(each_channel_alone, channels=3)
    assert not problem.layout.channels_last
    outcome = problem.evaluate([np.array([True, False, True, False])])
    assert outcome.accuracy == accuracy(outcome.network, problem.data.validation)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_that_are_held_beside_the_modules(precision):
    problem = problem_of(by_list, precision=precision)
    outcome = problem.evaluate([np.array([True, False, True, False])])
    plain = accuracy(outcome.network, problem.data.validation)
    assert outcome.accuracy == pytest.approx(plain, abs=0.0 if precision == "float32" else 0.1)
    assert problem.layout.copies_deeply == (precision == "bfloat16")


def test_other_kinds_of_numbers_stay_what_they_are():
    network = network_of(lambda net, images: net.classifier(by_maps(net, images)))
    network.classifier.double()
    layout = find_layout(network, tiny.images_of(3), "float32")
    assert layout.convert(network).classifier.weight.dtype == torch.float64
    assert len(layout.folds) == 1


def by_maps(net, images):
    return net.norm(net.conv(images)).relu().mean(dim=(2, 3)).double()


def test_a_precision_that_a_network_does_not_run_in():
    def picky(net, images):
        if images.dtype != torch.float32:
            raise ValueError("float32 only")
        return net.classifier(net.norm(net.conv(images)).mean(dim=(2, 3)))

    with pytest.raises(ValueError, match=r"precision='bfloat16': Awkward does not run in it; use"):
        find_layout(network_of(picky), tiny.images_of(3), "bfloat16")


def test_problems_can_be_made_in_inference_mode():
    with torch.inference_mode():
        problem = problem_of(by_list)
    assert problem.evaluate([np.ones(4, dtype=np.bool_)]).feasible is False


class Recurrent(nn.Module):
    """A layer that says itself how it is copied, behind one that is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 4, 3, padding=1)
        self.memory = nn.LSTM(4, 5, batch_first=True)
        self.classifier = nn.Linear(5, tiny.N_CLASSES)

    def forward(self, images):
        maps = self.last(self.norm(self.conv(images)).relu())
        return self.classifier(self.memory(maps.flatten(2).transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p)), read])
def test_copies_of_a_problem_cut_their_own_network(copied):
    network = tiny.randomised(Recurrent())
    problem = tiny.make_tiny(network, ignore=["last"], budgets={"params": 0.9})
    assert problem.layout.copies_deeply
    assert not problem.layout.folds
    masks = tiny.random_masks(problem, 0)
    own, other = problem.evaluate(masks), copied(problem).evaluate(masks)
    assert (own.accuracy, own.costs) == (other.accuracy, other.costs)
    sizes = [sum(p.numel() for p in outcome.network.parameters()) for outcome in (own, other)]
    assert sizes[0] == sizes[1] == own.values["params"]


def test_a_view_in_training_mode_is_trained_channels_first():
    def flattening(net, images):
        maps = net.norm(net.conv(images)).relu()
        extra = maps.view(len(maps), -1).mean() if net.training else 0.0
        return net.classifier(maps.mean(dim=(2, 3))) + extra

    problem = problem_of(flattening)
    assert problem.layout.channels_last
    assert not problem.data.train.channels_last
    network = problem.compact([np.array([True, False, True, False])])
    RECOVERIES.get("finetune")(
        network, problem.data.train, generator=torch.Generator().manual_seed(0), steps=1
    )


def test_augmentations_see_plain_images():
    seen = []

    def augment(images, generator):
        seen.append(images.view(len(images), -1).shape)
        return images

    problem = tiny.make_tiny()
    assert problem.data.train.channels_last
    network = problem.compact(tiny.random_masks(problem, 0))
    generator = torch.Generator().manual_seed(0)
    fit(network, problem.data.train, Recipe(), steps=1, generator=generator, augment=augment)
    assert len(seen) == 1


def test_a_network_for_one_image_at_a_time_is_refused():
    def single(net, images):
        return net.classifier(net.norm(net.conv(images)).mean(dim=(2, 3)).view(1, 4))

    with pytest.raises(UnsupportedNetworkError, match=r"does not run on an input of shape \(3, "):
        problem_of(single)
