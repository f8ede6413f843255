"""Attention: whole heads go, and numbers in the code of a network follow."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional

import prune_gym
from prune_gym.pruning.attention import SlimAttention
from prune_gym.pruning.compact import compact
from prune_gym.pruning.equivalence import check_compaction
from prune_gym.pruning.groups import find_filter_groups


class Attention(nn.Module):
    """Of queries, keys and values in one layer; how forward() counts heads is to be said."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.num_heads, self.head_dim, self.attn_dim = 4, 3, 12
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 12)

    def forward(self, tokens):
        batch, n, width = tokens.shape
        if self.style == "shape":  # the width of what comes in, over the heads
            split = (batch, n, 3, self.num_heads, width // self.num_heads)
        else:
            split = (batch, n, 3, self.num_heads, self.head_dim)
        queries, keys, values = self.qkv(tokens).reshape(split).permute(2, 0, 3, 1, 4)
        if self.style == "fused":
            made = functional.scaled_dot_product_attention(queries, keys, values)
        else:
            scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
            made = scores.softmax(-1) @ values
        made = made.transpose(1, 2)
        if self.style == "shape":
            return self.proj(made.reshape(batch, n, width))
        if self.style == "number":
            return self.proj(made.reshape(batch, n, self.attn_dim))
        return self.proj(made.flatten(2))


class TorchAttention(nn.Module):
    """torch's own layer."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(12, 4, batch_first=batch_first)

    def forward(self, tokens):
        return self.inner(tokens, tokens, tokens)[0]


class Transformer(nn.Module):
    """Patches, positions, a class token, one block, a norm."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 12, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(torch.randn(1, 5, 12))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(12) for _ in range(3))
        self.attention = attention
        self.one, self.two = nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        tokens = tokens + self.attention(self.norm1(tokens))
        tokens = tokens + self.two(functional.gelu(self.one(self.norm2(tokens))))
        return self.head(self.norm3(tokens)[:, 0])


def transformer(attention) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.randomised(Transformer(attention()))


STYLES = {
    "plain": lambda: Attention("plain"),
    "number": lambda: Attention("number"),
    "fused": lambda: Attention("fused"),
    "torch": TorchAttention,
    "torch, tokens first": lambda: TorchAttention(batch_first=False),
}


@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_heads_channels_and_hidden_units_go(style):
    network, images = transformer(STYLES[style]), tiny.images_of(3)
    groups = find_filter_groups(network, images[:1])
    inner = "attention.inner" if "torch" in style else "attention.qkv"
    assert {g.name: g.n_filters for g in groups} == {"patches": 12, inner: 4, "one": 20}
    check_compaction(network, groups, images[:1])
    for seed in range(3):
        masks = tiny.group_masks(groups, seed)
        smaller = compact(network, groups, masks)
        expected = tiny.masked(network, groups, masks)(images)
        assert tiny.relative_difference(smaller(images), expected) < 1e-5


@torch.no_grad()
def test_heads_go_with_channels_where_code_counts_them_off_the_width():
    network, images = transformer(lambda: Attention("shape")), tiny.images_of(3)
    groups = find_filter_groups(network, images[:1])
    assert {g.name: g.n_filters for g in groups} == {"patches": 4, "one": 20}
    check_compaction(network, groups, images[:1])
    masks = tiny.group_masks(groups, 0)
    expected = tiny.masked(network, groups, masks)(images)
    assert tiny.relative_difference(compact(network, groups, masks)(images), expected) < 1e-5


@torch.no_grad()
def test_numbers_are_saved_and_loaded(tmp_path):
    network = transformer(STYLES["number"])
    split = (tiny.images_of(12), torch.arange(12) % 3)
    problem = prune_gym.make_problem(
        network, train=split, validation=split, budgets={"params": 0.9}
    )
    masks = tiny.group_masks(problem.groups, 1)
    smaller = problem.compact(masks)
    assert smaller.attention.num_heads < 4
    assert smaller.attention.attn_dim == 3 * smaller.attention.num_heads
    prune_gym.save_pruned(tmp_path, smaller, problem, masks)
    loaded = prune_gym.load_pruned(tmp_path, network)
    assert torch.equal(loaded(split[0]), smaller(split[0]))


class Encoder(nn.Module):
    """torch's own encoder, over rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(8, 12)
        layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        return self.head(self.encoder(self.enter(images.flatten(1, 2))).mean(1))


@torch.no_grad()
def test_encoders_of_torch():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.randomised(Encoder())
    images = tiny.images_of(3)
    groups = find_filter_groups(network, images[:1])
    layers = [f"encoder.layers.{i}.{name}" for i in (0, 1) for name in ("self_attn", "linear1")]
    assert {g.name for g in groups} == {"enter", *layers}
    check_compaction(network, groups, images[:1])
    masks = tiny.group_masks(groups, 0)
    expected = tiny.masked(network, groups, masks)
    torch.backends.mha.set_fastpath_enabled(False)  # it does not call the norms of the twin
    try:
        wanted = expected(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert tiny.relative_difference(compact(network, groups, masks)(images), wanted) < 1e-5


class Pair(nn.Module):
    """torch's encoder and decoder, whose width the outermost module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(8, 12), nn.Linear(12, 3)
        self.both = nn.Transformer(12, 4, 1, 1, 20, batch_first=True)

    def forward(self, images):
        rows = self.enter(images.flatten(1, 2))
        return self.head(self.both(rows, rows).mean(1))


class SharedKeys(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(8, n) for n in (12, 6, 6))
        self.head, self.n_heads, self.n_shared = nn.Linear(12, 3), 4, 2

    def forward(self, images):
        rows = images.flatten(1, 2)
        queries = self.queries(rows).view(*rows.shape[:2], self.n_heads, 3).transpose(1, 2)
        keys, values = (
            layer(rows).view(*rows.shape[:2], self.n_shared, 3).transpose(1, 2)
            for layer in (self.keys, self.values)
        )
        made = functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)
        return self.head(made.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize(("kind", "filters"), [(Pair, 12), (SharedKeys, 2)])
@torch.no_grad()
def test_widths_and_shared_heads_follow(kind, filters):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.randomised(kind())
    images = tiny.images_of(3)
    groups = find_filter_groups(network, images[:1])
    assert groups[0].n_filters == filters
    check_compaction(network, groups, images[:1])
    smallest = compact(network, groups, [torch.arange(g.n_filters).numpy() == 0 for g in groups])
    assert smallest(images).shape == (3, 3)


@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_a_slim_attention_does_what_torch_does(batch_first):
    torch_layer = nn.MultiheadAttention(12, 4, batch_first=batch_first).eval()
    slim = nn.MultiheadAttention(12, 4, batch_first=batch_first).eval()
    slim.load_state_dict(torch_layer.state_dict())
    slim.__class__ = SlimAttention
    tokens = torch.randn(2, 5, 12) if batch_first else torch.randn(5, 2, 12)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    causal = torch.ones(5, 5).triu(1).bool()
    for arguments in (
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal},
        {"attn_mask": torch.randn(8, 5, 5), "average_attn_weights": False},
        {"need_weights": False},
    ):
        expected = torch_layer(tokens, tokens, tokens, **arguments)
        found = slim(tokens, tokens, tokens, **arguments)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    one = torch.randn(5, 12)
    torch.testing.assert_close(slim(one, one, one), torch_layer(one, one, one))


