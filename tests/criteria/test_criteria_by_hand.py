"""Criteria on networks of two to four filters, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from prune_gym import CRITERIA, Split
from prune_gym.criteria import Evidence, learning, score_groups
from prune_gym.criteria.connectivity import connections, consumers, like_weight, producers
from prune_gym.criteria.gradients import _to_the_edge
from prune_gym.criteria.masking import FilterMasking
from prune_gym.pruning.groups import find_filter_groups, find_weight_groups


def perceptron(first, second, *, bias=None, act: nn.Module | None = None) -> nn.Module:
    """Two linear layers with given weights."""
    first, second = torch.tensor(first), torch.tensor(second)
    network = nn.Sequential(
        nn.Linear(first.shape[1], first.shape[0], bias=False),
        act or nn.Identity(),
        nn.Linear(second.shape[1], second.shape[0], bias=bias is not None),
    )
    with torch.no_grad():
        network[0].weight.copy_(first)
        network[2].weight.copy_(second)
        if bias is not None:
            network[2].bias.copy_(torch.tensor(bias))
    return network.eval()


def even() -> tuple[nn.Module, Split]:
    """Hidden values h = (1, 2, 3), logits that differ by h . D = 0 with D = (5, -1, -1).

    Softmax gives 1/2 each, so that for label 0 dL/dh = D / 2.
    """
    network = perceptron(
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[-2.5, 0.5, 0.5], [2.5, -0.5, -0.5]]
    )
    return network, Split(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))


def score(name, network, train, *, structure="filter"):
    if structure == "weight":
        groups = find_weight_groups(network)
    else:
        groups = find_filter_groups(network, train.batch(slice(1)))
    return score_groups(network, groups, CRITERIA.get(name), train, seed=0)


def evidence_of(network, train) -> Evidence:
    groups = find_filter_groups(network, train.batch(slice(1)))
    return Evidence.of("mine", network, groups, train, seed=0)


ANY = Split(torch.ones(1, 2), torch.tensor([0]))


def test_bn_scale():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([0.5, -2.0, 0.0]))
    np.testing.assert_array_equal(score("bn_scale", network, ANY), [[0.5, 2.0, 0.0]])


def test_bn_scale_adds_up_over_coupled_layers():
    problem = tiny.make_tiny("residual", criterion="bn_scale")
    network, scores = problem.network, problem.scores[0]
    assert problem.groups[0].producers == ("stem", "blocks.0.conv2", "blocks.1.conv2")
    norms = (network.bn, network.blocks[0].bn2, network.blocks[1].bn2)
    expected = sum(norm.weight.detach().double().abs() for norm in norms)
    np.testing.assert_allclose(scores, expected.numpy())


def test_fpgm():
    network = perceptron([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]], [[1.0, 1.0, 1.0]] * 2)
    np.testing.assert_allclose(score("fpgm", network, ANY), [[4.0, 3.0, 5.0]])


def test_lamp():
    network = perceptron([[1.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, 0.0]], [[1.0] * 4] * 2)
    np.testing.assert_allclose(score("lamp", network, ANY), [[1 / 9, 1 / 2, 1 / 2, 0.0]])


def test_gradient_and_taylor():
    network, train = even()  # dL/dW1 = (2.5, -0.5, -0.5) x (1, 2)
    np.testing.assert_allclose(score("gradient", network, train), [[7.5, 1.5, 1.5]], rtol=1e-6)
    np.testing.assert_allclose(score("taylor", network, train), [[6.25, 1.0, 2.25]], rtol=1e-6)


def test_taylor_squares_before_it_averages():
    network, train = even()
    n = 2 * 32  # the second half has the other label, so that the mean gradient is 0
    both = Split(train.images.repeat(n, 1), (torch.arange(n) >= n // 2).long())
    np.testing.assert_allclose(score("gradient", network, both), [[0.0, 0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(score("taylor", network, both), [[6.25, 1.0, 2.25]], rtol=1e-6)


ACTIVE = Split(
    torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [2.0, -3.0]]), torch.tensor([0, 1, 0, 1])
)


def three_active() -> nn.Module:
    """Hidden neurons ReLU(x1), ReLU(x2), ReLU(-x1 - x2)."""
    first = [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]
    second = [[1.0, 4.0, 0.0], [0.0, -4.0, 4.0]]
    return perceptron(first, second, bias=[0.0, 1.0], act=nn.ReLU())


def test_activation():
    scores = score("activation", three_active(), ACTIVE)
    np.testing.assert_allclose(scores, [[3 / 4, 1 / 4, 2 / 4]])


def test_activation_of_a_flattened_feature_map_behind_a_pooling():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        network[0].bias.zero_()
    images = torch.tensor([[[[1.0, -2.0, -3.0, -4.0], [-1.0, -1.0, -1.0, -1.0]]]])
    scores = score("activation", network, Split(images, torch.tensor([0])))
    np.testing.assert_allclose(scores, [[1 / 2, 1.0]])


def test_relief():
    # mean activity 1, 1/4, 3/4; neuron 0 takes in 1, 1, 0, neuron 1 takes in 0, 1, 3, bias 1
    scores = score("relief", three_active(), ACTIVE)
    np.testing.assert_allclose(scores, [[1 / 2, 1 / 2 + 1 / 5, 3 / 5]])


def as_convolution(weight) -> nn.Module:
    """A 1x1 convolution with given weights, then what makes two classes of it."""
    weight = torch.tensor(weight)
    network = nn.Sequential(
        nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False),
        nn.Flatten(),
        nn.Linear(weight.shape[0], 2, bias=False),
    )
    with torch.no_grad():
        network[0].weight.copy_(weight[:, :, None, None])
    return network.eval()


def test_relief_of_single_weights():
    train = Split(torch.tensor([[1.0, -2.0], [3.0, 2.0]]).view(2, 2, 1, 1), torch.tensor([0, 1]))
    # mean activity of the inputs 2, 2
    scores = score("relief", as_convolution([[1.0, -3.0], [0.0, 5.0]]), train, structure="weight")
    np.testing.assert_allclose(scores, [[1 / 4, 3 / 4, 0.0, 1.0]])


def test_kfac():
    network, train = even()  # whatever label is drawn, g = +-(2.5, 0.5, 0.5); z = (1, 2, 3)
    np.testing.assert_allclose(score("kfac", network, train), [[3.125, 0.5, 1.125]], rtol=1e-6)


def test_kfac_of_single_weights():
    network = as_convolution([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with torch.no_grad():
        network[2].weight.copy_(even()[0][2].weight)
    train = Split(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([0]))
    scores = score("kfac", network, train, structure="weight")  # A = (1, 4), G = (6.25, .25, .25)
    np.testing.assert_allclose(scores, [[3.125, 0, 0, 0.5, 0.125, 0.5]], rtol=1e-6)


def test_kfac_is_the_quadratic_form_of_its_factors():
    """E[z^2] E[g^2] against K-FAC's factors A and G, built from the same pass."""
    network = tiny.build("flat")
    train = Split(*tiny.data_of(16, 1))
    evidence = evidence_of(network, train)
    (found,) = [
        own
        for group, own in zip(evidence.groups, CRITERIA.get("kfac")(evidence), strict=True)
        if group.name == "second"
    ]
    images = train.batch(slice(None))
    inputs: list[torch.Tensor] = []
    handle = network.second.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    logits = network(images)
    handle.remove()
    chances = logits.detach().double().softmax(dim=1).cumsum(dim=1)
    drawn = torch.from_numpy(np.random.default_rng(0).random(16))
    labels = (chances < drawn[:, None] * chances[:, -1:]).sum(dim=1)
    hidden = network.second(inputs[0]).detach().requires_grad_()
    nn.functional.cross_entropy(
        network.classifier(hidden.relu()), labels, reduction="sum"
    ).backward()
    a = torch.cat([inputs[0], torch.ones(16, 1)], dim=1).detach().double()
    w = torch.cat([network.second.weight, network.second.bias[:, None]], dim=1).detach().double()
    factor_a, factor_g = a.T @ a / 16, hidden.grad.double().T @ hidden.grad.double() / 16
    expected = 0.5 * factor_g.diagonal() * ((w @ factor_a) * w).sum(dim=1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_ricci():
    network = perceptron([[1.6], [0.4]], [[1.0, 1.0], [1.0, 1.0]])
    train = Split(torch.ones(1, 1), torch.tensor([0]))
    # per edge, what touches it at the filter, then at its other end
    first_in = 2 * np.sqrt(1.6) + np.sqrt(1.6 / 0.4)
    first_out = (np.sqrt(1 / 1.6) + 1) + 1
    second_in = 2 * np.sqrt(0.4) + np.sqrt(0.4 / 1.6)
    second_out = (np.sqrt(1 / 0.4) + 1) + 1
    expected = [first_in + 2 * first_out, second_in + 2 * second_out]
    np.testing.assert_allclose(score("ricci", network, train)[0], expected, rtol=1e-6)


def test_ricci_of_single_weights():
    train = Split(torch.ones(1, 2, 1, 1), torch.tensor([0]))
    scores = score("ricci", as_convolution([[1.0, 4.0], [0.0, 1.0]]), train, structure="weight")
    # 1 touches 4; 4 touches 1 and 1; the last 1 touches 4; a weight of 0 is no edge
    np.testing.assert_allclose(scores, [[0.5, 4.0, 0.0, 0.5]])


def test_sbp():
    # sensitivities 5, 2, 3, all times one constant: 1 goes first, then 2; 0 is left
    scores = score("sbp", *even())
    np.testing.assert_allclose(scores, [[2 + 1 / 2, 2 / 5 / 2, 1 + 3 / 5 / 2]], rtol=1e-6)


@pytest.mark.parametrize("name", ["residual", "unet", "mobile", "flat"])
def test_layers_on_the_edge_of_chaos(name):
    network = tiny.build(name)
    with torch.no_grad():
        network.classifier.weight[:, 1:] = 0.0  # pruned
    _to_the_edge(network)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            outputs = module.weight.shape[1 if isinstance(module, nn.ConvTranspose2d) else 0]
            fan_in = module.weight.numel() / outputs
            assert fan_in * (module.weight.detach() ** 2).mean().item() == pytest.approx(
                2.0, rel=1e-5
            )


def test_gibbs_draws_the_distribution():
    energy = np.array([0.2, 1.0, 1.4, 3.0])
    generator = np.random.default_rng(0)
    draws = np.mean([learning._draw(generator, energy, 2.0) for _ in range(20_000)], axis=0)
    expected = 1.0 / (1.0 + np.exp(-2.0 * (energy - 1.2)))
    expected[3] = 1.0  # the strongest always stays, lest all be off
    np.testing.assert_allclose(draws, expected, atol=0.02)
    cold = [learning._draw(generator, energy, 1e6) for _ in range(20)]
    np.testing.assert_array_equal(cold, [[0.0, 0.0, 1.0, 1.0]] * 20)


def test_gibbs_energies(monkeypatch):
    monkeypatch.setattr(learning, "GIBBS_RATE", 0.0)
    network = perceptron([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]], [[1.0, 1.0, 1.0]] * 2)
    np.testing.assert_allclose(score("gibbs", network, ANY), [[0.5, 2.0, 0.5]])


