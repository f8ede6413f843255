"""What a black box must not do: change the network, take for ever."""

from __future__ import annotations

import threading

import pytest
import tiny
import torch
from torch import nn

from prune_gym import Budget, BudgetError
from prune_gym.budgets.guard import differences, fingerprint, within


def scale(network) -> None:
    with torch.no_grad():
        network.classifier.weight.mul_(2.0)


def scale_behind(network) -> None:
    network.classifier.weight.data[0, 0] += 1.0


def write_in_inference(network) -> None:
    with torch.inference_mode():
        network.classifier.bias.add_(1.0)


def norm_moves(network) -> None:
    network.train()
    network(tiny.images_of(4))
    network.eval()


def to_double(network) -> None:
    network.double()


def replace(network) -> None:
    network.classifier.bias = nn.Parameter(network.classifier.bias.detach().clone())


def another_layer(network) -> None:
    network.classifier = nn.Linear(8, 3)


def drop(network) -> None:
    network.features[1] = nn.Identity()


def freeze(network) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def turn_behind(network) -> None:
    """The same bits in another order."""
    network.classifier.weight.data = network.classifier.weight.data.flip(0)


def turn_average_behind(network) -> None:
    mean = next(buffer for name, buffer in network.named_buffers() if "running_mean" in name)
    mean.data[:] = mean.data.flip(0)


def set_epsilon(network) -> None:
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eps = 10


def set_forward(network) -> None:
    network.forward = lambda images: images.flatten(1)[:, :3]


def leave_gradients(network) -> None:
    with torch.enable_grad():
        network(tiny.images_of(2)).sum().backward()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (turn_behind, "tensor 'classifier.weight' was written to"),
        (turn_average_behind, r"tensor 'features\.\d+\.running_mean' was written to"),
        (set_epsilon, r"'eps' of module 'features\.\d+' is another"),
        (set_forward, r"module '\(the network\)' is left with another forward"),
        (leave_gradients, r"tensor '.*' is left with a gradient"),
        (scale, "tensor 'classifier.weight' was written to"),
        (scale_behind, "tensor 'classifier.weight' was written to"),
        (write_in_inference, "tensor 'classifier.bias' was written to"),
        (norm_moves, r"tensor 'features\.\d+\.running_mean' was written to"),
        (to_double, r"tensor '.*' has another shape, type, device or requires_grad"),
        (replace, "tensor 'classifier.bias' was replaced"),
        (another_layer, "module 'classifier' is another module"),
        (drop, r"module 'features\.1' is another module"),
        (freeze, "requires_grad"),
        (lambda n: n.train(), r"module '\(the network\)' is in another mode \(train/eval\)"),
        (lambda n: n.classifier.train(), "module 'classifier' is in another mode"),
        (
            lambda n: n.classifier.register_forward_hook(lambda *_: None) and None,
            "module 'classifier' is left with other hooks",
        ),
        (lambda n: n.add_module("extra", nn.ReLU()), "module 'extra' is new"),
        (lambda n: n.register_buffer("seen", torch.zeros(1)), "tensor 'seen' is new"),
        (lambda n: delattr(n, "classifier"), "module 'classifier' is gone"),
    ],
)
def test_a_budget_that_changes_the_network_is_named(change, words):
    def meddling(network):
        change(network)
        return 1.0

    with pytest.raises(BudgetError, match=rf"budget 'meddling' changed the network.*: .*{words}"):
        Budget("meddling", meddling)(tiny.build("vgg"), tiny.images_of(1))


def test_order_is_seen_across_the_chunks_of_a_large_tensor():
    network = nn.Module()
    network.register_buffer("held", torch.arange(600_000, dtype=torch.float32))
    before = fingerprint(network)
    assert differences(before, fingerprint(network)) == ""
    swapped = network.held.data.clone()
    swapped[[5, 2**17 + 5]] = swapped[[2**17 + 5, 5]]
    network.held.data.copy_(swapped)
    assert "'held' was written to" in differences(before, fingerprint(network))


def test_what_a_forward_notes_down_is_no_change():
    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen, self.act = nn.Linear(2, 2), 0, torch.relu

        def forward(self, images):
            self.seen += 1
            self.shape = tuple(images.shape)
            return self.act(self.layer(images))

    network = Noting().eval()
    images = torch.zeros(1, 2)
    assert Budget("runs", lambda n: float(n(images).detach().sum()))(network, images) >= 0.0

    def swap(network):
        network.act = torch.tanh
        return 1.0

    with pytest.raises(BudgetError, match=r"'act' of module '\(the network\)' is another"):
        Budget("swaps", swap)(network, images)


def test_a_forward_that_is_put_back_is_no_change():
    def spy(network):
        kept = network.forward
        network.forward = lambda images: kept(images)
        network.forward = kept
        return 1.0

    assert Budget("spy", spy)(tiny.build("vgg"), tiny.images_of(1)) == 1.0


def test_looking_is_no_change():
    def look(network):
        network.eval()
        with torch.no_grad():
            network(tiny.images_of(2))
        handle = network.classifier.register_forward_hook(lambda *_: None)
        handle.remove()
        return float(network.classifier.weight.detach().abs().sum())

    network = tiny.build("residual")
    assert Budget("look", look)(network, tiny.images_of(1)) > 0.0


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, dtype=torch.float16),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.complex64),
        torch.tensor(True),
        torch.ones(3, 4).t(),
        torch.ones(3, 4).to_sparse(),
        torch.ones(5, dtype=torch.complex64).conj(),
        torch.arange(7, dtype=torch.int16)[1:],
        torch.empty(0, 3),
        torch.ones(2, device="meta"),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tensor.layout} {tensor.device}",
)
def test_tensors_of_every_kind_have_a_fingerprint(tensor):
    network = nn.Module()
    network.register_buffer("held", tensor)
    assert differences(fingerprint(network), fingerprint(network)) == ""


def test_a_network_made_in_inference_mode_has_a_fingerprint():
    with torch.inference_mode():
        network = nn.Linear(2, 2)
    before = fingerprint(network)
    with torch.inference_mode():
        network.weight.zero_()
    assert "'weight' was written to" in differences(before, fingerprint(network))


def test_one_that_hangs_is_named_and_left_behind():
    wake = threading.Event()
    budget = Budget("sleepy", lambda network: wake.wait(60), timeout_s=0.05)
    try:
        with pytest.raises(
            BudgetError,
            match=r"budget 'sleepy': no number after timeout_s=0.05 s; it goes on in the "
            r"background, as Python cannot end it. Mend it, or give it more time",
        ):
            budget(tiny.build("vgg"), tiny.images_of(1))
    finally:
        wake.set()


def test_one_that_is_in_time():
    assert Budget("quick", lambda network: 2, timeout_s=30)(tiny.build("vgg"), None) == 2.0
    with pytest.raises(BudgetError, match="budget 'wrong' raised KeyError: 'gone'"):
        Budget("wrong", lambda network: {}["gone"], timeout_s=30)(tiny.build("vgg"), None)
    assert within(30, lambda: None) is None


def test_arguments_that_do_not_go_together():
    for wrong in ({"in_turns": True}, {"timeout_s": 3.0}, {"compare": lambda a, b, c: 1.0}):
        with pytest.raises(ValueError, match=r"budget 'x': in_turns, compare and timeout_s are"):
            Budget("x", counted=lambda network, example: {}, **wrong)
    with pytest.raises(ValueError, match=r"budget 'x': timeout_s=0 must be above 0, or None"):
        Budget("x", lambda network: 1.0, timeout_s=0)
