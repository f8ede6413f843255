"""Networks that cannot be pruned, and layers that shall not be: the messages, and `ignore`."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn
from torchvision.models import shufflenet_v2_x0_5

import prune_gym
from prune_gym import UnsupportedNetworkError
from prune_gym.pruning.compact import compact
from prune_gym.pruning.equivalence import check_compaction, half_masks
from prune_gym.pruning.groups import find_filter_groups, find_weight_groups


def sequential(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()


def test_nothing_prunable():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UnsupportedNetworkError, match=r"Sequential has no prunable layer"):
        tiny.make_tiny(network)
    with pytest.raises(UnsupportedNetworkError, match="has no convolution whose weights"):
        find_weight_groups(network)


def test_everything_ignored():
    network = tiny.build("vgg")
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    for ignore in (convolutions, ["features"], [""]):
        with pytest.raises(UnsupportedNetworkError, match=r"or all are in `ignore`"):
            tiny.make_tiny(network, ignore=ignore)
    with pytest.raises(UnsupportedNetworkError, match="has no convolution whose weights"):
        tiny.make_tiny(network, ignore=["features"], structure="weight")


def test_nothing_but_mixed_filters():
    network = sequential(nn.Conv2d(1, 4, 1), nn.Softmax2d())
    with pytest.raises(UnsupportedNetworkError, match=r"Channels are held by _softmax at test_gr"):
        find_filter_groups(network, tiny.images_of(1))


@pytest.mark.parametrize("structure", ["filter", "weight"])
def test_ignored_layers_stay_whole(structure):
    network = tiny.build("vgg")
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    problem = tiny.make_tiny(network, ignore=[convolutions[1]], structure=structure)
    assert [group.name for group in problem.groups] == [convolutions[0], convolutions[2]]


def test_containers_stand_for_their_layers():
    network = tiny.build("residual")
    images = tiny.images_of(1)
    inside = [f"blocks.1.{name}" for name in ("conv1", "bn1", "conv2", "bn2")]
    by_container = find_filter_groups(network, images, ignore=["blocks.1"])
    by_layer = find_filter_groups(network, images, ignore=inside)
    assert [group.producers for group in by_container] == [group.producers for group in by_layer]
    # the shortcut couples the block's last layer to the stem and to blocks.0
    assert [group.name for group in by_container] == [
        "blocks.0.conv1",
        "blocks.2.conv1",
        "blocks.2.conv2",
        "blocks.3.conv1",
    ]


def test_a_norm_protects_what_it_normalises():
    network = tiny.build("vgg")
    first_norm = next(n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d))
    groups = find_filter_groups(network, tiny.images_of(1), ignore=[first_norm])
    assert "features.0" not in [group.name for group in groups]
    assert len(groups) == 2


@pytest.mark.parametrize("structure", ["filter", "weight"])
def test_wrong_names_in_ignore(structure):
    network = tiny.build("vgg")
    with pytest.raises(ValueError, match=r"ignore: .* no layer 'feature.0'\. Did you mean 'featur"):
        tiny.make_tiny(network, ignore=["feature.0"], structure=structure)
    with pytest.raises(
        ValueError, match=r"no layer 'xyz'\. See the names with `\[name for name, _"
    ):
        tiny.make_tiny(network, ignore=["xyz"], structure=structure)
    idle = next(n for n, m in network.named_modules() if isinstance(m, nn.ReLU | nn.MaxPool2d))
    with pytest.raises(ValueError, match=rf"ignore: '{idle}' \(\w+\) has no weights to keep whole"):
        tiny.make_tiny(network, ignore=[idle], structure=structure)


def test_a_network_that_does_not_run_says_why():
    network = sequential(nn.Conv2d(2, 4, 1))
    for structure in ("filter", "weight"):
        with pytest.raises(
            UnsupportedNetworkError, match=r"input of shape \(3, 1, 8, 8\): .*chann"
        ):
            tiny.make_tiny(network, structure=structure)


def test_shuffled_channels_are_followed():
    with torch.random.fork_rng():
        network = tiny.randomised(shufflenet_v2_x0_5(weights=None))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    groups = find_filter_groups(network, images)
    check_compaction(network, groups, images)
    smaller = compact(network, groups, half_masks(groups))
    n_left, n_before = (sum(p.numel() for p in n.parameters()) for n in (smaller, network))
    assert n_left < 0.55 * n_before  # of which the last layer's 1000 outputs are most


class Outputs(nn.Module):
    """Three convolutions in a row; a function says what the network gives out."""

    def __init__(self, given_out) -> None:
        super().__init__()
        self.given_out = given_out
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 5, 3, padding=1)
        self.three = nn.Conv2d(5, 6, 3, padding=1)

    def forward(self, images):
        one = self.norm(self.one(images)).relu()
        two = self.two(one)
        return self.given_out(one, two, self.three(two.relu()))


@pytest.mark.parametrize(
    ("given_out", "prunable"),
    [
        (lambda one, two, three: three, ["one", "two"]),
        (lambda one, two, three: (two, three), ["one"]),
        (lambda one, two, three: (two.relu(), three), ["one"]),
        (lambda one, two, three: {"deep": three, "early": one}, ["two"]),
        (lambda one, two, three: [{"all": (three, None)}, 0.5, two.flatten(1)], ["one"]),
        (lambda one, two, three: (three, one.mean(dim=(2, 3))), ["two"]),
        (lambda one, two, three: torch.cat([one, three], dim=1), ["two"]),
    ],
)
def test_outputs_stay_whole_whatever_holds_them(given_out, prunable):
    network = tiny.randomised(Outputs(given_out))
    groups = find_filter_groups(network, tiny.images_of(1))
    assert [group.name for group in groups] == prunable
    check_compaction(network, groups, tiny.images_of(2))


def test_detached_outputs_stay_whole():
    network = tiny.randomised(Outputs(lambda one, two, three: (three, two.detach())))
    groups = find_filter_groups(network, tiny.images_of(1))
    assert [group.name for group in groups] == ["one"]
    check_compaction(network, groups, tiny.images_of(1))


def test_an_image_as_output():
    network, images = tiny.randomised(tiny.Segmenter()), tiny.images_of(2)
    groups = find_filter_groups(network, images[:1])
    assert {group.name: (group.n_filters, group.producers) for group in groups} == {
        "enter": (4, ("enter", "mix")),
        "down": (6, ("down",)),
        "up": (5, ("up", "mix")),
    }
    masks = tiny.group_masks(groups, 0)
    smaller = compact(network, groups, masks)
    with torch.no_grad():
        found, expected = smaller(images), tiny.masked(network, groups, masks)(images)
    assert found.shape == (2, 3, 16, 16)
    assert tiny.relative_difference(found, expected) < 1e-5


def test_the_network_sees_whole_batches_only():
    """Torch-Pruning alone would first unpack the batch into arguments."""
    seen = []
    network = Outputs(lambda one, two, three: (seen.append(tuple(one.shape)), three)[1]).eval()
    find_filter_groups(network, tiny.images_of(1))
    assert set(seen) == {(1, 4, 8, 8)}


def test_groups_come_in_the_order_of_the_layers(default_problem):
    names = [name for name, _ in default_problem.network.named_modules()]
    places = [names.index(group.name) for group in default_problem.groups]
    assert places == sorted(places)


def test_every_filter_axis_is_covered_once(residual_problem):
    seen = [(cut.tensor, cut.axis) for group in residual_problem.groups for cut in group.slices]
    assert len(seen) == len(set(seen))
    tensors = residual_problem.network.state_dict()
    for group in residual_problem.groups:
        for cut in group.slices:
            assert sorted(cut.positions.ravel()) == list(range(tensors[cut.tensor].shape[cut.axis]))


def test_single_weights_are_groups_of_convolutions(default_problem):
    groups = find_weight_groups(default_problem.network)
    sizes = [group.n_filters for group in groups]
    assert sizes == [
        module.weight.numel()
        for module in default_problem.network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert prune_gym.FilterGroup is type(groups[0])
