"""Five jobs by the command: masks, numbers, several labels, token ids, two inputs.

`prune-gym prune` finds network and data of yours by `module:name`; here the module is this file.
Each job is trained for a moment, and its weights are what the command begins with.
"""

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from prune_gym.cli.main import app


def split(inputs, targets):
    """Train, validation and test, as `--dataset module:name` gives them."""
    rows = torch.arange(len(targets)).split(len(targets) // 3)
    if isinstance(inputs, tuple):
        return [(tuple(tensor[part] for tensor in inputs), targets[part]) for part in rows]
    return [(inputs[part], targets[part]) for part in rows]


def masks():
    """Images of a disc in noise, and a class for each pixel."""
    draw = torch.Generator().manual_seed(0)
    down, right = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    places = torch.randint(4, 12, (240, 2), generator=draw)
    found = (down - places[:, :1, None]) ** 2 + (right - places[:, 1:, None]) ** 2 < 12
    return split(found[:, None] + 0.3 * torch.randn(240, 1, 16, 16, generator=draw), found.long())


def numbers():
    """Signals, and their mean and spread."""
    draw = torch.Generator().manual_seed(0)
    scale, level = torch.rand(2, 240, 1, 1, generator=draw)
    signals = (0.5 + scale) * torch.randn(240, 1, 32, generator=draw) + level
    return split(signals, torch.stack([signals.mean((1, 2)), signals.std((1, 2))], dim=1))


def labels():
    """Images, and which of three corners are bright."""
    draw = torch.Generator().manual_seed(0)
    bright = torch.randint(2, (240, 3), generator=draw)
    images = 0.3 * torch.randn(240, 1, 8, 8, generator=draw)
    for column, (down, right) in enumerate(((0, 0), (0, 4), (4, 0))):
        images[:, 0, down : down + 4, right : right + 4] += bright[:, column, None, None]
    return split(images, bright)


def tokens():
    """Token ids, and whether the word 7 is among them."""
    draw = torch.Generator().manual_seed(0)
    ids, says_so = torch.randint(8, 30, (240, 12), generator=draw), torch.arange(240) % 2
    ids[says_so == 1, 5] = 7
    return split(ids, says_so)


def pairs():
    """An image and a row of facts; the class is half in each."""
    draw = torch.Generator().manual_seed(0)
    classes = torch.arange(240) % 4
    images = 0.3 * torch.randn(240, 1, 8, 8, generator=draw) + (classes // 2)[:, None, None, None]
    facts = 0.3 * torch.randn(240, 4, generator=draw) + (classes % 2)[:, None]
    return split((images, facts), classes)


class Segmenter(nn.Sequential):
    """A class for each pixel."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 1))

    def forward(self, images):
        """Logits (n, 2, height, width) under "out", as torchvision gives them."""
        return {"out": super().forward(images)}


class Regressor(nn.Sequential):
    """Two numbers of a signal."""

    def __init__(self):
        pool = nn.AdaptiveAvgPool1d(1), nn.Flatten()
        super().__init__(nn.Conv1d(1, 16, 5), nn.ReLU(), *pool, nn.Linear(16, 2))


class Tagger(nn.Sequential):
    """Three labels of an image."""

    def __init__(self):
        pool = nn.AvgPool2d(4), nn.Flatten()
        super().__init__(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), *pool, nn.Linear(48, 3))


class Reader(nn.Module):
    """Two classes of a text; the embedding stays whole."""

    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(30, 8), nn.Conv1d(8, 24, 3)
        self.head = nn.Linear(24, 2)

    def forward(self, ids):
        """Logits (n, 2)."""
        return self.head(self.conv(self.embed(ids).transpose(1, 2)).relu().amax(dim=2))


class TwoInputs(nn.Module):
    """Four classes of an image and facts."""

    def __init__(self):
        super().__init__()
        self.conv, self.facts, self.head = nn.Conv2d(1, 8, 3), nn.Linear(4, 8), nn.Linear(16, 4)

    def forward(self, images, facts):
        """Logits (n, 4)."""
        seen = self.conv(images).relu().mean(dim=(2, 3))
        return self.head(torch.cat([seen, self.facts(facts).relu()], dim=1))


JOBS = [
    (Segmenter, masks, ["--metric", "mean_iou", "--output", "out"]),
    (Regressor, numbers, ["--metric", "r2"]),
    (Tagger, labels, ["--metric", "multilabel_f1"]),
    (Reader, tokens, ["--metric", "f1"]),
    (TwoInputs, pairs, []),
]


def trained(build, data):
    """What you have done already: a trained network."""
    inputs, targets = data()[0]
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        outputs = network(*inputs) if isinstance(inputs, tuple) else network(inputs)
        outputs = outputs["out"] if isinstance(outputs, dict) else outputs
        if build is Regressor:
            loss = functional.mse_loss(outputs, targets)
        elif build is Tagger:
            loss = functional.binary_cross_entropy_with_logits(outputs, targets.float())
        else:
            loss = functional.cross_entropy(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


if __name__ == "__main__":
    torch.manual_seed(0)
    here = Path(__file__)
    sys.path.append(str(here.parent))  # the command itself looks in the working folder, too
    with tempfile.TemporaryDirectory() as folder:
        for build, data, task in JOBS:
            weights = f"{folder}/{build.__name__}.safetensors"
            save_file(trained(build, data).state_dict(), weights)
            names = [f"{here.stem}:{build.__name__}", f"{here.stem}:{data.__name__}"]
            command = ["prune", "--network", names[0], "--dataset", names[1], "--weights", weights]
            search = ["--algo", "random", "--timesteps", "30", "--finetune-steps", "20"]
            limit = ["--budget", "params=0.6", "--out", f"{folder}/{build.__name__}"]
            print(f"\nprune-gym {' '.join([*command, *task, *search, *limit])}")
            app([*command, *task, *search, *limit], standalone_mode=False)
