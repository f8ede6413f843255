"""Every criterion of the registry, by shape, by seed, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym import Evidence
from prune_gym.pruning.groups import find_filter_groups


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


def test_depthwise_layers_count_once():
    problem = tiny.make_tiny("mobile", criterion="l1")
    network = problem.network
    layers = (network.expand, network.depthwise)
    expected = sum(layer.weight.detach().double().abs().sum(dim=(1, 2, 3)) for layer in layers)
    np.testing.assert_allclose(problem.scores[0], expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda w: w, r"'strange' gave scores of shape \(4, 9\) for group 'features.0'; expected"),
        (lambda w: np.ones(len(w) + 1), r"gave scores of shape \(5,\) .* expected \(4,\), one per"),
        (lambda w: np.full(len(w), np.nan), r"gave 4 scores that are not finite .*'features.0'"),
        (lambda w: "abc", r"'strange' gave list; expected a list of 3 arrays of numbers, one per"),
    ],
)
def test_scores_that_do_not_fit(scores, message):
    def strange(evidence):
        return [scores(rows) for rows in evidence.weights]

    with pytest.raises(ValueError, match=message):
        tiny.make_tiny(criterion=strange)


def test_scores_of_too_few_groups():
    def strange(evidence):
        return [evidence.weights[0].sum(axis=1)]

    with pytest.raises(ValueError, match=r"'strange' gave 1 arrays of scores for 3 filter groups"):
        tiny.make_tiny(criterion=strange)
    with pytest.raises(ValueError, match=r"gave NoneType; expected a list of 3 arrays"):
        tiny.make_tiny(criterion=lambda evidence: None)


def test_a_criterion_of_two_arguments():
    def old(weights, generator):
        return weights

    with pytest.raises(TypeError, match=r"'old' must take one argument, the evidence .*`def mine"):
        tiny.make_tiny(criterion=old)


def test_evidence_is_private():
    def vandal(evidence):
        scores = [rows.sum(axis=1) for rows in evidence.weights]
        for parameter in evidence.network.parameters():
            parameter.data.zero_()
        evidence.images.zero_()
        return scores

    network = tiny.build("vgg")
    before = tiny.snapshot(network)
    problem = tiny.make_tiny(network, criterion=vandal)
    tiny.assert_unchanged(network, before)
    assert all(parameter.abs().sum() > 0 for parameter in problem.network.parameters())
    assert problem.data.train.images.abs().sum() > 0


def test_the_calibration_batch_is_balanced():
    labels = torch.tensor([0] * 500 + [1] * 300 + [2] * 20)
    images = tiny.images_of(len(labels))
    network = tiny.build("vgg")
    groups = find_filter_groups(network, images[:1])
    evidence = Evidence.of("mine", network, groups, prune_gym.Split(images, labels), seed=0)
    assert torch.bincount(evidence.labels).tolist() == [118, 118, 20]
    assert torch.equal(evidence.images, images[evidence.calibration_rows])
    assert torch.equal(evidence.labels, labels[evidence.calibration_rows])
    assert all(len(torch.unique(own)) == 3 for _, own in evidence.chunks())
    parts = list(evidence.chunks())
    assert {len(own) for own, _ in parts} == {32}
    assert torch.equal(torch.cat([own for own, _ in parts]), evidence.images)
