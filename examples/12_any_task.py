"""Segmentation, regression and several inputs: metric, loss and data of one's own.

A network with a dict of outputs is judged by intersection over union, one with numbers by R2, and
one that takes an image and a row of facts by accuracy. All data is made here.
"""

import torch
from torch import nn
from torch.nn import functional

import prune_gym

BUDGETS = {"params": 0.5}


class Segmenter(nn.Module):
    """A class for each pixel, in a dict as torchvision's networks give it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.mix, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 2, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (n, 2, height, width) under "out"."""
        early = self.norm(self.enter(images)).relu()
        return {"out": self.head(self.mix(early).relu()), "features": early}


class Regressor(nn.Module):
    """Two numbers of a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 16, 5, padding=2), nn.Conv1d(16, 16, 5, padding=2)
        self.head = nn.Linear(16, 2)

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        """Numbers (n, 2) of signals (n, 1, length)."""
        return self.head(self.second(self.first(signals).relu()).relu().mean(dim=2))


class TwoInputs(nn.Module):
    """An image, and a row of facts about it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.facts = nn.Conv2d(1, 8, 3), nn.Linear(4, 8)
        self.join, self.head = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, images: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Logits (n, 4)."""
        seen = self.conv(images).relu().mean(dim=(2, 3))
        both = torch.cat([seen, self.facts(facts).relu()], dim=1)
        return self.head(self.join(both).relu())


def train(network: nn.Module, data: tuple, loss, steps: int = 80) -> nn.Module:
    """What you have done already: train a network."""
    inputs, targets = data
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(steps):
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        value = loss(network(*given), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return network.eval()


def prune(network: nn.Module, parts: list[tuple], **task) -> None:
    """Search a little, fine-tune, and say what came out."""
    data = dict(zip(("train", "validation", "test"), parts, strict=True))
    problem = prune_gym.make_problem(network, budgets=BUDGETS, **data, **task)
    best = prune_gym.search(problem, "random", evaluations=8).fine_tune(40)
    before = problem.judge(network, problem.data.test)
    name = problem.task.metric.name
    print(f"{name}: {before:.3f}, with half of the parameters {best.test_accuracy:.3f}")


torch.manual_seed(0)

# masks: a disc in noise
down, right = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
places = torch.randint(4, 12, (320, 2))
masks = ((down - places[:, :1, None]) ** 2 + (right - places[:, 1:, None]) ** 2 < 12).long()
images = masks[:, None] + 0.3 * torch.randn(320, 1, 16, 16)
parts = list(zip(images.split([160, 80, 80]), masks.split([160, 80, 80]), strict=True))
segmenter = train(Segmenter(), parts[0], lambda o, t: functional.cross_entropy(o["out"], t))
prune(segmenter, parts, metric="mean_iou", output="out")

# numbers: mean and spread of a signal
signals = torch.randn(320, 1, 32) * (0.5 + 1.5 * torch.rand(320, 1, 1)) + torch.randn(320, 1, 1)
numbers = torch.stack([signals.mean((1, 2)), signals.std((1, 2))], dim=1)
parts = list(zip(signals.split([160, 80, 80]), numbers.split([160, 80, 80]), strict=True))
regressor = train(Regressor(), parts[0], functional.mse_loss)
prune(regressor, parts, metric="r2", loss="huber")

# two inputs: the class is half in the image, half in the facts
labels = torch.randint(4, (320,))
images = 0.3 * torch.randn(320, 1, 8, 8) + (labels // 2)[:, None, None, None]
facts = 0.3 * torch.randn(320, 4) + (labels % 2)[:, None]
rows = torch.arange(320).split([160, 80, 80])
parts = [((images[part], facts[part]), labels[part]) for part in rows]
two = train(TwoInputs(), parts[0], functional.cross_entropy)
prune(two, parts)
