"""Copies of module trees share nothing that could change, and keep every tie."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.nn.utils import prune

from prune_gym.errors import UnsupportedNetworkError
from prune_gym.pruning.compact import compact
from prune_gym.pruning.copying import CopyPlan, own_tensors, rebuild, shallow_copy
from prune_gym.pruning.equivalence import check_compaction
from prune_gym.pruning.groups import find_filter_groups


class Rich(nn.Module):
    """Holds an attribute of every kind that modules have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 4)
        self.register_buffer("scale", torch.full((4,), 2.0))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("shift", None)
        self.steps = [self.first, self.second]
        self.by_name = {"last": self.second}
        self.plain = torch.ones(4)
        self.numbers = [1, 2]
        self.sizes, self.label, self.kind = (4, (5, 4)), "rich", torch.float32
        self.method = self.finish
        self.function = torch.relu
        self.own = {"weights": [self.first.weight]}

    def finish(self, values):
        return values * self.scale * self.hidden + self.plain

    def forward(self, values):
        for step in self.steps:
            values = self.function(step(values))
        return self.method(values)


class Counted(nn.Module):
    """Says itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.n_copies = 0

    def __deepcopy__(self, memo):
        twin = Counted()
        twin.layer = copy.deepcopy(self.layer, memo)
        twin.n_copies = self.n_copies + 1
        return twin

    def forward(self, values):
        return self.layer(values)


class Stateful(nn.Module):
    """Leaves an attribute out of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.notes = ["mine"]

    def __getstate__(self):
        return {**vars(self), "notes": ["copied"]}

    def forward(self, values):
        return self.layer(values)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)
        self.classifier = nn.Linear(6, 3)

    def forward(self, values):
        return self.classifier(self.lstm(values)[0][:, -1])


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def containers(network: nn.Module) -> set[int]:
    """Identities of all that a change in place could reach."""
    found = {id(module) for module in network.modules()}
    for module in network.modules():
        held = [vars(module), *vars(module).values()]
        found |= {id(value) for value in held if isinstance(value, dict | list | set)}
    return found


def addresses(network: nn.Module) -> set[int]:
    tensors = [*own_tensors(network).values()]
    plain = [v for m in network.modules() for v in vars(m).values() if torch.is_tensor(v)]
    return {tensor.data_ptr() for tensor in [*tensors, *plain] if tensor.numel()}


@pytest.fixture(params=[*tiny.BUILDERS, "rich", "recurrent", "tied"])
def network(request):
    own = {"rich": Rich, "recurrent": Recurrent, "tied": tied}
    return own[request.param]().eval() if request.param in own else tiny.build(request.param)


def test_copies_share_nothing_that_can_change(network):
    twin = rebuild(network, {})
    assert not containers(network) & containers(twin)
    assert not addresses(network) & addresses(twin)
    assert repr(twin) == repr(network)


@pytest.mark.parametrize("name", tiny.BUILDERS)
@torch.no_grad()
def test_copies_compute_what_deep_copies_compute(name):
    network = tiny.build(name)
    images = tiny.images_of(5, seed=7)
    assert torch.equal(rebuild(network, {})(images), copy.deepcopy(network)(images))


@pytest.mark.parametrize("name", tiny.BUILDERS)
def test_copies_hold_what_deep_copies_hold(name):
    network = tiny.build(name)
    expected, found = copy.deepcopy(network), rebuild(network, {})
    for one, other in zip(expected.modules(), found.modules(), strict=True):
        assert type(one) is type(other)
        assert vars(one).keys() == vars(other).keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, found.state_dict()[name]), name


def test_attributes_that_cannot_change_are_shared():
    network = Rich()
    twin = rebuild(network, {})
    for name in ("sizes", "label", "kind", "function"):
        assert getattr(twin, name) is getattr(network, name), name


def test_attributes_that_can_change_are_copied_and_point_into_the_copy():
    network = Rich()
    twin = rebuild(network, {})
    assert twin.steps == [twin.first, twin.second]
    assert twin.by_name == {"last": twin.second}
    assert twin.method.__self__ is twin
    assert twin.own["weights"][0] is twin.first.weight
    twin.numbers.append(3)
    twin.plain.zero_()
    assert network.numbers == [1, 2]
    assert torch.equal(network.plain, torch.ones(4))


@torch.no_grad()
def test_changing_a_copy_changes_only_the_copy():
    network, values = Rich().eval(), torch.randn(3, 4)
    before = network(values)
    twin = rebuild(network, {})
    assert torch.equal(twin(values), before)
    for tensor in own_tensors(twin).values():
        tensor.fill_(3.0)
    assert torch.equal(network(values), before)
    assert not torch.equal(twin(values), before)


def test_buffers_of_every_kind():
    twin = rebuild(Rich(), {"scale": torch.zeros(4), "hidden": torch.full((4,), 5.0)})
    assert torch.equal(twin.scale, torch.zeros(4))
    assert torch.equal(twin.hidden, torch.full((4,), 5.0))
    assert twin.nothing is None
    assert twin.shift is None
    assert set(twin.state_dict()) == set(Rich().state_dict())  # `hidden` stays out of it
    assert "hidden" in dict(twin.named_buffers())


def test_tied_parameters_stay_tied_and_are_replaced_together():
    twin = rebuild(tied(), {"0.weight": torch.zeros(2, 4), "0.bias": torch.zeros(2)})
    assert twin[2].weight is twin[0].weight
    assert twin[2].weight.shape == (2, 4)
    assert twin[0].out_features == 2


def test_a_module_that_is_used_twice_is_one_module_in_the_copy():
    layer = nn.Linear(4, 4)
    twin = rebuild(nn.Sequential(layer, nn.ReLU(), layer), {})
    assert twin[0] is twin[2]
    assert twin[0] is not layer


