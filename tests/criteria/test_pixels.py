"""`relchanet` selects features, as in its paper: the first group's filters are the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import prune_gym
from prune_gym import Dataset, Split
from prune_gym.training.loop import Recipe, fit


class PixelNet(nn.Module):
    """A perceptron on 8x8 images behind a linear layer that is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.select = nn.Linear(64, 64, bias=False)
        self.hidden = nn.Linear(64, 32)
        self.out = nn.Linear(32, 10)
        with torch.no_grad():
            self.select.weight.copy_(torch.eye(64))
        self.select.weight.requires_grad_(False)

    def forward(self, images):
        return self.out(self.hidden(self.select(images.flatten(1))).relu())


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Dataset]:
    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16.0
    labels = torch.from_numpy(targets).long()
    train, validation = Split(images[:1200], labels[:1200]), Split(images[1200:], labels[1200:])
    data = Dataset("pixels", train, validation, None, n_classes=10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PixelNet()
    fit(network, data.train, Recipe(), steps=150, generator=torch.Generator().manual_seed(0))
    return network, data


def problem_of(trained, criterion):
    network, data = trained
    return prune_gym.make_problem(
        network=network, dataset=data, criterion=criterion, recovery="finetune",
        recovery_steps=60, budgets={"params": 1.0}, batch_size=597,
    )  # fmt: skip


def test_relchanet_selects_pixels(trained):
    problem = problem_of(trained, "relchanet")
    assert [(group.name, group.n_filters) for group in problem.groups] == [
        ("select", 64),
        ("hidden", 32),
    ]
    scores = problem.scores[0]
    images = problem.data.train.images.flatten(1)
    dark = (images == 0).all(dim=0).numpy()
    assert dark.sum() == 3  # no digit reaches them
    assert scores[dark].max() < np.median(scores)
    best, worst = problem.orders[0][:16], problem.orders[0][-16:]
    everything = np.ones(32, dtype=bool)
    found = {
        name: problem.evaluate((np.isin(np.arange(64), pixels), everything)).accuracy
        for name, pixels in (("best", best), ("worst", worst))
    }
    assert found["best"] > found["worst"] + 0.3


def test_magnitude_is_blind_there(trained):
    assert problem_of(trained, "l1").scores[0].tolist() == [1.0] * 64
