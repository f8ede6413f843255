"""Every criterion of the registry on every kind of network: what must hold for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import prune_gym
from prune_gym import CRITERIA, CriterionError, Split
from prune_gym.criteria import learning, score_groups
from prune_gym.pruning.groups import find_filter_groups, find_weight_groups

FILTERS_ONLY = {"activation", "bn_scale", "fpgm", "relchanet"}
DRAWS = {"random", "gibbs", "relchanet", "kfac"}
NEEDS_GRADIENTS = {"gradient", "taylor", "kfac", "sbp", "gibbs", "relchanet"}
EXPECTED = {
    *("l1", "l2", "random", "bn_scale", "gradient", "taylor", "fpgm", "activation", "lamp"),
    *("kfac", "relief", "ricci", "gibbs", "sbp", "relchanet"),
}


class Grouped(nn.Module):
    """Convolutions in groups, whose filters are sets of channels, one of them transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.grouped_norm = nn.BatchNorm2d(12)
        self.up = nn.ConvTranspose2d(12, 8, 2, stride=2, groups=2)
        self.up_norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, tiny.N_CLASSES)

    def forward(self, images):
        hidden = self.norm(self.enter(images)).relu_()
        hidden = self.grouped_norm(self.grouped(hidden)).relu_()
        return self.classifier(self.up_norm(self.up(hidden)).relu_().mean(dim=(2, 3)))


