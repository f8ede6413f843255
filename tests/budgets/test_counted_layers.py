"""Counted budgets of masks are those of the compact network, whatever layers it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from prune_gym.budgets import count
from prune_gym.budgets.resolve import as_budget
from prune_gym.problem.costs import CostModel, measure_unpruned
from prune_gym.pruning.compact import Compaction
from prune_gym.pruning.groups import find_filter_groups
from prune_gym.pruning.sizes import TensorSizes

BUDGETS = ("params", "macs", "size_bytes", "energy_uj")


class Attention(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 16))
        self.other = nn.Linear(16, 12)
        self.is_narrow = "kdim" in options
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **options)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        keys = x[:, :3]
        if self.is_narrow:
            keys = self.other(keys)
        return self.head(self.attention(x, keys, keys)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(4, 16, 3), nn.PReLU(16), nn.Conv1d(16, 12, 3, groups=2))
        self.cells = kind(12, 10, 2, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made, _ = self.cells(self.conv(x).transpose(1, 2))
        return self.head(made[:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.inner = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.inner(self.embed(x)), self.embed.weight)


class Mixer(nn.Module):
    """Layers over tokens, whose positions are channels that may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 16)
        self.tokens = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.channels = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.ConvTranspose3d(8, 6, 2, 2),
        nn.PReLU(6), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 2, 2), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 12, 4, 2, 1, groups=4), nn.Conv2d(12, 2, 1),
    )  # fmt: skip


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    inner = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(6, 16), inner, nn.Linear(16, 3))


CASES = {
    "attention": (Attention, torch.arange(7)[None]),
    "attention without bias": (lambda: Attention(bias=False), torch.arange(7)[None]),
    "widths of its own": (lambda: Attention(kdim=12, vdim=12), torch.arange(7)[None]),
    "encoder": (encoder, torch.randn(1, 5, 6)),
    "lstm": (lambda: Recurrent(nn.LSTM), torch.randn(1, 4, 16)),
    "gru": (lambda: Recurrent(nn.GRU), torch.randn(1, 4, 16)),
    "tied embedding": (Tied, torch.arange(7)[None]),
    "volumes": (volumes, torch.randn(1, 1, 6, 6, 6)),
    "images": (images, torch.randn(1, 3, 6, 6)),
    "mixer": (Mixer, torch.randn(1, 6, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_counts_of_masks_are_those_of_the_compact_network(case: str) -> None:
    make, example = CASES[case]
    network = make().eval()
    groups = find_filter_groups(network, example)
    budgets = [as_budget(name) for name in BUDGETS]
    plan, sizes = Compaction(network, groups, training=False), TensorSizes.of(network, groups)
    unpruned = measure_unpruned(budgets, network, example)
    model = CostModel(network, example, plan, sizes, budgets, unpruned)

    @given(seed=st.integers(0, 1000))
    @settings(max_examples=5, deadline=None)
    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        masks = []
        for group in groups:
            n_kept = rng.integers(1, group.n_filters + 1)
            masks.append(rng.permutation(group.n_filters) < n_kept)
        smaller = plan.network(masks)
        counted = [count(name, smaller, example) for name in BUDGETS]
        np.testing.assert_allclose(model.values(masks), counted, rtol=1e-6)

    check()
