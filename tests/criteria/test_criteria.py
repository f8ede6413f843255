"""Every criterion of the registry, by shape, by seed, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_gym import CRITERIA


def hand_network() -> nn.Module:
    """Two convolutions whose weights are known."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, 2, bias=False),
        nn.Conv2d(2, 3, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[[[1.0, -2.0], [2.0, 0.0]]], [[[0, 0], [-4, 3.0]]]]))
        network[1].weight.copy_(
            torch.tensor([[3.0, 4.0], [-1.0, 0.0], [0.5, -0.5]]).view(3, 2, 1, 1)
        )
    return network


@pytest.mark.parametrize("structure", ["filter", "weight"])
@pytest.mark.parametrize("name", CRITERIA.names())
def test_every_criterion(name, structure):
    for network in ("vgg", "residual", "unet", "mobile", "dense"):
        problems = [
            tiny.make_tiny(
                network, criterion=name, seed=seed, structure=structure, budgets={"params": 1}
            )
            for seed in (3, 3, 4)
        ]
        for scores, size in zip(problems[0].scores, problems[0].sizes, strict=True):
            assert scores.shape == (size,)
            assert scores.dtype == np.float64
            assert np.isfinite(scores).all()
        tiny.assert_identical(problems[0].scores, problems[1].scores)
        differs = any(
            (one != other).any()
            for one, other in zip(problems[0].scores, problems[2].scores, strict=True)
        )
        assert differs == (name == "random")


def test_norms_by_hand():
    l1 = tiny.make_tiny(hand_network(), criterion="l1")
    np.testing.assert_allclose(l1.scores[0], [5.0, 7.0])
    np.testing.assert_allclose(l1.scores[1], [7.0, 1.0, 1.0], rtol=1e-6)
    l2 = tiny.make_tiny(hand_network(), criterion="l2")
    np.testing.assert_allclose(l2.scores[0], [3.0, 5.0])
    np.testing.assert_allclose(l2.scores[1], [5.0, 1.0, np.sqrt(0.5)], rtol=1e-6)


def test_ties_keep_the_lower_index_first():
    problem = tiny.make_tiny(hand_network(), criterion="l1")
    assert [order.tolist() for order in problem.orders] == [[1, 0], [0, 1, 2]]
    assert [mask.tolist() for mask in problem.masks_of([1, 2])] == [
        [False, True],
        [True, True, False],
    ]


def test_coupled_filters_are_scored_together():
    problem = tiny.make_tiny("residual", criterion="l1")
    network = problem.network
    for group, scores in zip(problem.groups, problem.scores, strict=True):
        expected = sum(
            network.get_submodule(name).weight.detach().double().abs().sum(dim=(1, 2, 3))
            for name in group.producers
        )
        np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-12)


def test_transposed_convolutions_are_scored_by_output():
    problem = tiny.make_tiny("unet", criterion="l1")
    place = [group.name for group in problem.groups].index("up")
    expected = problem.network.up.weight.detach().double().abs().sum(dim=(0, 2, 3))
    np.testing.assert_allclose(problem.scores[place], expected.numpy(), rtol=1e-12)


def test_a_callable():
    def last_first(evidence):
        return [np.arange(group.n_filters) for group in evidence.groups]

    problem = tiny.make_tiny(criterion=last_first)
    assert problem.orders[0].tolist() == [3, 2, 1, 0]
