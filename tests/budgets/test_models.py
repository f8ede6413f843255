"""Activations and energy against what is counted by hand; dense costs of monotone budgets."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_budgets import CERTAIN, MONOTONE
from torch import nn

import prune_gym
from prune_gym import BUDGETS, Budget, count
from prune_gym.budgets.activations import peak_activation_bytes
from prune_gym.budgets.counted import ADD_PJ, DRAM_PJ, MULTIPLY_PJ, SRAM_PJ

IMAGE = 4 * 1 * 8 * 8  # bytes of one image


class Skip(nn.Module):
    """A residual block: what enters lives until the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images):
        first = self.conv1(images)
        second = self.conv2(first)
        second = self.conv3(second)
        return (first + second).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("network", "maps"),
    [
        # the image (1 map), then input and output of the layer that holds most
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)), 1 + 4),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()), 1 + 4 + 4),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True)), 1 + 4),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)), 1 + 4 + 6),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 8, 1)), 1 + 4 + 1),
        (nn.Sequential(nn.Identity(), nn.Flatten()), 1),
        (Skip(), 1 + 4 + 4 + 4 + 4 / 64),  # and four means
    ],
)
def test_activations_by_hand(network, maps):
    value = peak_activation_bytes(network.eval(), tiny.images_of(3))
    assert value == maps * IMAGE


def test_activations_are_of_the_precision():
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)).double()
    assert peak_activation_bytes(network, tiny.images_of(1).double()) == 2 * 5 * IMAGE


def test_energy_by_hand():
    """A convolution (4 filters 3x3 on 8x8 places) and a linear layer of 3 outputs, with biases."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 3)).eval()
    macs = 4 * 9 * 64 + 256 * 3
    parameters = 4 * 9 + 4 + 256 * 3 + 3
    picojoules = macs * (MULTIPLY_PJ + ADD_PJ + 2 * SRAM_PJ) + parameters * DRAM_PJ
    assert (MULTIPLY_PJ, ADD_PJ, SRAM_PJ, DRAM_PJ) == (3.7, 0.9, 5.0, 640.0)
    value = count("energy_uj", network, tiny.images_of(1))
    assert value == pytest.approx(1e-6 * picojoules, rel=1e-4)
    assert count("macs", network, tiny.images_of(1)) == macs


@pytest.mark.parametrize("name", CERTAIN)
def test_certain_budgets_are_certain(name):
    """In any order of summing, with any batch, again and again."""
    network = tiny.build("residual")
    values = {count(name, network, tiny.images_of(n)) for n in (1, 1, 3)}
    assert len(values) == 1
    problem = tiny.make_tiny("residual", budgets={name: 1.0})
    assert problem.unpruned_values.tolist() == list(values)
    counts = np.stack([problem.sizes, np.ones_like(problem.sizes)])
    if BUDGETS.get(name)().counted is not None:
        found = [problem.costs(problem.masks_of(row)) for row in counts]
        np.testing.assert_array_equal(problem.counted_costs(counts), found)


def squares(network) -> float:
    """A monotone black box of a user."""
    return float(sum(p.numel() ** 2 for p in network.parameters()))


PROBLEMS: dict[tuple, prune_gym.PruningProblem] = {}


def problem_of(*names):
    if names not in PROBLEMS:
        own = Budget("squares", squares, monotone=True, deterministic=True)
        budgets = {own if name == "squares" else name: 1.0 for name in names}
        PROBLEMS[names] = tiny.make_tiny("residual", budgets=budgets)
    return PROBLEMS[names]


@pytest.mark.parametrize("name", [*MONOTONE, "squares"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_dense_costs_are_not_negative_and_sum_to_the_terminal_cost(name, data):
    problem = problem_of(name)
    actions = data.draw(
        st.lists(
            st.floats(-1.0, 1.0, width=32),
            min_size=len(problem.groups),
            max_size=len(problem.groups),
        )
    )
    sums = {}
    for mode in ("dense", "terminal"):
        env = gym.make("PruneVGG-v0", problem=problem, cost_mode=mode)
        _, info = env.reset(seed=0)
        costs = [info["cost"]]
        for action in actions:
            costs.append(env.step(np.array([action], dtype=np.float32))[4]["cost"])
        assert min(costs) >= 0.0
        sums[mode] = sum(costs)
        cost = env.unwrapped.last_outcome().cost
        assert sums[mode] == pytest.approx(cost, abs=1e-12)
    assert sums["dense"] == pytest.approx(sums["terminal"], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_monotone_budgets_never_rise(seed):
    """Removing filters from any network lowers every budget that says so."""
    problem = problem_of(*MONOTONE, "squares")
    some = tiny.random_masks(problem, seed, keep=0.8)
    fewer = tiny.random_masks(problem, seed + 1, keep=0.7)
    both = tuple(
        one & other if (one & other).any() else one for one, other in zip(some, fewer, strict=True)
    )
    assert (problem.costs(both) <= problem.costs(some)).all()


def test_the_network_may_have_gradients():
    network = tiny.build("vgg")
    network(tiny.images_of(2)).sum().backward()
    assert peak_activation_bytes(network, tiny.images_of(1)) > 0
    assert torch.is_grad_enabled()
