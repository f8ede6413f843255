"""An prepared judges as the plain way does, whatever its layout and batch size."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from prune_gym.datasets import Split
from prune_gym.pruning.inference import InferenceLayout, find_layout
from prune_gym.training.evaluation import PreparedSplit, accuracy, largest_batch, logits

LAYOUTS = {
    "plain": InferenceLayout(),
    "channels_last": InferenceLayout(channels_last=True),
    "in_place": InferenceLayout(in_place=True),
}


def split_of(n: int, seed: int = 0) -> Split:
    """Images and labels; the labels are random, so that accuracies differ."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(tiny.N_CLASSES, (n,), generator=generator)
    return Split(tiny.images_of(n, seed), labels)


def pixels_of(n: int, **statistics) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(n) % tiny.N_CLASSES, **statistics)


def layout_of(name: str) -> InferenceLayout:
    return find_layout(tiny.build(name), tiny.images_of(1), "float32")


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_an_exam_is_the_plain_way(name):
    layout, split = layout_of(name), split_of(61)
    prepared = PreparedSplit.of(split, layout, 16)
    scores = set()
    for seed in range(4):
        network = tiny.build(name, seed)
        plain = logits(network, split)
        assert tiny.relative_difference(prepared.logits(network), plain) < 1e-5
        assert prepared.accuracy(network) == accuracy(network, split)
        scores.add(prepared.accuracy(network))
    assert len(scores) > 1  # there is something to tell apart


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_size", [1, 7, 40, 41, 1000, None])
def test_batch_sizes_do_not_matter(layout, batch_size):
    network, split = tiny.build("residual"), split_of(41)
    prepared = PreparedSplit.of(split, LAYOUTS[layout], batch_size)
    found = prepared.logits(network)
    assert found.shape == (41, tiny.N_CLASSES)
    assert tiny.relative_difference(found, logits(network, split, 41)) < 1e-5
    assert prepared.accuracy(network) == accuracy(network, split, batch_size)


def test_accuracy_is_counted_by_hand():
    class Brightest(nn.Module):
        def forward(self, values):
            return values

    values = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 2.0]])
    split = Split(values, torch.tensor([0, 1, 1, 0]))
    network = Brightest().eval()
    assert PreparedSplit.of(split, InferenceLayout(), 3).accuracy(network) == 0.75
    assert accuracy(network, split, 3) == 0.75


@pytest.mark.parametrize(
    "statistics", [{}, {"mean": (0.3,), "std": (0.2,)}], ids=["scaled", "normalised"]
)
def test_pixels_are_normalised(statistics):
    network, split = tiny.build("vgg"), pixels_of(30, **statistics)
    prepared = PreparedSplit.of(split, layout_of("vgg"), 8)
    scaled = split.images.float() / 255.0
    expected = (scaled - 0.3) / 0.2 if statistics else scaled
    torch.testing.assert_close(prepared.images, expected)
    assert tiny.relative_difference(prepared.logits(network), logits(network, split)) < 1e-5
    assert prepared.accuracy(network) == accuracy(network, split)
    assert split.images.dtype == torch.uint8


@pytest.mark.parametrize("channels_last", [False, True])
def test_prepared_images_lie_as_the_form_says(channels_last):
    images = torch.randn(5, 3, 6, 6)
    split = Split(images, torch.zeros(5, dtype=torch.int64))
    prepared = PreparedSplit.of(split, InferenceLayout(channels_last=channels_last))
    assert prepared.images.stride() == ((108, 1, 18, 3) if channels_last else (108, 36, 6, 1))
    assert torch.equal(prepared.images, images)
    assert images.is_contiguous()


def test_prepared_in_parts_is_prepared_at_once(monkeypatch):
    split = Split(torch.randn(9, 3, 6, 6), torch.zeros(9, dtype=torch.int64))
    layout = InferenceLayout(channels_last=True)
    whole = PreparedSplit.of(split, layout)
    monkeypatch.setattr("prune_gym.training.evaluation.BATCH_ELEMENTS", 4 * 3 * 6 * 6)
    parts = PreparedSplit.of(split, layout)
    assert (whole.batch_size, parts.batch_size) == (9, 4)
    assert torch.equal(parts.images, whole.images)
    assert parts.images.stride() == whole.images.stride()


def test_bfloat16_images():
    prepared = PreparedSplit.of(split_of(9), InferenceLayout(precision="bfloat16"))
    assert prepared.images.dtype == torch.bfloat16
    assert prepared.logits(tiny.build("vgg")).dtype == torch.bfloat16


@pytest.mark.parametrize("n", [1, 15, 100, 333])
def test_the_fastest_is_one_of_the_whole_fractions(n):
    prepared = PreparedSplit.of(split_of(n), InferenceLayout())
    network = tiny.build("vgg")
    found = prepared.with_fastest_batch(network)
    fractions = {-(-n // parts) for parts in (1, 2, 4, 8, 16)}
    assert found.batch_size in fractions
    assert found.batch_size >= min(16, n)
    assert found.images is prepared.images
    assert found.labels is prepared.labels
    assert found.layout == prepared.layout
    assert tiny.relative_difference(found.logits(network), prepared.logits(network)) < 1e-5


def test_every_fraction_is_tried_in_turn():
    sizes = []

    class Spy(nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            return images.flatten(1)

    PreparedSplit.of(split_of(64), InferenceLayout()).with_fastest_batch(Spy().eval())
    turn = [64, *[32] * 2, *[16] * 4]
    n_turns = (len(sizes) - 1) // len(turn)
    assert n_turns >= 1
    assert sizes == [16, *turn * n_turns]  # the first one warms up


def test_features_without_channels():
    network = tiny.randomised(
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    )
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    split = Split(values, torch.arange(50) % 3)
    layout = find_layout(network, values[:1], "float32")
    assert layout.folds == (("0", "1"),)
    prepared = PreparedSplit.of(split, layout, 12).with_fastest_batch(network)
    assert tiny.relative_difference(prepared.logits(network), logits(network, split)) < 1e-5
    assert prepared.accuracy(network) == accuracy(network, split)


def test_judging_leaves_mode_and_tensors():
    network, split = tiny.build("vgg"), split_of(20)
    network.train()
    before = tiny.snapshot(network)
    found = PreparedSplit.of(split, layout_of("vgg")).accuracy(network)
    tiny.assert_unchanged(network, before)
    assert found == accuracy(network.eval(), split)


def test_an_exam_does_not_hold_on_to_the_images_handed_in():
    split = split_of(20)
    prepared, network = PreparedSplit.of(split, InferenceLayout()), tiny.build("vgg")
    before = prepared.logits(network)
    split.images.zero_()
    assert torch.equal(prepared.logits(network), before)


def test_the_largest_batch_follows_the_size_of_images():
    assert largest_batch(split_of(40)) == 40
    large = Split(torch.empty(1, 1, 1, 1).expand(600, 3, 32, 32), torch.zeros(600))
    assert largest_batch(large) == 512
    huge = Split(torch.empty(1, 1, 1, 1).expand(3, 3, 2000, 2000), torch.zeros(3))
    assert largest_batch(huge) == 1
