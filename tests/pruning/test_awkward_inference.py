"""Networks that the fast form of judging could get wrong."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym.evaluation import accuracy
from prune_gym.pruning.inference import find_form


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
    assert find_form(network_of(forward), tiny.images_of(3), "float32").folds == ()


def test_a_layout_is_tried_on_several_images():
    problem = problem_of(each_channel_alone, channels=3)
    assert not problem.form.channels_last
    outcome = problem.evaluate([np.array([True, False, True, False])])
    assert outcome.accuracy == accuracy(outcome.network, problem.data.validation)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_that_are_held_beside_the_modules(precision):
    problem = problem_of(by_list, precision=precision)
    outcome = problem.evaluate([np.array([True, False, True, False])])
    plain = accuracy(outcome.network, problem.data.validation)
    assert outcome.accuracy == pytest.approx(plain, abs=0.0 if precision == "float32" else 0.1)
    assert problem.form.whole == (precision == "bfloat16")


def test_other_kinds_of_numbers_stay_what_they_are():
    network = network_of(lambda net, images: net.classifier(by_maps(net, images)))
    network.classifier.double()
    form = find_form(network, tiny.images_of(3), "float32")
    assert form.of(network).classifier.weight.dtype == torch.float64
    assert len(form.folds) == 1


def by_maps(net, images):
    return net.norm(net.conv(images)).relu().mean(dim=(2, 3)).double()


def test_a_precision_that_a_network_does_not_run_in():
    def picky(net, images):
        if images.dtype != torch.float32:
            raise ValueError("float32 only")
        return net.classifier(net.norm(net.conv(images)).mean(dim=(2, 3)))

    with pytest.raises(ValueError, match=r"precision='bfloat16': Awkward does not run in it; use"):
        find_form(network_of(picky), tiny.images_of(3), "bfloat16")


def test_problems_can_be_made_in_inference_mode():
    with torch.inference_mode():
        problem = problem_of(by_list)
    assert problem.evaluate([np.ones(4, dtype=np.bool_)]).feasible is False