def test_gibbs_trains():
    network, train = even()
    assert not np.allclose(score("gibbs", network, train), [[0.75, 0.75, 1.5]], rtol=1e-3)


def test_gates_change_what_is_used_and_nothing_else():
    network, train = even()
    evidence = evidence_of(network, train)
    masking = FilterMasking(evidence)
    factors = masking.factors([np.array([1.0, 0.0, 1.0])])
    before = {name: p.detach().clone() for name, p in evidence.parameters.items()}
    with masking.applied(factors):
        logits = evidence.logits(evidence.images)
        logits.sum().backward()
    assert logits.tolist() == [[-2.5 + 1.5, 2.5 - 1.5]]
    for name, parameter in evidence.parameters.items():
        assert torch.equal(parameter, before[name])
    assert evidence.network[2].weight.grad.tolist() == [[1.0, 0.0, 3.0], [1.0, 0.0, 3.0]]


def test_relchanet_changes(monkeypatch):
    monkeypatch.setattr(learning, "RELCHANET_RATE", 0.0)
    evidence = evidence_of(*even())
    on = [np.ones(3, dtype=bool)]
    # dL/dW2 = (-1/2, 1/2) x (1, 2, 3), over 4 steps
    (changes,) = learning._changes(evidence, FilterMasking(evidence), on)
    np.testing.assert_allclose(changes, [4.0, 8.0, 12.0], rtol=1e-6)