class Windows(nn.Module):
    """Attention on windows that code lays out by shapes that it read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.qkv = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 24)
        self.proj, self.head, self.num_heads = nn.Linear(8, 8), nn.Linear(8, 2), 4

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        queries, keys, values = (
            self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        made = (queries @ keys.transpose(-2, -1)).softmax(-1) @ values
        return self.proj(made.transpose(1, 2).reshape(b, n, -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        b, h, w, c = x.shape
        windows = self.norm(x).view(b, h // 2, 2, w, c).reshape(-1, 2 * w, c)
        x = x + self.attend(windows).view(-1, 2, w, c).view(b, h, w, c)
        return self.head(x.reshape(b, -1, c).mean(1))


def test_shapes_that_code_reads_hold_nothing() -> None:
    network, example = Windows().eval(), torch.randn(1, 4, 4, 3)
    groups = find_filter_groups(network, example)
    assert [(group.name, group.n_filters) for group in groups] == [("stem", 8), ("qkv", 4)]
    check_compaction(network, groups, example)


class Conv1D(nn.Module):
    """A linear layer whose inputs come first, as GPT-2 has it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return made.view(x.size()[:-1] + (self.nf,))  # noqa: RUF005


def test_layers_of_gpt2_whose_inputs_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    network = nn.Sequential(Conv1D(8, 4), nn.GELU(), Conv1D(6, 8), nn.Linear(6, 2)).eval()
    example = torch.randn(2, 3, 4)
    groups = find_filter_groups(network, example)
    assert [(group.name, group.n_filters) for group in groups] == [("0", 8), ("2", 6)]
    check_compaction(network, groups, example)
