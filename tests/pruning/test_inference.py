"""The layout in which networks are judged is the same function as the plain network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from test_compact import NETWORKS, network_and_images, subject_of
from torch import nn

import prune_gym
from prune_gym.datasets import Split
from prune_gym.errors import UnknownNameError
from prune_gym.pruning.compact import compact
from prune_gym.pruning.inference import InferenceLayout, find_layout
from prune_gym.training.evaluation import PreparedSplit

EXAMPLE = tiny.images_of(1)


class Pair(nn.Module):
    """A layer, a norm, and how they are used."""

    def __init__(self, layer=None, norm=None, use=None) -> None:
        super().__init__()
        self.layer = layer or nn.Conv2d(1, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.use = use or (lambda pair, images: pair.norm(pair.layer(images)))
        self.act = nn.ReLU(inplace=True)

    def forward(self, images):
        return self.use(self, images)


class Viewed(nn.Module):
    """Flattens a map by view(), which needs it to lie channels-first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(64, tiny.N_CLASSES)

    def forward(self, images):
        hidden = self.norm(self.conv(images)).relu()
        return self.classifier(hidden.view(len(images), -1))


class Halving(nn.Module):
    """Works in place on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = tiny.build("vgg")

    def forward(self, images):
        return self.net(images.mul_(0.5))


def pair(layer=None, norm=None, use=None) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Pair(layer, norm, use).eval()
    tracked = getattr(network.norm, "running_mean", None) is not None
    return tiny.randomised(network) if tracked else network


@torch.no_grad()
def assert_same_function(network, example, layout, n=6, tolerance=1e-5) -> None:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(n, *example.shape[1:], generator=generator)
    expected = network(images.clone())
    found = layout.convert(network)(layout.to_layout(images.clone()))
    assert tiny.relative_difference(found, expected) < tolerance


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_form_of_compact_networks_is_the_same_function(name):
    network, images, groups = subject_of(name)
    layout = find_layout(network, images[:1], "float32")
    assert bool(layout.folds) == (name != "dense")  # its norm follows a concatenation
    assert layout.channels_last
    assert not layout.in_place
    assert_same_function(network, images, layout, n=2, tolerance=1e-4)
    seeds = range(3 if name in tiny.BUILDERS else 1)
    for seed in seeds:
        smaller = compact(network, groups, tiny.group_masks(groups, seed)).eval()
        assert_same_function(smaller, images, layout, n=2, tolerance=1e-4)


@pytest.mark.parametrize(("name", "n_folds"), [("small", 8), ("resnet18", 20)])
def test_every_norm_is_folded(name, n_folds):
    network, images, _ = subject_of(name)
    layout = find_layout(network, images[:1], "float32")
    assert len(layout.folds) == len(set(layout.folds)) == n_folds
    norms = [m for m in layout.convert(network).modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == []


FOLDED = {
    "convolution": (None, None, None, EXAMPLE),
    "no bias": (nn.Conv2d(1, 4, 3, bias=False), None, None, EXAMPLE),
    "no affine": (None, nn.BatchNorm2d(4, affine=False), None, EXAMPLE),
    "neither": (nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), None, EXAMPLE),
    "large eps": (None, nn.BatchNorm2d(4, eps=0.5), None, EXAMPLE),
    "groups": (nn.Conv2d(2, 4, 3, groups=2), None, None, torch.randn(1, 2, 8, 8)),
    "1d": (nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), None, torch.randn(1, 2, 9)),
    "3d": (nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), None, torch.randn(1, 1, 5, 6, 7)),
    "linear": (nn.Linear(5, 4), nn.BatchNorm1d(4), None, torch.randn(1, 5)),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folds(case):
    *parts, example = FOLDED[case]
    network = pair(*parts)
    layout = find_layout(network, example, "float32")
    assert layout.folds == (("layer", "norm"),)
    assert layout.channels_last == (example.ndim == 4)
    assert isinstance(layout.convert(network).norm, nn.Identity)
    assert_same_function(network, example, layout)


def also_elsewhere(net, images):
    hidden = net.layer(images)
    return net.norm(hidden) + hidden


def twice_the_layer(net, images):
    return net.norm(net.layer(images)) + net.layer(images + 1.0)


def twice_the_norm(net, images):
    hidden = net.norm(net.layer(images))
    return hidden + net.norm(hidden)


def relu_between(net, images):
    return net.norm(net.act(net.layer(images)))


def relu_function_between(net, images):
    return net.norm(net.layer(images).relu())


def changed_between(net, images):
    hidden = net.layer(images)
    hidden += 1.0
    return net.norm(hidden)


NOT_FOLDED = {
    "used elsewhere": (None, None, also_elsewhere),
    "layer twice": (None, None, twice_the_layer),
    "norm twice": (None, None, twice_the_norm),
    "relu in place": (None, None, relu_between),
    "relu": (None, None, relu_function_between),
    "in place": (None, None, changed_between),
    "no statistics": (None, nn.BatchNorm2d(4, track_running_stats=False), None),
    "another norm": (None, nn.GroupNorm(2, 4), None),
    "transposed": (nn.ConvTranspose2d(1, 4, 2), None, None),
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_what_cannot_be_folded_is_left(case):
    network = pair(*NOT_FOLDED[case])
    layout = find_layout(network, EXAMPLE, "float32")
    assert layout.folds == ()
    assert_same_function(network, EXAMPLE, layout)


def test_one_fold_that_fails_leaves_the_others():
    network = nn.Sequential(pair(), pair(nn.Conv2d(4, 4, 3), use=also_elsewhere)).eval()
    layout = find_layout(network, EXAMPLE, "float32")
    assert layout.folds == (("0.layer", "0.norm"),)
    assert_same_function(network, EXAMPLE, layout)


def test_norms_that_a_recovery_took_out_are_not_missed():
    layout = find_layout(pair(), EXAMPLE, "float32")
    assert layout.folds == (("layer", "norm"),)
    assert_same_function(pair(norm=nn.Identity()), EXAMPLE, layout)


def test_a_viewed_map_lies_channels_first():
    network = tiny.randomised(Viewed())
    layout = find_layout(network, EXAMPLE, "float32")
    assert not layout.channels_last
    assert layout.folds == (("conv", "norm"),)
    assert_same_function(network, EXAMPLE, layout)


@torch.no_grad()
def test_a_network_that_works_in_place_is_recognised():
    network = Halving().eval()
    layout = find_layout(network, EXAMPLE, "float32")
    assert layout.in_place
    assert not find_layout(network.net, EXAMPLE, "float32").in_place
    images, labels = tiny.data_of(10, 3)
    prepared = PreparedSplit.of(Split(images, labels), layout, 4)
    before = prepared.images.clone()
    first = prepared.logits(network)
    assert torch.equal(prepared.logits(network), first)
    assert torch.equal(prepared.images, before)
    assert prepared.with_fastest_batch(network).batch_size == 4
    assert torch.equal(prepared.images, before)
    assert tiny.relative_difference(first, network(images.clone())) < 1e-5


@pytest.mark.parametrize("name", ["vgg", "residual", "flat", "small"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_network_stays_as_it_is(name, precision):
    network, images = network_and_images(name)
    network.train()
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before, modules = tiny.snapshot(network), list(network.named_modules())
    tensors = [t.data_ptr() for t in network.state_dict(keep_vars=True).values()]
    layout = find_layout(network, images[:1], precision)
    judged = layout.convert(network)
    judged(layout.to_layout(images))
    tiny.assert_unchanged(network, before)
    assert [t.data_ptr() for t in network.state_dict(keep_vars=True).values()] == tensors
    pairs = zip(network.named_modules(), modules, strict=True)
    assert all(one[0] == other[0] and one[1] is other[1] for one, other in pairs)
    assert not any(m.training for m in judged.modules() if not isinstance(m, nn.Identity))


@pytest.mark.parametrize("name", [*tiny.BUILDERS, "small", "resnet18"])
@torch.no_grad()
def test_bfloat16_is_near(name):
    network, images, _ = subject_of(name)
    layout = find_layout(network, images[:1], "bfloat16")
    exact = replace(layout, precision="float32")
    found = layout.convert(network)(layout.to_layout(images))
    assert found.dtype == torch.bfloat16
    expected = exact.convert(network)(exact.to_layout(images))
    assert 0.0 < tiny.relative_difference(found.float(), expected) < 0.1


def test_precision_of_a_problem():
    network = tiny.build("vgg")
    plain, rough = (tiny.make_tiny(network, precision=p) for p in ("float32", "bfloat16"))
    masks = tiny.random_masks(plain, 0)
    assert rough.evaluator.validation.images.dtype == torch.bfloat16
    outcome = rough.evaluate(masks)
    assert outcome.accuracy == pytest.approx(plain.evaluate(masks).accuracy, abs=0.1)
    assert {t.dtype for t in outcome.network.parameters()} == {torch.float32}


def test_integer_buffers_keep_their_kind():
    network = tiny.build("vgg")
    layout = InferenceLayout(precision="bfloat16")
    kinds = {name: t.dtype for name, t in layout.convert(network).state_dict().items()}
    assert {kinds[name] for name in kinds if "num_batches" in name} == {torch.int64}
    assert {kinds[name] for name in kinds if "num_batches" not in name} == {torch.bfloat16}


def test_modules_that_say_how_they_are_copied_are_judged_as_they_are():
    class Own(Pair):
        def __getstate__(self):
            return dict(vars(self))

    network = tiny.randomised(Own())
    layout = find_layout(network, EXAMPLE, "float32")
    assert_same_function(network, EXAMPLE, layout)
    judged = layout.convert(network)
    assert judged is not network
    assert judged.layer.weight.data_ptr() != network.layer.weight.data_ptr()


def test_wrong_precisions():
    network = tiny.build("vgg")
    with pytest.raises(UnknownNameError, match=r"unknown precision 'bfloat'. Did you mean 'bfloa"):
        find_layout(network, EXAMPLE, "bfloat")
    with pytest.raises(ValueError, match=r"precision='tf32' on 'cpu': only NVIDIA GPUs have it"):
        find_layout(network, EXAMPLE, "tf32")
    with pytest.raises(ValueError, match=r"unknown precision 'half'.* Known: .*float32"):
        prune_gym.make_problem(precision="half")