def test_modes_and_requires_grad_come_along_gradients_stay():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network(torch.randn(3, 4)).sum().backward()
    twin = rebuild(network, {"2.weight": torch.ones(2, 4)})
    assert [m.training for m in twin.modules()] == [True, True, False, True]
    assert [p.requires_grad for p in twin.parameters()] == [False, True, True, True, True, True]
    assert all(type(p) is nn.Parameter and p.grad is None for p in twin.parameters())


def test_hooks_that_passes_fire_stay_behind():
    calls = []
    network = nn.Sequential(nn.Linear(4, 2))
    network[0].register_forward_hook(lambda *_: calls.append("forward"))
    network[0].register_forward_pre_hook(lambda *_: calls.append("pre"))
    twin = rebuild(network, {})
    twin(torch.randn(1, 4))
    assert calls == []
    twin[0].register_forward_hook(lambda *_: None)
    assert len(network[0]._forward_hooks) == 1


def test_weights_that_a_hook_computes_are_refused():
    network = nn.Sequential(nn.Linear(4, 4))
    prune.random_unstructured(network[0], "weight", amount=0.5)
    with pytest.raises(UnsupportedNetworkError, match=r"layer '0' is computed by a hook"):
        CopyPlan(network)


@pytest.mark.parametrize("kind", [Counted, Stateful, Recurrent])
@torch.no_grad()
def test_modules_that_say_how_they_are_copied(kind):
    network = kind().eval()
    values = torch.randn(2, 5, 4) if kind is Recurrent else torch.randn(2, 4)
    name = next(iter(network.state_dict()))
    twin = rebuild(network, {})
    assert torch.equal(twin(values), network(values))
    zeroed = rebuild(network, {name: torch.zeros_like(network.state_dict()[name])})
    assert not zeroed.state_dict()[name].any()
    assert not torch.equal(zeroed(values), network(values))
    assert network.state_dict()[name].any()
    assert not {p.data_ptr() for p in network.parameters()} & addresses(twin)


def test_the_words_of_modules_are_heeded():
    assert rebuild(Counted(), {}).n_copies == 1
    assert rebuild(Stateful(), {}).notes == ["copied"]
    inside = rebuild(nn.Sequential(nn.Linear(4, 4), Stateful()), {})
    assert inside[1].notes == ["copied"]


def test_a_computed_tensor_is_refused_with_the_cure():
    network = nn.Sequential(nn.Linear(4, 4))
    network.kept = network(torch.randn(1, 4))
    with pytest.raises(UnsupportedNetworkError, match=r"keep a tensor .*Set it to None first"):
        rebuild(network, {})


def test_two_builds_are_independent():
    network = Rich()
    plan = CopyPlan(network)
    one, other = plan.build({}), plan.build({"first.weight": torch.zeros(3, 4)})
    assert not containers(one) & containers(other)
    assert not addresses(one) & addresses(other)
    assert one.first.out_features == 5
    assert other.first.out_features == 3
    one.numbers.append(9)
    assert other.numbers == plan.build({}).numbers == [1, 2]


def test_channel_counts_follow_the_shapes():
    network = tiny.build("vgg")
    name = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    layer = network.get_submodule(name)
    twin = rebuild(network, {f"{name}.weight": layer.weight[:3], f"{name}.bias": layer.bias[:3]})
    assert twin.get_submodule(name).out_channels == 3
    assert layer.out_channels == 4


# -- shallow copies --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.BUILDERS)
@torch.no_grad()
def test_a_shallow_copy_has_new_modules_around_the_same_tensors(name):
    network = tiny.build(name)
    network.train()
    before = tiny.snapshot(network)
    twin = shallow_copy(network)
    assert addresses(twin) == addresses(network)
    assert not {id(m) for m in twin.modules()} & {id(m) for m in network.modules()}
    assert not any(module.training for module in twin.modules())
    images = tiny.images_of(3)
    expected = copy.deepcopy(network).eval()(images)
    assert torch.equal(twin(images), expected)
    tiny.assert_unchanged(network, before)


def test_replacing_in_a_shallow_copy_leaves_the_original():
    network = tiny.build("vgg")
    before, modules = tiny.snapshot(network), list(network.modules())
    twin = shallow_copy(network)
    twin.classifier._parameters["weight"] = torch.zeros(3, 8)
    twin._modules["features"] = nn.Identity()
    norm = next(m for m in shallow_copy(network).modules() if isinstance(m, nn.BatchNorm2d))
    norm._buffers["running_mean"] = None
    tiny.assert_unchanged(network, before)
    assert all(a is b for a, b in zip(modules, network.modules(), strict=True))


@pytest.mark.parametrize("kind", [Counted, Stateful, Recurrent])
def test_no_shallow_copy_of_modules_that_say_how_they_are_copied(kind):
    assert shallow_copy(kind()) is None
    assert shallow_copy(nn.Sequential(nn.ReLU(), kind())) is None


class Cached(nn.Module):
    """Keeps what it computed of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.scale_cache: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "cpu" not in self.scale_cache:
            self.scale_cache["cpu"] = 2 * self.scale
        return self.head(self.inner(x) * self.scale_cache["cpu"])


def test_what_a_network_computed_and_keeps_stays_behind() -> None:
    network, example = Cached().eval(), torch.randn(1, 4)
    network(example)
    groups = find_filter_groups(network, example)
    smaller = compact(network, groups, [np.arange(8) < 3])
    assert smaller(example).shape == (1, 2)
    check_compaction(network, groups, example)
    assert list(network.scale_cache) == ["cpu"]
