"""Golden values: sizes by closed form, splits, shipped weights, one evaluation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import prune_gym
from prune_gym import count
from prune_gym.networks.checkpoints import find_checkpoint
from prune_gym.searches.baselines import masks_of_ratios
from prune_gym.training.evaluation import accuracy


def test_sizes_of_small():
    network, image = prune_gym.NETWORKS.get("small")(), torch.zeros(1, 1, 16, 16)
    ends = [1, 16, 32, 64, 64, 128, 128, 128, 128]
    sides = [16, 8, 4, 4, 2, 2, 2, 2]
    pairs = list(itertools.pairwise(ends))
    params = sum(9 * a * b + b + 2 * b for a, b in pairs) + 128 * 10 + 10
    macs = sum(9 * a * b * side**2 for (a, b), side in zip(pairs, sides, strict=True)) + 1280
    buffers = sum(2 * 4 * b + 8 for b in ends[1:])
    assert count("params", network, image) == params == 579_498
    assert count("macs", network, image) == macs == 3_282_176
    assert count("size_bytes", network, image) == 4 * params + buffers == 2_323_560


def test_sizes_of_small_resnet():
    network, image = prune_gym.NETWORKS.get("small_resnet")(), torch.zeros(1, 1, 16, 16)
    # (inputs, outputs, kernel area, side of the output) of every convolution
    layers = [
        (1, 16, 9, 16),
        *[(16, 16, 9, 16)] * 2,
        *[(16, 32, 9, 8), (32, 32, 9, 8), (16, 32, 1, 8)],
        *[(32, 64, 9, 4), (64, 64, 9, 4), (32, 64, 1, 4)],
    ]
    params = sum(area * a * b + 2 * b for a, b, area, _ in layers) + 64 * 10 + 10
    macs = sum(area * a * b * side**2 for a, b, area, side in layers) + 640
    buffers = sum(2 * 4 * b + 8 for _, b, _, _ in layers)
    assert count("params", network, image) == params == 77_754
    assert count("macs", network, image) == macs == 3_052_160
    assert count("size_bytes", network, image) == 4 * params + buffers == 313_776


@pytest.mark.sampled
@pytest.mark.parametrize("name", prune_gym.NETWORKS.names())
def test_every_network_runs_and_can_be_pruned(name):
    network = prune_gym.NETWORKS.get(name)(in_channels=3, n_classes=7)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    data = (torch.randn(8, 3, 32, 32), torch.arange(8) % 7)
    problem = prune_gym.make_problem(
        network, train=data, validation=data, budgets={"params": 0.5}, recovery="none"
    )
    outcome = problem.evaluate(problem.masks_of(np.ones_like(problem.sizes)))
    assert outcome.network(data[0]).shape == (8, 7)
    assert outcome.cost < 0.01


def test_digits_are_normalised_and_always_the_same():
    data = prune_gym.DATASETS.get("digits")()
    again = prune_gym.DATASETS.get("digits")()
    assert data.name == "digits"
    for split, other in ((data.train, again.train), (data.validation, again.validation)):
        assert torch.equal(split.images, other.images)
        assert torch.equal(split.labels, other.labels)
        assert split.images.dtype == torch.float32
        assert int(split.labels.min()) >= 0
        assert int(split.labels.max()) < data.n_classes
    assert abs(float(data.train.images.mean())) < 0.05
    assert abs(float(data.train.images.std()) - 1.0) < 0.15


def test_digits():
    data = prune_gym.DATASETS.get("digits")()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [997, 400, 400]
    assert "997 train, 400 validation, 400 test" in prune_gym.DATASETS.describe()["digits"]
    assert data.train.images.shape[1:] == (1, 16, 16)
    rows = torch.cat([s.images.flatten(1) for s in (data.train, data.validation, data.test)])
    assert len(torch.unique(rows, dim=0)) == 1797  # no image is in two splits
    for split in (data.train, data.validation, data.test):
        assert torch.bincount(split.labels, minlength=10).min() > len(split) / 15


def test_shipped_weights(default_problem):
    path = find_checkpoint("small", "digits")
    assert path.stat().st_size <= 1.5e6
    assert accuracy(default_problem.network, default_problem.data.test) >= 0.985
    assert default_problem.accuracy(default_problem.network) >= 0.985


def test_uniform_pruning(default_problem):
    masks = masks_of_ratios(default_problem, np.full(8, 0.5))
    assert [int(mask.sum()) for mask in masks] == [8, 16, 32, 32, 64, 64, 64, 64]
    outcome = default_problem.evaluate(masks)
    assert outcome.values == {"params": 145_754.0}
    assert outcome.cost == 145_754 / 579_498
    assert not outcome.feasible
    assert outcome.accuracy == pytest.approx(0.7575, abs=0.01)  # four images of 400
    assert outcome.accuracy > default_problem.accuracy(default_problem.compact(masks))


def test_uniform_pruning_within_the_limit(default_problem):
    masks = masks_of_ratios(default_problem, np.full(8, 0.7))
    outcome = default_problem.evaluate(masks)
    assert outcome.feasible
    assert outcome.values["params"] == sum(p.numel() for p in outcome.network.parameters())
    assert outcome.cost <= 0.1