def test_relchanet_candidates_take_turns():
    generator = np.random.default_rng(0)
    entries = np.zeros(10, dtype=np.int64)
    for _ in range(5):
        entries += learning._candidates(generator, entries)
    assert entries.tolist() == [1] * 10


@pytest.mark.parametrize("name", ["residual", "unet", "mobile", "flat"])
def test_ends_of_filters(name):
    network = tiny.build(name)
    for group in find_filter_groups(network, tiny.images_of(1)):
        assert sorted(e.layer for e in producers(network, group)) == sorted(group.producers)
        for end in consumers(network, group):
            module = network.get_submodule(end.layer)
            width = getattr(module, "in_channels", getattr(module, "in_features", None))
            assert end.channels.max() < width
            assert end.layer not in group.producers or module.weight.ndim == 4


def test_connections_of_layers_with_groups():
    for module in (nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)):
        table = connections(module, module.weight)
        assert table.shape == (2, 3, 2, 9)
        back = like_weight(module, table, module.weight)
        assert torch.equal(back.float(), module.weight.detach())
        with torch.no_grad():  # output 4 (group 1, place 1) sees input 2 (group 1, place 0)
            module.weight.zero_()
            module.bias.zero_()
            module.weight.view(-1).copy_(
                like_weight(module, np.eye(1, 108, 1 * 54 + 1 * 18 + 4).reshape(2, 3, 2, 9),
                            module.weight).float().view(-1)
            )  # fmt: skip
        images = torch.zeros(1, 4, 3, 3)
        images[:, 2] = 1.0
        assert module(images).abs().sum(dim=(0, 2, 3)).nonzero().ravel().tolist() == [4]
