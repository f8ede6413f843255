"""Small jobs of every kind: a network that learns a little from data that is made here."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from prune_gym import Metric


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images (n, 1, 16, 16) of a disc, and its mask (n, 16, 16) int64."""
    draw = generator(seed)
    places = torch.randint(4, 12, (n, 2), generator=draw)
    down, right = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    far = (down - places[:, :1, None]) ** 2 + (right - places[:, 1:, None]) ** 2
    masks = (far < 12).long()
    noise = 0.3 * torch.randn(n, 1, 16, 16, generator=draw)
    return masks[:, None].float() + noise, masks


def curves(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals (n, 1, 32) and two numbers each, (n, 2): mean and spread."""
    signals = torch.randn(n, 1, 32, generator=generator(seed))
    signals = signals * torch.linspace(0.5, 2.0, n)[:, None, None] + torch.linspace(-1, 1, n)[
        :, None, None
    ].roll(n // 3, 0)
    return signals, torch.stack([signals.mean((1, 2)), signals.std((1, 2))], dim=1)


def several(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 8, 8) in which up to three corners are bright; (n, 3) 0 or 1."""
    draw = generator(seed)
    labels = torch.randint(2, (n, 3), generator=draw)
    images = 0.3 * torch.randn(n, 1, 8, 8, generator=draw)
    for column, (down, right) in enumerate(((0, 0), (0, 4), (4, 0))):
        images[:, 0, down : down + 4, right : right + 4] += labels[:, column, None, None]
    return images, labels


def sentences(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, 12) int64, and whether the token 7 is among them, (n,)."""
    draw = generator(seed)
    tokens = torch.randint(8, 30, (n, 12), generator=draw)
    labels = torch.randint(2, (n,), generator=draw)
    places = torch.randint(12, (n,), generator=draw)
    tokens[torch.arange(n), places] = torch.where(labels == 1, 7, tokens[torch.arange(n), places])
    return tokens, labels


def pairs(n: int, seed: int) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Images (n, 1, 8, 8) and a row of facts (n, 4); the class is in both, (n,)."""
    draw = generator(seed)
    labels = torch.randint(4, (n,), generator=draw)
    images = 0.3 * torch.randn(n, 1, 8, 8, generator=draw) + (labels // 2)[:, None, None, None]
    facts = 0.3 * torch.randn(n, 4, generator=draw) + (labels % 2)[:, None]
    return (images, facts), labels


class Segmenter(nn.Module):
    """Gives a dict, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.mix, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 2, 1)
        self.aux = nn.Conv2d(12, 2, 1)

    def forward(self, images):
        early = self.norm(self.enter(images)).relu()
        return {"out": self.head(self.mix(early).relu()), "aux": self.aux(early)}


class Regressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(1, 16, 5, padding=2), nn.BatchNorm1d(16)
        self.second, self.head = nn.Conv1d(16, 16, 5, padding=2), nn.Linear(16, 2)

    def forward(self, signals):
        hidden = self.second(self.norm(self.first(signals)).relu()).relu()
        return self.head(hidden.mean(dim=2))


class Labels(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Linear(48, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.first, self.head = nn.Conv1d(12, 16, 3, padding=1), nn.Linear(16, 2)

    def forward(self, tokens):
        hidden = self.first(self.embed(tokens).transpose(1, 2)).relu()
        return self.head(hidden.amax(dim=2))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.facts, self.join = nn.Linear(4, 8), nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, images, facts):
        seen = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        both = torch.cat([seen, self.facts(facts).relu()], dim=1)
        return self.head(self.join(both).relu())


JOBS = {
    "segmentation": (Segmenter, discs, {"metric": "mean_iou", "output": "out"}),
    "regression": (Regressor, curves, {"metric": "r2"}),
    "multilabel": (Labels, several, {"metric": "multilabel_f1"}),
    "text": (Reader, sentences, {"metric": "f1"}),
    "two_inputs": (TwoInputs, pairs, {}),
}
LOSSES = {
    "segmentation": lambda made, wanted: functional.cross_entropy(made["out"], wanted),
    "regression": functional.mse_loss,
    "multilabel": lambda made, wanted: functional.binary_cross_entropy_with_logits(
        made, wanted.float()
    ),
    "text": functional.cross_entropy,
    "two_inputs": functional.cross_entropy,
}


def trained(job: str, steps: int = 80) -> nn.Module:
    """The network of a job, trained for a moment."""
    build, data, _ = JOBS[job]
    inputs, targets = data(160, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build().train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(steps):
            given = inputs if isinstance(inputs, tuple) else (inputs,)
            loss = LOSSES[job](network(*given), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def splits(job: str) -> dict[str, tuple]:
    """Train, validation and test of a job."""
    data = JOBS[job][1]
    return {"train": data(160, 0), "validation": data(80, 1), "test": data(80, 2)}


# -- for the command -------------------------------------------------------------------------------


def of_job(job: str) -> list[tuple]:
    return [JOBS[job][1](80, seed) for seed in range(3)]


DATA = {f"{job}_data": partial(of_job, job) for job in JOBS}
globals().update(DATA)  # "jobs:text_data"


def worst_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().amax(dim=1).mean()


WORST_ERROR = Metric(worst_error, higher_is_better=False, lowest=0.0)


def train_regressor(network: nn.Module, steps: int) -> None:
    signals, numbers = curves(160, 0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        loss = functional.smooth_l1_loss(network(signals), numbers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