class Perceptron(nn.Sequential):
    """A network of linear layers without norms, on images."""

    def __init__(self) -> None:
        layers = (nn.Linear(64, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.ReLU())
        super().__init__(nn.Flatten(), *layers, nn.Linear(5, tiny.N_CLASSES))


tiny_builders = {**tiny.BUILDERS, "grouped": Grouped, "perceptron": Perceptron}


@pytest.fixture(autouse=True)
def _short_trainings(monkeypatch):
    """What must hold for long trainings holds for short ones."""
    monkeypatch.setattr(learning, "GIBBS_STEPS", 12)
    monkeypatch.setattr(learning, "SWEEPS", 1)


def build(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.randomised(tiny_builders[name]())


def score(name, network, *, structure="filter", seed=0, n=64):
    train = Split(*tiny.data_of(n, 1))
    if structure == "weight":
        groups = find_weight_groups(network)
    else:
        groups = find_filter_groups(network, train.batch(slice(1)))
    return groups, score_groups(network, groups, CRITERIA.get(name), train, seed)


def test_all_are_registered_and_described():
    assert set(CRITERIA.names()) == EXPECTED
    for name, description in CRITERIA.describe().items():
        assert description.endswith("."), name


@pytest.mark.sampled
@pytest.mark.parametrize("network", tiny_builders)
@pytest.mark.parametrize("name", CRITERIA.names())
def test_scores_and_the_network_stays_as_it_is(name, network):
    module = build(network)
    module.train()  # whatever mode it is in ...
    next(module.parameters()).requires_grad_(False)  # ... and what is frozen
    before = tiny.snapshot(module)
    drawn = torch.random.get_rng_state()
    if name == "bn_scale" and network in ("perceptron", "unet", "flat", "mobile", "dense"):
        with pytest.raises(CriterionError, match="no BatchNorm with a scale is behind"):
            score(name, module)
    else:
        groups, scores = score(name, module)
        assert len(scores) == len(groups)
        for group, own in zip(groups, scores, strict=True):
            assert own.shape == (group.n_filters,)
            assert own.dtype == np.float64
            assert np.isfinite(own).all()
        tiny.assert_identical(score(name, module)[1], scores)
        others = score(name, module, seed=1)[1]
        differs = any((a != b).any() for a, b in zip(scores, others, strict=True))
        assert differs == (name in DRAWS)
    tiny.assert_unchanged(module, before)
    assert torch.equal(torch.random.get_rng_state(), drawn)


@pytest.mark.parametrize("network", ["vgg", "residual", "unet", "mobile", "grouped"])
@pytest.mark.parametrize("name", CRITERIA.names())
def test_single_weights(name, network):
    module = build(network)
    before = tiny.snapshot(module)
    if name in FILTERS_ONLY:
        with pytest.raises(CriterionError, match=rf"'{name}' scores whole filters.*structure="):
            score(name, module, structure="weight")
    else:
        groups, scores = score(name, module, structure="weight")
        for group, own in zip(groups, scores, strict=True):
            assert own.shape == (group.n_filters,)
            assert np.isfinite(own).all()
        assert any(own.max() > own.min() for own in scores)
    tiny.assert_unchanged(module, before)


@pytest.mark.sampled
@pytest.mark.parametrize("network", ["vgg", "residual", "grouped", "mobile", "unet"])
@pytest.mark.parametrize("name", sorted(EXPECTED - {"random", "gibbs", "relchanet"}))
def test_permuted_filters_have_permuted_scores(name, network):
    if name == "bn_scale" and network in ("unet", "mobile"):
        pytest.skip("filters without a BatchNorm")
    module = build(network)
    groups, scores = score(name, module)
    turned = build(network)
    tensors = turned.state_dict()
    generator = np.random.default_rng(3)
    orders = [generator.permutation(group.n_filters) for group in groups]
    for group, order in zip(groups, orders, strict=True):
        for cut in group.slices:
            rows = torch.arange(tensors[cut.tensor].shape[cut.axis])
            rows[cut.positions.ravel()] = torch.from_numpy(cut.positions[order].ravel())
            tensors[cut.tensor].copy_(tensors[cut.tensor].index_select(cut.axis, rows))
    images = tiny.images_of(4)
    torch.testing.assert_close(turned(images), module(images), rtol=1e-4, atol=1e-4)
    for order, old, new in zip(orders, scores, score(name, turned)[1], strict=True):
        np.testing.assert_allclose(new, old[order], rtol=2e-3, atol=1e-6 * np.abs(old).max())


@pytest.mark.parametrize("name", sorted(EXPECTED - {"random", "fpgm"}))
@pytest.mark.parametrize("network", ["vgg", "residual", "grouped"])
def test_a_dead_filter_comes_last(name, network):
    module = build(network)
    groups, _ = score("l1", module)
    tensors = module.state_dict()
    for group in groups:
        dead = group.n_filters - 1
        for cut in group.slices:
            if not cut.tensor.endswith("running_var"):
                tensors[cut.tensor].index_fill_(cut.axis, torch.from_numpy(cut.positions[dead]), 0)
    for group, own in zip(groups, score(name, module)[1], strict=True):
        if name == "relchanet":  # scores of a round are relative to who else is present
            assert own[-1] < own[:-1].mean(), group.name
        else:  # others may be dead as well, behind a ReLU
            assert own[-1] == own.min() < own.max(), group.name


@pytest.mark.parametrize("name", sorted(NEEDS_GRADIENTS))
def test_frozen_networks(name):
    module = build("vgg").requires_grad_(False)
    message = rf"'{name}' needs gradients, but no parameter of VGG can be trained.*requires_grad_"
    with pytest.raises(CriterionError, match=message):
        score(name, module)
    module.classifier.weight.requires_grad_(True)  # layers that are frozen are scored, too
    tiny.assert_identical(score(name, module)[1], score(name, build("vgg"))[1])


@pytest.mark.parametrize("name", sorted(EXPECTED - NEEDS_GRADIENTS))
def test_frozen_networks_without_gradients(name):
    module = build("vgg").requires_grad_(False)
    tiny.assert_identical(score(name, module)[1], score(name, build("vgg"))[1])


@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize("name", CRITERIA.names())
def test_few_images(name, n):
    if name == "bn_scale":
        pytest.skip("looks at no images")
    for own in score(name, build("flat"), n=n)[1]:
        assert np.isfinite(own).all()


@pytest.mark.parametrize("name", CRITERIA.names())
def test_in_inference_mode(name):
    with torch.inference_mode():
        inside = score(name, build("vgg"))[1]
    tiny.assert_identical(inside, score(name, build("vgg"))[1])


@pytest.mark.parametrize("name", ["activation", "relief", "sbp", "gibbs", "relchanet"])
def test_filters_that_no_layer_takes_in(name):
    network, train = build("vgg"), Split(*tiny.data_of(8, 1))
    first, *_ = find_filter_groups(network, train.batch(slice(1)))
    lost = replace(first, slices=tuple(cut for cut in first.slices if cut.axis == 0))
    message = rf"'{name}': no convolution or linear layer takes in .*'features.0'.*ignore="
    with pytest.raises(CriterionError, match=message):
        score_groups(network, [lost], CRITERIA.get(name), train, 0)


@pytest.mark.parametrize("name", ["relief", "kfac"])
def test_layers_that_do_not_run(name):
    network = build("vgg")
    network.spare = nn.Conv2d(4, 4, 1)
    with pytest.raises(CriterionError, match=rf"'{name}': layer 'spare' did not run .*ignore="):
        score(name, network, structure="weight")


def test_by_name_through_an_environment():
    import gymnasium as gym

    arguments = {"network": build("vgg"), "dataset": "tiny:cli_dataset", "criterion": "taylor"}
    arguments |= {"budgets": {"params": 0.5}, "batch_size": 40}
    env = gym.make("PruneVGG-v0", **arguments)
    expected = prune_gym.make_problem(**arguments)
    tiny.assert_identical(env.unwrapped.problem.scores, expected.scores)
